"""What data prep makes of shards where the libraries say nothing, or would read something else without a word."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data_prep.layouts.layout import open_source
from components.data_prep.prepare import PrepareResult, prepare
from components.shared.errors import DataError
from components.shared.storage.location import parse_location
from tests.data_prep.building import class_folders, files_of, params, prepared, refusal
from tests.data_prep.shards import listed_in, of_classes, shard, tar_bytes
from tests.peers.object_store import Bucket

TWO = of_classes(0, 1)
TWICE = of_classes(0, 1, 0, 1)


def names(dataset: Path, split: str = "train") -> list[str]:
    return [name for name, _ in listed_in(dataset, split)]


def test_a_compressed_shard_gives_the_same_dataset(tmp_path: Path) -> None:
    for ending in (".tar", ".tar.gz", ".TGZ"):
        folder = tmp_path / ending
        shard(folder / "data" / f"ds-train-000000{ending}", of_classes(*[0, 1] * 20))
        shard(folder / "data" / f"ds-val-000000{ending}", TWO | {"1.jpg.gz": 9, "1.cls": 1})
        prepared(folder / "data")

    datasets = [files_of(tmp_path / ending / "out") for ending in (".tar", ".tar.gz", ".TGZ")]
    assert datasets[0] == datasets[1] == datasets[2]
    assert names(tmp_path / ".tar" / "out", "validation")[-1] == "ds-val-000000/1.jpg.gz"


def test_shards_of_a_bucket_are_fetched_one_by_one_where_the_disk_has_no_room(
    tmp_path: Path, gcs_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, ending in enumerate((".tar", ".tar.gz", ".tar")):
        file = shard(tmp_path / "data" / f"{number}{ending}", of_classes(*[0, 1] * 4))
        gcs_bucket.write(f"photos/{file.name}", file.read_bytes())
    prepared(tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 999, 1))
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("SHUTTERLINE_SCRATCH", str(scratch))

    prepare(data=parse_location(f"{gcs_bucket.uri}/photos"), dataset=tmp_path / "again", params=params())

    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")
    assert list(scratch.iterdir()) == []


def test_names_beside_the_shards_are_the_classes_of_numbers(tmp_path: Path) -> None:
    data = tmp_path / "data"  # as CLIP's benchmark keeps them
    for split in ("train", "test"):
        shard(data / split / "0.tar", of_classes(2, 0, 1))
        (data / split / "nshards.txt").write_text("2\n")
    (data / "classnames.txt").write_text("zebra\ncafé\nant\n", encoding="utf-8")
    assert refusal(data, n_classes=3) == "DATA/train/nshards.txt: says 2 shards, and 1 are there; fetch the others"
    for split in ("train", "test"):
        (data / split / "nshards.txt").write_text("1")

    result = prepared(data, n_classes=3)

    classes = enumerate(("ant", "zebra", "café"))
    assert listed_in(result.dataset) == [(f"train/0/{number:03d}.png", name) for number, name in classes]
    assert result.manifest.classes == ["zebra", "café", "ant"]
    assert result.manifest.left_out.files == {}


@pytest.mark.parametrize(
    ("label", "file", "text"),
    [
        ("dog", "classnames.txt", "cat\ndog\n"),
        ({"class": "dog"}, "classes.txt", "cat\ndog"),
        ({"cls": 1, "class": "dog"}, "class_names.txt", "cat\r\ndog\r\n"),
        (1, "dataset_info.json", json.dumps({"features": {"image": {}, "label": {"names": ["cat", "dog"]}}})),
    ],
)
def test_labels_are_names_or_numbers_of_the_classes_beside(tmp_path: Path, label: Any, file: str, text: str) -> None:
    ending = "json" if isinstance(label, dict) else "cls"
    other = "cat" if label == "dog" else 0
    members = of_classes(label, ending=ending) | of_classes(other, first=1)
    shard(tmp_path / "data" / "train.tar", members)
    shard(tmp_path / "data" / "test.tar", TWO)
    (tmp_path / "data" / file).write_text(text)

    assert listed_in(prepared(tmp_path / "data").dataset) == [("train/000.png", "dog"), ("train/001.png", "cat")]


def test_a_text_is_a_label_only_where_it_names_a_class(tmp_path: Path, log: Callable[[], str]) -> None:
    for split in ("train", "test"):
        members = of_classes("dog\n", "cat", ending="txt") | {"9.png": 1, "9.txt": "a photo of a dog"}
        shard(tmp_path / "data" / f"{split}.tar", members)
    assert "hold no image with a label" in refusal(tmp_path / "data")
    (tmp_path / "data" / "classnames.txt").write_text("cat\ndog\n")
    shard(tmp_path / "data" / "train.tar", members | {"8.png": 1, "8.cls": 1})
    assert "has its class in a .txt, and train/8.png in a .cls or .json" in refusal(tmp_path / "data")
    shard(tmp_path / "data" / "train.tar", members)

    result = prepared(tmp_path / "data")

    assert listed_in(result.dataset) == [("train/000.png", "dog"), ("train/001.png", "cat")]
    assert result.manifest.left_out.images == {"without a label": 2}


def test_names_that_are_there_twice_are_told_apart(tmp_path: Path, log: Callable[[], str]) -> None:
    for split in ("train", "test"):
        shard(tmp_path / "data" / f"{split}.tar", of_classes(0, 1, 2))
    (tmp_path / "data" / "classnames.txt").write_text("missile\ncrane\nmissile\n")

    assert prepared(tmp_path / "data", n_classes=3).manifest.classes == ["missile (0)", "crane", "missile (2)"]
    assert "several classes have one name (missile); their numbers are added to it" in log()


def test_images_that_cannot_be_read_are_set_aside(tmp_path: Path) -> None:
    members = of_classes(*[0, 1] * 3) | {"a.png": b"no image", "a.cls": 0, "b.jxl": b"", "b.cls": 1}
    shard(tmp_path / "data" / "shard.tar.gz", members)

    result = prepared(tmp_path / "data", max_unreadable=0.5)

    assert [(image.file, image.reason[:26]) for image in result.manifest.unreadable] == [
        ("shard/a.png", "is not an image in a known"),
        ("shard/b.jxl", "is a picture of a kind tha"),
    ]


@pytest.mark.parametrize(
    "members",
    [
        {"cat/1.png": 1, "cat/2.png": 2, "dog/1.png": 3, "dog/2.png": 4},
        {"cat/1.png": 1, "notes.json": {"label": 1}, "a.txt": "text"},
        {},
    ],
)
def test_other_archives_are_no_shards(tmp_path: Path, members: dict[str, Any]) -> None:
    class_folders(tmp_path / "data", {"cat": 2, "dog": 2})
    shard(tmp_path / "data" / "backup.tar", members)
    (tmp_path / "data" / "damaged.tar").write_bytes(b"no tar")

    result = prepared(tmp_path / "data")

    assert (result.manifest.source, result.manifest.left_out.files) == ("a folder per class", {".tar": 2})


def test_class_folders_beside_shards_must_be_told_apart(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", {"cat": 2, "dog": 2})
    shard(tmp_path / "data" / "shard.tar", TWICE)

    assert "holds WebDataset shards (--layout webdataset) and a folder per class (--layout folders)" in refusal(
        tmp_path / "data"
    )
    dataset = prepared_as(tmp_path / "data", "webdataset")
    assert dataset.manifest.left_out.images == {"beside shards": 4}


def prepared_as(data: Path, layout: str) -> PrepareResult:
    return prepare(data=data, dataset=data.parent / "out", params=params(), layout=layout)


@pytest.mark.parametrize(
    ("shards", "problem"),
    [
        (["train-0.tar", "extra.tar"], "extra.tar name(s) no split, and train-0.tar does"),
        (["test/0.tar", "val/0.tar"], "has shards of the split(s) test and validation (test/0.tar), and none for"),
        (["train/0.tar", "train/0.tar.gz"], "/train/0.tar.gz: is beside train/0.tar; remove one of the two"),
        (["train/test-0.tar"], "/train/test-0.tar: its path names the splits test and train; rename it"),
    ],
)
def test_shards_whose_split_is_unclear_are_refused(tmp_path: Path, shards: list[str], problem: str) -> None:
    for file in shards:
        shard(tmp_path / "data" / file, TWICE)

    assert problem in refusal(tmp_path / "data")


def changed(members: Any, start: int, new: bytes) -> bytes:
    data = bytearray(tar_bytes(members))
    data[start : start + len(new)] = new
    return bytes(data)


def with_size(size: bytes) -> bytes:
    """A tar whose first header says another size, its checksum right."""
    header = bytearray(tar_bytes(TWICE))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def stored_gzip(data: bytes) -> bytes:
    """Gzip data whose bytes are as they were, so that a test may change one."""
    return gzip.compress(data, compresslevel=0, mtime=0)


WHOLE = tar_bytes(TWICE)
MEMBER = 2 * 512  # a header and content below 512 bytes


def long_header() -> bytes:
    """A PAX header that says it has 8 GiB."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (WHOLE[: 4 * MEMBER], "ends without the mark that a whole tar archive ends with; fetch it again"),
        (WHOLE + tar_bytes(of_classes(1, first=9)), "goes on after its end mark, as archives do that were put one"),
        (changed(TWICE, 4 * MEMBER, b"\1\2\3"), "is damaged at byte 4096 (bad checksum); fetch it again"),
        (with_size(b"\xff" * 12), "is damaged: its headers lead back; fetch it again"),
        (gzip.compress(WHOLE, mtime=0)[:-200], "ends early, after 1"),
        (stored_gzip(WHOLE)[:600] + b"~" + stored_gzip(WHOLE)[601:], "its gzip data cannot be read (CRC check failed"),
        (gzip.compress(long_header() + bytes(4096), mtime=0), "has a header of 8589934592 bytes, and 65536 are read"),
    ],
)
def test_damaged_shards_are_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    shard(tmp_path / "data" / "a.tar", of_classes(0, 1, first=50))
    (tmp_path / "data" / "b.tar").write_bytes(data)

    message = refusal(tmp_path / "data")
    assert message.startswith(f"DATA/b.tar: {problem}") or f"is damaged: {problem}" in message


def test_a_shard_of_several_gzip_parts_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar.gz").write_bytes(gzip.compress(WHOLE[:3000]) + gzip.compress(WHOLE[3000:]))

    assert prepared(tmp_path / "data").counts == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"1.png": 1, "1.cls": 0, "../2.png": 2}, ": the name ../2.png leads out of the shard"),
        ({"1.png": 1, "1.cls": 0, "/2.png": 2}, ": the name /2.png leads out of the shard"),
        ({"1.png": 1, "1.cls": "-1"}, ": 1.cls says -1, and a class's number is between 0 and 2147483647"),
        ({"1.png": 1, "1.cls": ""}, ": 1.cls as the name of a class is empty"),
        ({"1.png": 1, "1.cls": "9" * 5000}, ": 1.cls has 5000 bytes; a label has at most 4096"),
        ({"1.png": 1, "1.cls": "9" * 4000}, ": 1.cls says 9999999999999999999…, and a class's number is between"),
        ({"1.png": 1, "1.cls": "a" * 4000}, ": 1.cls as the name of a class has 4000 characters"),
        ({"1.png": 1, "1.cls": b"\xff\xfe3\0"}, ": 1.cls is neither a whole number nor a name in UTF-8"),
        (
            {"1.png": 1, "1.cls": "cat", "2.png": 2, "2.cls": 3},
            "numbers, such as of b/2.png (3), and names, such as",
        ),
        ({"1.png": 1, "1.cls": 0, "1.json": {"label": 1}}, "the sample 1 has several labels (1.cls: 0, 1.json: 1)"),
        ({"1.png": 1, "1.json": {"label": 1, "cls": 0}}, ": 1.json has several labels (label: 1, cls: 0)"),
        ({"1.png": 1, "1.json": {"label": [1]}}, ": 1.json has a list as label; it is a class's number or its name"),
        ({"1.png": 1, "1.json": {"label": True}}, ": 1.json has true as label"),
        ({"1.png": 1, "1.json": b'{"label": 1, "label": 0}'}, ": 1.json is not JSON: has the key 'label' twice"),
        ({"1.png": 1, "1.json": b"[" * 100_000}, ": 1.json is not JSON: maximum recursion depth exceeded"),
        ({"1.png": 1, "1.json": b'{"label": NaN}'}, ": 1.json has nan as label; it is a class's number or its name"),
        ({"1.png": 1, "1.cls.gz": gzip.compress(bytes(1 << 20))}, "1.cls.gz cannot be unpacked, or to more than 4096"),
        ({"1.png": 1, "1.cls.gz": b"no gzip"}, "1.cls.gz cannot be unpacked, or to more than 4096"),
        ({"1.png": 1, "1.cls": 2}, "/b/1.png: its label is 2, and params say n_classes = 2, which means labels 0 to 1"),
    ],
)
def test_shards_whose_labels_are_unclear_are_refused(tmp_path: Path, members: dict[str, Any], problem: str) -> None:
    shard(tmp_path / "data" / "b.tar", members)

    assert problem in refusal(tmp_path / "data")


@pytest.mark.parametrize(
    ("label", "text", "problem"),
    [
        (2, "cat\ndog\n", "/b/9.png: its label is 2, and DATA/classes.txt has 2 names, cat, dog; correct either"),
        ("cow", "cat\ndog\n", "/b/9.png: its label is cow, and DATA/classes.txt has 2 names, cat, dog; correct either"),
        (0, "cat\n\ndog\n", "/classes.txt, line 2: the name is empty, and must name a class"),
        (0, "cat\ndog\ncow\n", "/classes.txt: names 3 classes, and params say n_classes = 2"),
        (0, b"\xff\xfec", "/classes.txt: cannot be read as class names: 'utf-8' codec can't decode"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path: Path, label: Any, text: str | bytes, problem: str) -> None:
    shard(tmp_path / "data" / "b.tar", TWICE | {"9.png": 1, "9.cls": label})
    (tmp_path / "data" / "classes.txt").write_bytes(text if isinstance(text, bytes) else text.encode())

    assert problem in refusal(tmp_path / "data")


def test_a_class_without_a_training_image_is_refused(tmp_path: Path) -> None:
    shard(tmp_path / "data" / "b.tar", of_classes(0, 10**9))

    with pytest.raises(DataError, match=r"class\(es\) have no training image: 1, 2"):
        open_source(tmp_path / "data")
