"""Worker processes of data prep: the same bytes for any number of them, whatever becomes of one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data_prep.__main__ import main
from components.data_prep.contents import Block, Encoded
from components.data_prep.engine import pool, row_decoder
from components.data_prep.trees import file_tree
from components.shared.artifacts import row_files
from components.shared.artifacts.dataset import UnreadableImage, open_dataset
from components.shared.decoding.images import DecodingMemory
from tests.data_prep.building import files_of, params_json, prepared
from tests.faults.disks import file_size_limit
from tests.shared.decoding.pictures import random_pixels, save

WORKERS = (
    "from components.data_prep.engine import row_decoder; "
    "row_decoder.worker_count = lambda: 2; row_decoder._PAYS_S = 0; "
)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has so many processes decode, from the first image on; 0: none."""
    monkeypatch.setattr(row_decoder, "_PAYS_S", -1)
    monkeypatch.setattr(row_decoder, "_CHUNK_IMAGES", 7)
    monkeypatch.setattr(pool.Pool, "is_ready", lambda self: True)  # waits for them, and decodes no more by itself
    return lambda count: monkeypatch.setattr(row_decoder, "worker_count", lambda: count)


def pictures(data: Path, count: int = 150, seed: int = 0) -> Path:
    """Images of several formats, sizes and modes in two classes; some cannot be read."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        size = rng.integers(1, 40, 2).tolist()
        ending = ("png", "jpg", "bmp", "png")[index % 4]
        file = data / "ab"[index % 2] / f"{index:04d}.{ending}"
        save(file, random_pixels(*size, *([3] if index % 3 else []), seed=index))
        if index % 31 == 5:
            file.write_bytes(file.read_bytes()[:20])
    return data


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """The worker processes of this test that are there."""
    monkeypatch.setenv("SHUTTERLINE_TEST", str(tmp_path))

    def found() -> list[int]:
        processes = [process for process in Path("/proc").iterdir() if process.name.isdigit()]
        return [int(process.name) for process in processes if is_worker(process)]

    def is_worker(process: Path) -> bool:
        with suppress(OSError):
            is_ours = f"SHUTTERLINE_TEST={tmp_path}".encode() in (process / "environ").read_bytes().split(b"\0")
            return is_ours and b"components.data_prep.engine.worker" in (process / "cmdline").read_bytes()
        return False

    return found


def test_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, workers: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(tmp_path / "data")
    monkeypatch.setattr(row_files, "SHARD_BYTES", 11 * 16)
    made = {}
    for count in (0, 1, 2, 5):
        workers(count)
        prepared(data, f"out-{count}", max_unreadable=1)
        made[count] = files_of(tmp_path / f"out-{count}")

    assert made[0] == made[1] == made[2] == made[5]
    assert len(open_dataset(tmp_path / "out-5").splits["train"].shards) > 5
    names = list(open_dataset(tmp_path / "out-5").splits["test"].names() or ())
    assert {name.kind for name in names} == {"PNG RGB", "PNG L", "JPEG RGB", "JPEG L", "BMP RGB", "BMP L"}
    assert len({name.digest for name in names}) == len(names)


def test_workers_decode_every_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        pictures(tmp_path / "data" / split, 30)
    monkeypatch.setattr(row_decoder, "_PAYS_S", -1)
    monkeypatch.setattr(row_decoder, "_CHUNK_IMAGES", 1)
    monkeypatch.setattr(row_decoder, "worker_count", lambda: 2)
    is_ready, decode_alone = pool.Pool.is_ready, row_decoder._Jobs.decode_alone
    asked, alone = [], []

    def ready(of: pool.Pool) -> bool:
        asked.append(of)
        while len(asked) == 1 and not is_ready(of):
            time.sleep(0.01)
        return is_ready(of)

    def counted(jobs: row_decoder._Jobs, job: pool.Job, memory: DecodingMemory | None = None) -> None:
        alone.append(job)
        decode_alone(jobs, job, memory)

    monkeypatch.setattr(pool.Pool, "is_ready", ready)
    monkeypatch.setattr(row_decoder._Jobs, "decode_alone", counted)

    prepared(tmp_path / "data", max_unreadable=1)

    assert len(alone) == 1, "what shows how long the rest takes"


def test_workers_wait_for_images_that_come_more_slowly_than_they_decode(
    tmp_path: Path, workers: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(tmp_path / "data", 40)
    prepared(data, "expected", max_unreadable=1)
    paths = file_tree._paths

    def slowly(*args: Any) -> Iterator[Encoded | Block]:
        for each in paths(*args):
            yield each
            time.sleep(0.03)

    monkeypatch.setattr(file_tree, "_paths", slowly)
    workers(2)
    prepared(data, "out", max_unreadable=1)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")


def crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have worker processes crash at files that hold a certain text, so often in all."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if sys.argv[0] == '-m':\n"
        "    from PIL import Image\n"
        "    opened = Image.open\n"
        "    def open(stream, *args, **kwargs):\n"
        "        stream.seek(0)\n"
        f"        log = {str(tmp_path / 'crashes')!r}\n"
        "        if b'a comment that crashes' in stream.read():\n"
        "            with __builtins__['open'](log, 'a') as file: file.write('x')\n"
        f"            if os.path.getsize(log) <= {times}: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        stream.seek(0)\n"
        "        return opened(stream, *args, **kwargs)\n"
        "    Image.open = open\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "early"))


@pytest.mark.parametrize(("times", "is_set_aside"), [(100, True), (2, False)])
def test_an_image_that_ends_its_process_is_set_aside_alone(
    tmp_path: Path,
    workers: Callable[[int], None],
    left: Callable[[], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    is_set_aside: bool,
) -> None:
    data = pictures(tmp_path / "data", 60)
    expected = prepared(data, "expected", max_unreadable=1).manifest
    save(data / "a" / "0030.gif", random_pixels(8, 8), comment=b"a comment that crashes")
    workers(2)
    crash(tmp_path, monkeypatch, times)

    found = prepared(data, max_unreadable=1).manifest

    culprit = UnreadableImage(file="a/0030.gif", reason="ends the process that decodes it (SIGSEGV)")
    assert (culprit in found.unreadable) is is_set_aside
    assert len(found.unreadable) == len(expected.unreadable) + is_set_aside
    if is_set_aside:
        assert found.splits == expected.splits
    assert left() == []


def test_what_is_too_large_for_a_worker_is_decoded_by_the_main_process(
    tmp_path: Path, workers: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(tmp_path / "data", 30)
    save(data / "a" / "large.png", random_pixels(300, 300))
    prepared(data, "expected", max_unreadable=1)
    alone = []
    of_half_the_free = DecodingMemory.of_half_the_free

    def counted() -> DecodingMemory:
        alone.append(1)
        return of_half_the_free()

    monkeypatch.setattr(DecodingMemory, "of_half_the_free", counted)
    monkeypatch.setattr(pool, "free_memory", lambda: 4 * 1_000_000)  # a million bytes for each of two workers
    workers(2)

    prepared(data, max_unreadable=1)

    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")
    assert len(alone) == 2, "once for all that was decoded until the workers began, once for the large one"


def test_a_full_disk_is_one_line_whichever_process_it_stops(
    tmp_path: Path, workers: Callable[[int], None], left: Callable[[], list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = pictures(tmp_path / "data", 300), tmp_path / "out"
    workers(2)
    with file_size_limit(20_000):
        code = main(
            ["--data", str(data), "--dataset", str(out), "--params", params_json(max_unreadable=1, image_height=60)]
        )

    (line,) = [line for line in capfd.readouterr().err.splitlines() if " ERROR " in line]
    assert code == 1
    assert f"File too large (limit 20,000 bytes): {out}/" in line
    assert files_of(out) == {}
    assert left() == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
)
def test_no_worker_stays_however_the_main_process_ends(
    tmp_path: Path, left: Callable[[], list[int]], number: signal.Signals, code: int
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    picture = save(tmp_path / "picture.png", np.zeros((2500, 2500), np.uint8)).read_bytes()
    for index in range(200):  # some seconds of decoding
        file = data / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
    script = WORKERS + "import sys; from components.data_prep.__main__ import main; sys.exit(main(sys.argv[1:]))"
    words: list[str | Path] = ["--data", data, "--dataset", out, "--params", params_json()]
    with subprocess.Popen([sys.executable, "-c", script, *words], stderr=subprocess.PIPE, text=True) as step:
        while len(left()) < 2:
            assert step.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        step.send_signal(number)
        _, told = step.communicate()

    assert step.returncode == code
    assert "Traceback" not in told
    assert not (out / "dataset.json").exists()
    if number != signal.SIGKILL:
        assert files_of(out) == {}
    deadline = time.monotonic() + 300
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left() == []
