"""Data prep with worker processes, killed at random moments while it replaces a dataset, and run again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from components.shared.artifacts.dataset import DatasetManifest, open_dataset
from components.shared.errors import ArtifactError
from tests.data_prep.building import files_of, params_json
from tests.kill.lives import descendants_of, draws_of, runs
from tests.shared.decoding.pictures import random_pixels, save

pytestmark = pytest.mark.kill

# Workers from the first image on, and files of a few images.
SCRIPT = """
import sys
from components.data_prep.engine import row_decoder
from components.shared.artifacts import row_files
from components.data_prep.__main__ import main

row_decoder.worker_count, row_decoder._PAYS_S, row_files.SHARD_BYTES = lambda: 2, -1, 37 * 64 * 64 * 3
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, of which some cannot be read, so that rows are moved in the end."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(150):
        file = save(folder / "ab"[index % 2] / f"{index}.png", random_pixels(200, 200, 3, seed=index), compress_level=1)
        if index % 50 == 7:
            file.write_bytes(file.read_bytes()[:-9_000])
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of other images."""
    folder = tmp_path_factory.mktemp("earlier")
    for index in range(40):
        save(folder / "data" / "ab"[index % 2] / f"{index}.png", np.full((8, 8), index, np.uint8))
    subprocess.run(command(folder / "data", folder / "out"), check=True, stderr=subprocess.DEVNULL)
    return folder / "out"


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """What an uninterrupted run leaves, and how long it lasts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    start = time.monotonic()
    subprocess.run(command(data, out), check=True, stderr=subprocess.DEVNULL)
    return files_of(out), time.monotonic() - start


def command(data: Path, out: Path) -> list[str | Path]:
    params = params_json(image_height=64, image_width=64, is_image_color=True, max_unreadable=0.1)
    return [sys.executable, "-c", SCRIPT, "--data", data, "--dataset", out, "--params", params]


def found(out: Path) -> DatasetManifest | None:
    """What a reader opens, all files checked; None: there is no whole dataset."""
    try:
        return open_dataset(out).manifest
    except ArtifactError:
        return None


@pytest.mark.parametrize("number", runs(20))
def test_a_killed_data_prep(
    data: Path, earlier: Path, whole: tuple[dict[str, bytes], float], number: int, tmp_path: Path
) -> None:
    expected, life_s = whole
    draws = draws_of("data-prep", number)
    out = copytree(earlier, tmp_path / "out")
    before, seen, workers = open_dataset(out).manifest, set[str](), set[int]()
    for _ in range(draws.randint(1, 3)):
        with subprocess.Popen(command(data, out), stderr=subprocess.DEVNULL) as step:
            end = time.monotonic() + draws.uniform(0, life_s)
            while time.monotonic() < end and step.poll() is None:
                workers |= set(descendants_of(step.pid))
                seen.add("none" if (manifest := found(out)) is None else manifest.source + str(manifest.splits))
                time.sleep(0.05)  # looking costs as much as the step itself
            workers |= set(descendants_of(step.pid))
            step.kill()
    deadline = time.monotonic() + 300
    while (left := [pid for pid in workers if is_there(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []
    subprocess.run(command(data, out), check=True, stderr=subprocess.DEVNULL)

    assert files_of(out) == expected
    after = open_dataset(out).manifest
    allowed = {"none", before.source + str(before.splits), after.source + str(after.splits)}
    assert seen <= allowed


def is_there(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False
