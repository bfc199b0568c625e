"""Parts of data prep joined: byte for byte the dataset of a single run, or a message that says what is wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data_prep import prepare
from components.data_prep.layouts import idx
from components.data_prep.trees import file_tree
from components.shared.decoding.version import decoder_version
from components.shared.step import read_records
from tests.data_prep.building import (
    class_folders,
    files_of,
    idx_folder,
    in_parts,
    info_csv,
    joined,
    params_json,
    run,
    tree,
)
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.object_store import Bucket
from tests.shared.decoding.pictures import random_pixels, save

Log = Callable[[], str]


def mixed(data: Path) -> Path:
    """Class folders with transparent, wide, damaged and mislabelled files, and some that are no images."""
    class_folders(data / "train", {"cat": 6, "dog": 7})
    class_folders(data / "test", {"cat": 2, "dog": 1}, first=100)
    (data / "train" / "cat" / "torn.png").write_bytes((data / "train" / "cat" / "0000.png").read_bytes()[:40])
    (data / "train" / "dog" / "empty.png").write_bytes(b"")
    (data / "train" / "dog" / "notes.txt").write_text("none")
    return tree(data, "train/dog/caf\udce9.png", first=60)


@pytest.mark.parametrize("shards", [1, 2, 4, 7])
def test_parts_join_to_the_dataset_of_a_single_run(tmp_path: Path, shards: int) -> None:
    single, parts = joined(mixed(tmp_path / "data"), shards, max_unreadable=0.5, validation_fraction=0.2)
    assert parts == single


def test_there_may_be_more_parts_than_images(tmp_path: Path) -> None:
    single, parts = joined(class_folders(tmp_path / "data", {"cat": 2, "dog": 2}), 6)
    assert parts == single


@pytest.mark.parametrize("make", [idx_folder, lambda data: info_csv(data / "train", "files,type\na.png,x\nb.png,y\n")])
def test_other_layouts_do_so_too(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    data = tmp_path / "data"
    make(data)
    if (train := data / "train").is_dir():
        rows = [(f"{number}.png", "xy"[number % 2]) for number in range(6)]
        shutil.rmtree(train)
        text = "files,type\n" + "".join(f"{name},{label}\n" for name, label in rows)
        info_csv(train, text, [name for name, _ in rows])
    single, parts = joined(data, 3)
    assert parts == single


def test_blocks_of_other_parts_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "BLOCK_BYTES", 32)
    single, parts = joined(idx_folder(tmp_path / "data"), 3, image_height=5)
    assert parts == single


def test_a_part_says_what_decoded_it_and_depends_on_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = class_folders(tmp_path / "data", {"cat": 6, "dog": 6})
    for number in range(3):
        save(data / "dog" / f"{number}.bmp", random_pixels(4, 4, seed=number))
    made = []
    for order in (list, reversed):
        monkeypatch.setattr(file_tree, "sorted", order, raising=False)
        made.append(files_of(in_parts(data, 1, tmp_path / order.__name__) / "part-0"))
    assert made[0] == made[1]
    monkeypatch.setattr(prepare, "decoder_version", lambda: "another")
    assert run("--merge", tmp_path / "list", "--dataset", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["decoder"] == decoder_version()


def test_how_much_may_be_unreadable_is_decided_of_all_images(tmp_path: Path, log: Log) -> None:
    data = class_folders(tmp_path / "data", {"cat": 5, "dog": 5})
    for number in range(2):
        (data / "cat" / f"000{number}.png").write_bytes(b"torn")
    parts = in_parts(data, 5, tmp_path / "parts", max_unreadable=0.1)
    log()
    assert run("--merge", parts, "--dataset", tmp_path / "out", max_unreadable=0.1) == 2
    assert "2 of 10 images cannot be read (20.00%), and max_unreadable is 10.00%" in log()
    assert files_of(tmp_path / "out") == {}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and its three parts."""
    here = tmp_path_factory.mktemp("three")
    class_folders(here / "data", {"cat": 6, "dog": 6})
    return in_parts(here / "data", 3, here / "parts").parent


def _another(parts: Path, **changes: Any) -> None:
    """The second part made anew, with other params or data."""
    data = changes.pop("data", parts.parent / "data")
    assert run("--data", data, "--dataset", parts / "part-1", "--shard", changes.pop("shard", "1/3"), **changes) == 0


def _renamed(parts: Path) -> None:
    (parts.parent / "data" / "cat" / "0000.png").rename(parts.parent / "data" / "cat" / "9.png")
    _another(parts)


def _added(parts: Path) -> None:
    tree(parts.parent / "data", "dog/new.png")
    _another(parts)


def _edited(parts: Path, **values: Any) -> None:
    file = parts / "part-1" / "part.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _shifted(parts: Path) -> None:
    splits = json.loads((parts / "part-1" / "part.json").read_text())["splits"]
    splits["train"]["start"] -= 1
    _edited(parts, splits=splits)


def _flipped(parts: Path) -> None:
    file = parts / "part-1" / "train" / "images-00000.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: shutil.rmtree(parts / "part-1"), "of 3 parts 1 are missing: 1"),
        (lambda parts: shutil.copytree(parts / "part-0", parts / "part-9"), "part-9: are both part 0"),
        (lambda parts: _another(parts, shard="1/4"), "the one is of 3 parts, the other of 4"),
        (lambda parts: (parts / "part-1" / "part.json").unlink(), "of 3 parts 1 are missing: 1"),
        (_flipped, "part-1/train/images-00000.npy: its SHA-256 is not the manifest's; it is damaged"),
        (_shifted, "part-1/part.json: has another share than it says"),
        (lambda parts: _edited(parts, created_by="shutterline 0.0"), "were made by shutterline"),
        (_renamed, "are of other data: their names or labels of images, or files that are left out, differ"),
        (_added, "are of other data: their images are 12 train, and 13 train"),
        (lambda parts: _another(parts, alpha_background="black"), "were made with other params"),
        (lambda parts: _another(parts, image_fit="pad"), "were made with other params"),
    ],
)
def test_parts_that_do_not_belong_together(
    tmp_path: Path, three: Path, log: Log, change: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    change(tmp_path / "parts")
    log()
    assert run("--merge", tmp_path / "parts", "--dataset", tmp_path / "out") == 2
    told = log()
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_height": 5}, "has images of 4×4 with 1 channel(s), and params say 5×4 with 1 channel(s)"),
        ({"image_interpolation": "box"}, "was made with interpolation bilinear, and params say box"),
        ({"n_classes": 3}, "holds 2 class(es) (cat, dog), and params say n_classes = 3"),
    ],
)
def test_params_other_than_the_parts(tmp_path: Path, three: Path, log: Log, changes: Any, message: str) -> None:
    assert run("--merge", three / "parts", "--dataset", tmp_path / "out", **changes) == 2
    assert message in log()


def test_what_does_not_depend_on_decoding_may_be_other_params(tmp_path: Path, three: Path) -> None:
    changes = {"manual_seed": 5, "validation_fraction": 0.25}
    assert run("--merge", three / "parts", "--dataset", tmp_path / "joined", **changes) == 0
    assert run("--data", three / "data", "--dataset", tmp_path / "single", **changes) == 0
    assert files_of(tmp_path / "joined") == files_of(tmp_path / "single")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "D", "--shard", "4/4"], "must be I/N with I from 0 and below N"),
        (["--data", "D", "--shard", "one"], "must be I/N with I from 0 and below N"),
        (["--merge", "P", "--data", "D"], "--merge joins parts that are made; leave out --data"),
        ([], "the following arguments are required: --data"),
        (["--merge", "nowhere"], "nowhere: there is no such dataset part directory"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, log: Log, options: list[str], message: str) -> None:
    try:
        code = run(*options, "--dataset", tmp_path / "out")
    except SystemExit as error:
        code = int(str(error.code))
    assert (code, message in log()) == (2, True)


def test_a_part_that_is_killed_is_no_part(tmp_path: Path, log: Log) -> None:
    data = class_folders(tmp_path / "data", {"cat": 3, "dog": 3})
    killed = in_parts(data, 2, tmp_path / "parts") / "part-0"
    program = (
        "import os, sys; from components.data_prep.__main__ import main; "
        "from components.shared.artifacts.artifact import ArtifactWriter; "
        "ArtifactWriter.commit = lambda writer, manifest: os.kill(os.getpid(), 9); main(sys.argv[1:])"
    )
    options = ["--data", str(data), "--dataset", str(killed), "--shard", "0/2", "--params", params_json()]
    done = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (killed / "train" / "facts.npy").exists()
    log()
    assert run("--merge", tmp_path / "parts", "--dataset", tmp_path / "out") == 2
    assert "1 are missing: 0" in log()


def test_a_part_has_a_record_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_RECORDS", str(tmp_path / "records"))
    in_parts(class_folders(tmp_path / "data", {"cat": 3, "dog": 3}), 2, tmp_path / "parts")
    records = read_records(tmp_path / "records")
    assert list(records) == ["data-prep-part-0", "data-prep-part-1"]
    assert records["data-prep-part-1"].report == {
        "part": str(tmp_path / "parts" / "part-1"),
        "shard": 1,
        "shards": 2,
        "counts": {"train": 3},
        "unreadable": 0,
    }


def test_parts_in_a_bucket(tmp_path: Path, gcs_bucket: Bucket) -> None:
    data = class_folders(tmp_path / "data", {"cat": 4, "dog": 4})
    where = f"{gcs_bucket.uri}/parts"
    for shard in range(3):
        place = f"{where}/part-{shard}"
        assert run("--data", data, "--dataset", place, "--shard", f"{shard}/3") == 0
    assert run("--merge", where, "--dataset", tmp_path / "joined") == 0
    assert run("--data", data, "--dataset", tmp_path / "single") == 0
    assert files_of(tmp_path / "joined") == files_of(tmp_path / "single")
