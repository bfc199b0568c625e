"""Images of an earlier dataset are not decoded again, and the dataset is byte for byte that of a run from scratch."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data_prep.__main__ import main
from components.data_prep.trees import file_tree
from tests.data_prep.building import class_folders, files_of, params_json, tree
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.object_store import Bucket
from tests.shared.decoding.pictures import plain, random_pixels, save

Log = Callable[[], str]


@pytest.fixture(autouse=True)
def _files_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all files had been written long ago; what is changed in a test has another time all the same."""
    monkeypatch.setattr(file_tree, "_COARSE_NS", 0)


def photos(folder: Path) -> Path:
    """Two classes of five, one image transparent, which is noted, and one torn."""
    class_folders(folder, {"cat": 5, "dog": 5})
    save(folder / "cat" / "clear.png", np.full((4, 4, 4), 9, dtype=np.uint8))
    (folder / "dog" / "torn.png").write_bytes(b"\x89PNG torn")
    return folder


def prepared(data: object, dataset: object, *options: object, **changes: Any) -> None:
    changes = {"max_unreadable": 0.5, **changes}
    words = ["--data", data, "--dataset", dataset, *options]
    assert main([*map(str, words), "--params", params_json(**changes)]) == 0


def used_again(told: str) -> tuple[int, int] | None:
    """How many images were used again, and how many of them were not even read."""
    found = re.search(r"(\d+) of \d+ images are used again, (\d+) of them without", told)
    return (int(found[1]), int(found[2])) if found else None


def _touched(data: Path) -> None:
    os.utime(data / "cat" / "0000.png", (1, 1))


def _changed(data: Path) -> None:
    save(data / "cat" / "0000.png", plain(77))


def _changed_with_its_old_time(data: Path) -> None:
    file = data / "cat" / "0000.png"
    before = file.stat()
    _changed(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_kind(data: Path) -> None:
    """As many images of one kind as of another: what comes first now came last."""
    for number in range(10):
        save(data / "dog" / f"{number}.bmp", random_pixels(4, 4, seed=number))


def _mended(data: Path) -> None:
    save(data / "dog" / "torn.png", plain(88))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: None, (11, 11)),
        (lambda data: tree(data, "dog/new.png", first=99), (11, 11)),
        (
            lambda data: [shutil.copy(data / "cat" / "0000.png", data / "cat" / f"{each}.png") for each in "abc"],
            (14, 11),
        ),
        (lambda data: (data / "cat" / "0000.png").unlink(), (10, 10)),
        (lambda data: (data / "cat" / "0000.png").rename(data / "cat" / "zz.png"), (11, 10)),
        (lambda data: (data / "cat" / "0000.png").rename(data / "dog" / "zz.png"), (11, 10)),
        (_touched, (11, 10)),
        (_changed, (10, 10)),
        (_changed_with_its_old_time, (10, 10)),
        (_mended, (11, 11)),
        (_another_kind, (11, 11)),
    ],
)
def test_what_has_not_changed_is_not_decoded_again(
    tmp_path: Path, log: Log, change: Callable[[Path], object], expected: tuple[int, int]
) -> None:
    data = photos(tmp_path / "data")
    prepared(data, tmp_path / "out")
    time.sleep(0.01)  # beyond the file system's clock
    change(data)
    log()
    prepared(data, tmp_path / "out", validation_fraction=0.2)
    assert used_again(log()) == expected
    prepared(data, tmp_path / "new", validation_fraction=0.2)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")
    log()
    readable = len(list(data.rglob("*.*"))) - (change is not _mended)
    prepared(data, tmp_path / "out", validation_fraction=0.2)
    assert used_again(log()) == (readable, readable)


def test_a_file_that_was_changed_just_now_is_read(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tree, "_COARSE_NS", 3600 * 10**9)
    for _ in range(2):
        log()
        prepared(photos(tmp_path / "data"), tmp_path / "out")
    assert used_again(log()) == (11, 0)


def _edited(dataset: Path, **values: Any) -> None:
    file = dataset / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _flipped(dataset: Path) -> None:
    file = dataset / "train" / "images-00000.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "changes", "why"),
    [
        (_flipped, {}, "images-00000.npy: its SHA-256 is not the manifest's; it is damaged"),
        (lambda out: (out / "train" / "names.jsonl").unlink(), {}, "names.jsonl: is missing"),
        (lambda out: _edited(out, decoder="rules 0"), {}, "what decoded it was rules 0, and is rules 2"),
        (lambda out: _edited(out, decoder=None), {}, "did not record what decoded it"),
        (lambda out: None, {"image_height": 5}, "its images have 4×4 with 1 channel(s), and 5×4 with 1 channel(s)"),
        (lambda out: None, {"image_fit": "pad"}, "image_fit was stretch, and is pad now"),
        (lambda out: None, {"image_interpolation": "box"}, "image_interpolation was bilinear, and is box now"),
        (lambda out: None, {"alpha_background": "black"}, "alpha_background was (255, 255, 255), and is (0, 0, 0) now"),
    ],
)
def test_what_would_be_decoded_otherwise_or_is_damaged_is_not_used(
    tmp_path: Path, log: Log, damage: Callable[[Path], object], changes: Any, why: str
) -> None:
    data, out = photos(tmp_path / "data"), tmp_path / "out"
    prepared(data, out)
    damage(out)
    log()
    prepared(data, out, **changes)
    told = log()
    assert used_again(told) is None
    assert why in told
    prepared(data, tmp_path / "new", **changes)
    assert files_of(out) == files_of(tmp_path / "new")


@pytest.mark.parametrize(
    "changed",
    [lambda stamps: b"", lambda stamps: b"x" * len(stamps), lambda stamps: stamps[:-1] + b"\1", None],
    ids=["empty", "others", "a wrong sum", "of another dataset"],
)
def test_stamps_of_another_dataset_are_none(tmp_path: Path, log: Log, changed: Callable[[bytes], bytes] | None) -> None:
    data, out = photos(tmp_path / "data"), tmp_path / "out"
    prepared(data, out)
    stamps = out / ".stamps"
    if changed is None:
        _edited(out, created_by="somebody else")
    else:
        stamps.write_bytes(changed(stamps.read_bytes()))
    log()
    prepared(data, out)
    assert used_again(log()) == (11, 0)
    prepared(data, tmp_path / "new")
    assert files_of(out) == files_of(tmp_path / "new")


def test_another_dataset_may_be_named(tmp_path: Path, log: Log, gcs_bucket: Bucket) -> None:
    data, where = photos(tmp_path / "data"), f"{gcs_bucket.uri}/earlier"
    prepared(data, where)
    for number, place in enumerate([where, tmp_path / "out-0"]):
        log()
        prepared(shutil.copytree(data, tmp_path / f"copy-{number}"), tmp_path / f"out-{number}", "--reuse", place)
        assert used_again(log()) == (11, 0), "copies, which are read"
    assert files_of(tmp_path / "out-0") == files_of(tmp_path / "out-1")


def test_objects_of_a_bucket_are_known_by_their_versions(tmp_path: Path, log: Log, gcs_bucket: Bucket) -> None:
    for file in photos(tmp_path / "data").rglob("*.png"):
        gcs_bucket.write(f"photos/{file.relative_to(tmp_path / 'data')}", file.read_bytes())
    prepared(f"{gcs_bucket.uri}/photos", tmp_path / "out")
    gcs_bucket.write("photos/cat/0000.png", (tmp_path / "data" / "cat" / "0001.png").read_bytes())
    log()
    prepared(f"{gcs_bucket.uri}/photos", tmp_path / "out")
    assert used_again(log()) == (11, 10)


@pytest.mark.parametrize("kind", ["gztar", "tar", "zip"])
def test_images_in_an_archive_are_known_by_the_archive(tmp_path: Path, log: Log, kind: str) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), kind, photos(tmp_path / "data")))
    prepared(archive, tmp_path / "out")
    log()
    prepared(archive, tmp_path / "out")
    assert used_again(log()) == (11, 11)
    prepared(tmp_path / "data", tmp_path / "new")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


def test_no_dataset_to_be_used_again_is_an_error(tmp_path: Path, log: Log) -> None:
    words = ["--data", photos(tmp_path / "data"), "--dataset", tmp_path / "out", "--reuse", tmp_path / "nowhere"]
    assert main([*map(str, words), "--params", params_json()]) == 2
    assert "nowhere: holds no dataset that could be used again" in log()
