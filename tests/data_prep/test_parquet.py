"""Parquet files by our own rules: which columns count, what is refused or set aside, and memory that stays bounded."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from components.data_prep.contents import Encoded
from components.data_prep.layouts import parquet_file
from components.data_prep.layouts.layout import open_source
from components.shared.errors import DataError
from components.shared.storage.location import parse_location
from tests.data_prep.beside import ours
from tests.data_prep.building import files_of, prepared, refusal, stored
from tests.data_prep.parquet_files import IMAGES, write_parquet
from tests.peers.object_store import Bucket
from tests.shared.decoding.pictures import encoded, plain

Log = Callable[[], str]


def read(data: Path) -> tuple[list[bytes], dict[str, int]]:
    """The contents of the training images that are readable, and how many are not, by the reason."""
    contents: list[bytes] = []
    problems: dict[str, int] = {}
    with open_source(data) as source:
        for each in source.splits["train"].read(range(source.count)):
            assert isinstance(each, Encoded)
            if each.problem:
                problems[each.problem] = problems.get(each.problem, 0) + 1
            else:
                assert isinstance(each.content, bytes)
                contents.append(each.content)
    return contents, problems


def write_columns(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


BYTES = pa.array([b"0", b"1"])
LABELS = pa.array([0, 1])
STRUCTS = pa.array([{"bytes": b"0", "path": "0.png"}] * 2, IMAGES)


@pytest.mark.parametrize(
    ("columns", "images", "labels"),
    [
        ({"thumbnail": BYTES, "IMG": STRUCTS, "Labels": LABELS}, "IMG (by its name; not read: thumbnail)", "Labels"),
        ({"picture": BYTES, "id": LABELS, "class": LABELS}, "picture (it holds bytes)", "class"),
        ({"a.b": BYTES, "labels": LABELS, "label": LABELS}, "a.b (it holds bytes)", "label (by its name; not read"),
    ],
)
def test_columns_are_chosen_by_what_they_hold_and_are_called(
    columns: dict[str, Any], images: str, labels: str, tmp_path: Path, log: Log
) -> None:
    write_columns(tmp_path / "data/train.parquet", **columns)
    assert ours(tmp_path / "data").classes == ["0", "1"]
    logged = log()
    assert f"images are read from the column {images}" in logged
    assert f"labels are read from the column {labels}" in logged


NESTED = pa.array([[{"bytes": b"0", "path": ""}]] * 2, pa.list_(IMAGES))
NOT_UTF8 = pa.array([b"cat", b"d\xffg"]).view(pa.string())


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (
            {"left": BYTES, "right": STRUCTS, "label": LABELS},
            "left (binary), right (struct<bytes: binary, path: string>) could all be the images; call the one that",
        ),
        ({"image": BYTES, "Label": LABELS, "label": LABELS}, "could all be the labels; call the one that counts label"),
        ({"image": NESTED, "label": LABELS}, "has no column of images, which holds their encoded bytes"),
        ({"image": BYTES, "id": LABELS}, "has no column of labels: of whole numbers or texts, and either a ClassLabel"),
        ({"image": BYTES, "label": pa.array([0.0, None])}, "image (binary), label (double); rename the one that"),
        ({"image": BYTES, "label": NOT_UTF8}, "train.parquet: holds a text that is not UTF-8; write it again"),
        ({"image": BYTES, "label": pa.array(["cat", ""])}, "column label, row 1: the class name is empty, and"),
        ({"image": BYTES, "label": pa.array([2**64 - 1, 0], pa.uint64())}, "cannot be read (Integer value 18446744"),
        ({"image": BYTES[:0], "label": LABELS[:0]}, "train.parquet: the train split has no row; remove it, or"),
    ],
)
def test_columns_that_leave_a_doubt_are_refused(columns: dict[str, Any], problem: str, tmp_path: Path) -> None:
    write_columns(tmp_path / "data/train.parquet", **columns)
    assert problem in refusal(tmp_path / "data")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"cat": 0}, "column label: the names of its classes are no list of texts; write it again"),
        (["cat", 3], "column label: the names of its classes are no list of texts; write it again"),
        (["cat", "cat"], "column label: cat is the name of two classes; rename one of them"),
        (["cat", "e\u0301", "\xe9"], "column label: é is the name of two classes; rename one of them"),
        (["cat", "a\nb"], "column label: the class name 'a\\\\nb' holds characters that cannot be printed"),
    ],
)
def test_names_that_are_no_classes_are_refused(names: Any, problem: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train.parquet", [0, 1], names=names)
    assert problem in refusal(tmp_path / "data")


def test_names_without_images_are_no_classes(tmp_path: Path, log: Log) -> None:
    """As of a dataset that was filtered; n_classes counts those that have images."""
    images = [encoded(plain(value), "PNG") for value in range(4)]
    write_parquet(tmp_path / "data/train.parquet", [3, 1, 3, 1], names=["ant", "bee", "cat", "dog"], images=images)
    assert "holds 2 class(es) (bee, dog), and params say n_classes = 4" in refusal(tmp_path / "data", n_classes=4)
    result = prepared(tmp_path / "data")
    assert result.manifest.classes == ["bee", "dog"]
    assert "2 class(es) have no training image, and are left out: ant, cat" in log()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def point(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")


def encrypt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


def lengthen(path: Path) -> None:
    """A footer of a terabyte would need four bytes more; of 64 MB it is, of zeros that are on no disk."""
    with path.open("r+b") as stream:
        stream.truncate(64 * 1024**2)
        stream.seek(0, 2)
        stream.write((50 * 1024**2).to_bytes(4, "little") + b"PAR1")


def announce(path: Path) -> None:
    """A million rows of no image and one label are two kilobytes."""
    count = 1_000_000
    write_columns(path, image=pa.nulls(count, pa.binary()), label=pa.repeat(pa.scalar(0), count))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut, "DATA/train.parquet: ends early, or is damaged: its footer is not whole; fetch it again"),
        (lambda path: path.write_bytes(b""), "DATA/train.parquet: is not a Parquet file: it does not begin with PAR1"),
        (point, "DATA/train.parquet: is a pointer of Git LFS; fetch the file itself by git lfs pull"),
        (encrypt, "DATA/train.parquet: is encrypted, and is not read; write it without encryption"),
        (lengthen, "DATA/train.parquet: has a footer of 52428800 bytes; 33554432 is most: write fewer row groups"),
        (announce, "DATA/train.parquet: announces 1000000 rows, which its"),
    ],
)
def test_files_that_are_not_whole_are_refused(damage: Callable[[Path], Any], problem: str, tmp_path: Path) -> None:
    damage(write_parquet(tmp_path / "data/train.parquet", [0, 1]))
    assert refusal(tmp_path / "data").startswith(problem)


def test_a_damaged_row_group_costs_no_other(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data/train.parquet", [0, 1] * 4, row_group_size=2, compression="zstd")
    content = path.read_bytes()
    at = content.index(b"train 2") - 8  # within its second page of images
    path.write_bytes(content[:at] + b"\xff" * 4 + content[at + 4 :])
    contents, problems = read(tmp_path / "data")
    assert contents == [f"train {row}".encode() for row in (0, 1, 4, 5, 6, 7)]
    ((problem, count),) = problems.items()
    assert problem.startswith("row group 1 cannot be read (ZSTD decompression failed")
    assert count == 2


def test_a_disk_that_fails_is_an_error_and_no_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    write_parquet(tmp_path / "data" / "train.parquet", [0, 1, 0, 1])
    with open_source(tmp_path / "data") as source:
        monkeypatch.setattr(parquet_file, "_open", fails)
        with pytest.raises(DataError, match=r"train\.parquet: cannot be read .*Input/output error"):
            list(source.splits["train"].read(range(4)))


def test_bytes_changed_at_random_end_in_a_refusal_or_a_reason(tmp_path: Path) -> None:
    """What contradicts itself in a footer makes pyarrow 25 end the process where it is asked for details of columns."""
    path = write_parquet(tmp_path / "data/train.parquet", ["cat", "dog"] * 10, row_group_size=10)
    content, generator = path.read_bytes(), np.random.default_rng(5)
    ends: dict[str, int] = {}
    for at, value in zip(generator.integers(len(content), size=150), generator.bytes(150), strict=True):
        path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
        try:
            end = "set aside" if read(tmp_path / "data")[1] else "read"
        except DataError as error:
            end = "refused" if str(error).startswith(f"{path}") else f"{error}"
        ends[end] = ends.get(end, 0) + 1
    assert ends.keys() == {"read", "refused", "set aside"}, ends


def peak_growth(work: Callable[[], object]) -> int:
    """By how many bytes the process's memory grew at most; the kernel's peak is reset before."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def test_memory_grows_with_what_is_stored_and_never_with_what_is_announced(tmp_path: Path) -> None:
    """A page of zeros is not inflated, an image of 100 rows is there once, and a row group is read page by page."""
    bomb, repeated, large = (tmp_path / name / "train.parquet" for name in ("bomb", "repeated", "large"))
    plainly: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    write_parquet(bomb, [0, 1], images=[bytes(40 * 1024**2)] * 2, **plainly | {"compression": "zstd"})
    write_parquet(repeated, [0, 1] * 50, images=[os.urandom(1024**2)] * 100, dictionary_pagesize_limit=2**30)
    write_parquet(large, [0, 1] * 10_000, images=[os.urandom(4000) for _ in range(20_000)], **plainly)
    seen: dict[Path, list[Any]] = {}

    def read_lengths(path: Path) -> None:
        with open_source(path.parent) as source:
            read = source.splits["train"].read(range(source.count))
            seen[path] = [each.problem or len(each.content) for each in read if isinstance(each, Encoded)]

    for path in (bomb, repeated, large):
        pa.default_memory_pool().release_unused()  # what writing took
        assert peak_growth(partial(read_lengths, path)) < 64 * 1024**2, path
    assert seen[repeated] == [1024**2] * 100
    assert seen[large] == [4000] * 20_000
    (problem,) = set(seen[bomb])
    assert "that inflates to 83886094; at most 8 times as many, or 67108864" in problem


def test_any_rows_are_read_in_order_and_no_other_row_group_is_opened(tmp_path: Path) -> None:
    """As where most of the data were read before."""
    path = write_parquet(tmp_path / "data/train-0.parquet", [0, 1] * 50, row_group_size=10)
    write_parquet(tmp_path / "data/train-1.parquet", [0, 1] * 50, row_group_size=10)
    content = path.read_bytes()
    with open_source(tmp_path / "data") as source:
        split = source.splits["train"]
        at = content.index(b"train-0 20")
        path.write_bytes(content[: at - 100] + b"\xff" * 200 + content[at + 100 :])
        found = list(split.read([171, 3, 99, 100]))
        assert [(each.position, each.content) for each in found if isinstance(each, Encoded)] == [
            (3, b"train-0 3"),
            (99, b"train-0 99"),
            (100, b"train-1 0"),
            (171, b"train-1 71"),
        ]
        assert split.names[171] == "train-1.parquet/71"
        assert list(split.names[98:102]) == ["train-0.parquet/98", "train-0.parquet/99", *split.names[100:102]]


def test_parquet_becomes_the_dataset_that_its_images_are(tmp_path: Path, log: Log) -> None:
    """Names are the file and the row; what cannot be decoded is set aside by them."""
    images = [encoded(plain(value), "PNG") for value in range(12)]
    images[5] = b"no image"
    for split, rows in {"train": range(8), "test": range(8, 12)}.items():
        of_split = [images[row] for row in rows]
        write_parquet(
            tmp_path / f"data/data/{split}-00000-of-00001.parquet", [0, 1] * (len(rows) // 2), images=of_split
        )
    result = prepared(tmp_path / "data", max_unreadable=0.3)
    pixels, labels = stored(result.dataset, "train")
    assert [int(image.flat[0]) for image in pixels] == [0, 1, 2, 3, 4, 6, 7]
    assert labels == [0, 1, 0, 1, 0, 0, 1]
    assert stored(result.dataset, "test")[1] == [0, 1, 0, 1]
    assert [image.file for image in result.manifest.unreadable] == ["data/train-00000-of-00001.parquet/5"]
    assert result.report()["source"] == "Parquet files"


def test_files_of_a_bucket_are_fetched_one_by_one_where_the_disk_has_no_room(
    tmp_path: Path, gcs_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [encoded(plain(value), "PNG") for value in range(8)]
    for number in range(2):
        file = write_parquet(tmp_path / f"data/train-{number}.parquet", [0, 1] * 2, images=images[4 * number :][:4])
        gcs_bucket.write(f"photos/{file.name}", file.read_bytes())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 999, 1))
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("SHUTTERLINE_SCRATCH", str(scratch))
    with open_source(parse_location(f"{gcs_bucket.uri}/photos")) as source:
        assert files_of(scratch) == {}
        kept = [(each, len(files_of(scratch))) for each in source.splits["train"].read(range(source.count))]
    assert [each.content for each, _ in kept if isinstance(each, Encoded)] == images
    assert [count for _, count in kept] == [1] * 8
    assert files_of(scratch) == {}
