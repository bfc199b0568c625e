from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import BAD_INPUT
from tests.data_prep.building import IMAGES, LABELS, class_folders, idx_bytes, idx_folder, info_csv, refusal, tree
from tests.shared.decoding.pictures import plain, save

Make = Callable[[Path], object]
# What makes the data folder in an empty folder, and what the message says.
BadData = list[tuple[Make, str]]

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_IMAGES, IDX_LABELS = idx_bytes(IMAGES), idx_bytes(LABELS)
GZIPPED = gzip.compress(IDX_IMAGES)
DAMAGED = GZIPPED[:50] + bytes(value ^ 0xFF for value in GZIPPED[50:54]) + GZIPPED[54:]
HUGE = idx_bytes(IMAGES, dims=(2**32 - 1,) * 3)
GOOD_ROWS = "files,type\n0.png,cat\n1.png,cat\n2.png,dog\n3.png,dog\n"
FOUR = ("0.png", "1.png", "2.png", "3.png")


def _files(*files: str) -> Make:
    return lambda data: tree(data, *files)


def _idx(change: Make) -> Make:
    return lambda data: change(idx_folder(data))


def _idx_file(name: str, content: bytes) -> Make:
    def replace(data: Path) -> None:
        (data / name.removesuffix(".gz")).unlink(missing_ok=True)
        (data / name).write_bytes(content)

    return _idx(replace)


def _images(content: bytes, end: str = "") -> Make:
    return _idx_file(TRAIN_IMAGES + end, content)


def _labels(content: bytes, end: str = "") -> Make:
    return _idx_file(TRAIN_LABELS + end, content)


def _folders(change: Make) -> Make:
    return lambda data: change(class_folders(data, {"cat": 3, "dog": 3}))


def _table(text: str | bytes, change: Make = lambda _: None) -> Make:
    def make(data: Path) -> None:
        train = info_csv(data / "train", "", FOUR)
        (train / "info.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        change(train)

    return make


def _row(row: str, change: Make = lambda _: None) -> Make:
    return _table(f"{GOOD_ROWS}{row}\n", change)


def _test_table(train: Path) -> Path:
    return info_csv(train.parent / "test", "files,type\nx.png,cat\n")


def _linked_outside(name: str, target: str = "") -> Make:
    def link(folder: Path) -> None:
        outside = next(parent for parent in folder.parents if parent.name == "in") / "outside"
        save(outside / "x.png", plain(1))
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / target)

    return link


def _instead(name: str, make: Make) -> Make:
    def replace(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return replace


def _archive(data: Path) -> None:
    data.rmdir()
    data.write_bytes(b"PK\x03\x04")


LAYOUT: BadData = [
    (lambda data: data.rmdir(), "DATA: there is no such data folder"),
    (_archive, "DATA: is a file of no kind that holds data; an archive's name ends in .tar"),
    (_files(), "(it holds nothing); it may be IDX files"),
    (_files("emnist.mat"), "in a layout that is known (it holds emnist.mat)"),
    (_files("dataset.json"), "is a dataset directory already; give it to train as it is"),
    (_files("train/x.png"), "in a layout that is known (it holds train/)"),
    (
        lambda data: (data / "list.csv").write_text("x.png,cat\n"),
        "list.csv would be a manifest with a first line such as file_name,label",
    ),
    (
        _idx(_files("cat/×3.png", "dog/×3.png")),
        "holds IDX files (--layout idx) and a folder per class (--layout folders), and it must be clear",
    ),
    (
        _table(GOOD_ROWS, lambda train: tree(train.parent, "cat/×3.png", "dog/×3.png")),
        "holds info.csv (--layout info-csv) and a folder per class (--layout folders)",
    ),
    (
        _table(GOOD_ROWS, lambda train: idx_folder(train.parent)),
        "holds IDX files (--layout idx) and info.csv (--layout info-csv)",
    ),
]
IDX: BadData = [
    (
        _idx(lambda data: (data / TRAIN_LABELS).unlink()),
        f"there is no {TRAIN_LABELS}, plain or .gz, and {TRAIN_IMAGES} is there without it",
    ),
    (
        _idx(lambda data: (data / TRAIN_IMAGES).unlink()),
        f"there is no {TRAIN_IMAGES}, plain or .gz, and {TRAIN_LABELS} is there without it",
    ),
    (lambda data: idx_folder(data, split="t10k"), f"there is no {TRAIN_IMAGES}, plain or .gz, and it is needed"),
    (
        _idx_file(TEST_IMAGES, IDX_IMAGES),
        f"there is no {TEST_LABELS}, plain or .gz, and {TEST_IMAGES} is there without it",
    ),
    (
        _idx(lambda data: (data / f"{TRAIN_IMAGES}.gz").write_bytes(GZIPPED)),
        f"{TRAIN_IMAGES} and {TRAIN_IMAGES}.gz are both there; remove all but one",
    ),
    (_idx_file("train-labels.idx1-ubyte", IDX_LABELS), f"{TRAIN_LABELS} and train-labels.idx1-ubyte are both there"),
    (
        _idx(lambda data: [idx_folder(data, split=split) for split in ("test", "t10k")]),
        f"{TEST_IMAGES} and test-images-idx3-ubyte are both there",
    ),
    (_images(b""), f"{TRAIN_IMAGES}: is empty"),
    (_images(b"", ".gz"), f"{TRAIN_IMAGES}.gz: is empty"),
    (_labels(b"\0\0\x08"), f"{TRAIN_LABELS}: ends within its header"),
    (_images(IDX_IMAGES[:11]), f"{TRAIN_IMAGES}: ends within its header"),
    (_images(IDX_IMAGES[:-1]), "ends early: by its header (6×4×4) it has 112 bytes, and it has 111; fetch it again"),
    (
        _images(gzip.compress(IDX_IMAGES[:-1]), ".gz"),
        "ends early: by its header (6×4×4) it has 112 bytes, and it ends after 111",
    ),
    (
        _labels(gzip.compress(IDX_LABELS[:-1]), ".gz"),
        "ends early: by its header (6) it has 14 bytes, and it ends after 13",
    ),
    (_images(IDX_IMAGES + b"\n"), "goes on after the 6×4×4 values that its header announces"),
    (_labels(gzip.compress(IDX_LABELS + b"\n"), ".gz"), "goes on after the 6 values that its header announces"),
    (_images(b"<html></html>"), "is not an IDX file: it begins with 3c 68 74 6d"),
    (_images(GZIPPED), "is gzip-compressed; give it a name that ends in .gz"),
    (_images(IDX_IMAGES, ".gz"), "is not gzip-compressed, though its name says so"),
    (_images(DAMAGED, ".gz"), f"{TRAIN_IMAGES}.gz: is damaged"),
    (
        _images(GZIPPED[:10] + b"\xff" * 100, ".gz"),
        f"{TRAIN_IMAGES}.gz: is damaged: its compressed data cannot be read",
    ),
    (
        _images(GZIPPED[:-8] + bytes(8), ".gz"),
        "is damaged: its compressed data cannot be read (Error -3 while decompressing data: incorrect data check)",
    ),
    (_images(GZIPPED[:-9], ".gz"), "ends early, within its compressed data"),
    (
        _images(idx_bytes(IMAGES, type_code=0x0D)),
        "holds values that are float32 (code 0x0d); only uint8 (0x08) is read",
    ),
    (_images(idx_bytes(IMAGES, type_code=0x42)), "holds values that are of an unknown type (code 0x42)"),
    (_images(idx_bytes(IMAGES, dims=(6, 16))), "has 2 dimension(s), and images have 3"),
    (_images(b"\0\0\x08\xc8" + bytes(800)), "has 200 dimensions, and images have 3 or 4 and labels 1"),
    (_idx(_instead(TRAIN_LABELS, os.mkfifo)), f"{TRAIN_LABELS}: is not a file"),
    (_idx(_instead(TRAIN_IMAGES, Path.mkdir)), f"{TRAIN_IMAGES}: is not a file"),
    (_labels(idx_bytes(LABELS, dims=(6, 1))), "has 2 dimensions, and labels have 1"),
    (_labels(b"\0\0\x08\0"), "holds nothing (no dimension by its header)"),
    (_images(idx_bytes(IMAGES, dims=(6, 4, 2, 2))), "has 2 channels, and images have 1 or 3"),
    (_images(idx_bytes(IMAGES[:0])), "holds nothing (0×4×4 by its header)"),
    (_images(HUGE), "ends early: by its header (4294967295×4294967295×4294967295)"),
    (_images(gzip.compress(HUGE), ".gz"), "bytes cannot hold them, however compressed"),
    (_labels(idx_bytes(LABELS[:5])), f"holds 6 images, and {TRAIN_LABELS} 5 labels; they must be as many"),
    (
        _labels(idx_bytes(LABELS + np.uint8(1))),
        "holds label 2 (first at position 1), and params say n_classes = 2, which means labels 0 to 1",
    ),
    (
        _idx(lambda data: idx_folder(data, IMAGES, [0, 1, 9, 0, 1, 0], split="t10k")),
        f"{TEST_LABELS}: holds label 9 (first at position 2)",
    ),
    (
        _labels(idx_bytes(LABELS * np.uint8(0))),
        "1 class(es) have no training image: 1; the labels are 0 to 0, and params say n_classes = 2",
    ),
]
FOLDERS: BadData = [
    (
        _folders(_files("fox/×3.png")),
        "holds 3 class(es) (cat, dog, fox), and params say n_classes = 2; set n_classes to 3 or correct the data",
    ),
    (_files("cat/×3.png"), "holds 1 class(es) (cat), and params say n_classes = 2; add the other classes"),
    (
        _folders(lambda data: (data / "fox").mkdir()),
        "class folder(s) without an image: fox; an image is a file with an image's ending",
    ),
    (
        _files("train/cat/×3.png", "train/dog/×3.png", "test/cat/0.png", "test/fox/0.png"),
        "holds 1 class(es) that train does not have (fox)",
    ),
    (
        _files("train/cat/×3.png", "train/dog/×3.png", "test/cat/notes.txt"),
        "DATA/test: holds no image; remove the folder to have test images held out",
    ),
    (
        _folders(lambda data: _linked_outside("link.png", "x.png")(data / "cat")),
        "cat/link.png: is a link that leads out of",
    ),
    (_folders(_linked_outside("fox")), "fox: is a link that leads out of"),
    (_folders(_files("cat/again→..")), "cat/again: is a link to a folder above it, which would be read without end"),
    (_folders(_files("cat/gone.png→nowhere.png")), "gone.png: is not a file, or a link that leads nowhere"),
    (_folders(_files("cat/self.png→self.png")), "self.png: cannot be read: Too many levels of symbolic links"),
    (_folders(_files("two\nlines/0.png")), r"the folder name two\nlines holds characters that cannot be printed"),
    (
        _files("cat/0.png", "dog/×5.png"),
        "too few readable training images: cat (1); every class needs 2, for train and test; add images",
    ),
    (
        _folders(lambda data: (data / "cat" / "0001.png").write_bytes(b"")),
        "1 of 6 images cannot be read (16.67%), and max_unreadable is 1.00%; the first is cat/0001.png: is empty",
    ),
]
TABLE: BadData = [
    (_table(""), "info.csv: is empty; it needs a header with files and type"),
    (_table("\n\n\n"), "info.csv: is empty"),
    (_table("files,type\n"), "info.csv: has no row below its header"),
    (
        _table("files,label\n0.png,cat\n"),
        "has no column(s) named type; there are files, label, and files and type are needed",
    ),
    (_table("files;type\n0.png;cat\n"), "has no column(s) named files; there are files;type"),
    (_table("files,type,files\n0.png,cat,1.png\n"), "has 2 column(s) named files"),
    (_row("0.png"), "info.csv, line 6: has 1 value(s), and the header has 2"),
    (_row("0.png,cat,dog"), "info.csv, line 6: has 3 value(s), and the header has 2"),
    (_table(b"files,type\n0.png,ca\0t\n"), "info.csv, line 2: holds a NUL byte"),
    (_table("files,type\n0.png,bär\n".encode("latin-1")), "info.csv, line 2: is not UTF-8"),
    (_table(GOOD_ROWS.encode("utf-16")), "info.csv: is UTF-16; save it as UTF-8"),
    (_row('"0.png,cat'), "line 6: is not CSV: unexpected end of data"),
    (_row(f"0.png,{'x' * 200_000}"), "line 6: is not CSV: field larger than field limit"),
    (_row(f"0.png,{'x' * 201}"), "has 201 characters, and a class name may"),
    (_row('0.png,"two\nlines"'), "holds characters that cannot be printed"),
    (_row(",cat"), "info.csv, line 6: the column files is empty"),
    (_row("0.png, "), "info.csv, line 6: the column type is empty, and must name a class"),
    (
        _row("./0.png,dog"),
        "info.csv, line 6: ./0.png is of type dog, and by line 2 of type cat; an image has one class",
    ),
    (
        _row("again.png,dog", lambda train: os.link(train / "0.png", train / "again.png")),
        "info.csv, line 6: again.png is of type dog, and by line 2 of type cat; an image has one class",
    ),
    (
        _table(GOOD_ROWS, lambda train: os.link(train / "0.png", _test_table(train) / "x.png")),
        "DATA/test/info.csv: names x.png, and so does DATA/train/info.csv; an image has one split",
    ),
    (_row("4.png,dog"), "info.csv, line 6: 4.png: there is no such file in DATA/train"),
    (_row("images\\4.png,dog"), "parts are separated by /, not by \\"),
    (_row("0.png/x.png,dog"), "line 6: 0.png/x.png: there is no such file in"),
    (_row("images,dog", lambda train: (train / "images").mkdir()), "line 6: images is not a file"),
    (_row(f"{'x' * 300}.png,dog"), "x.png: there is no such file in"),
    (_row("/etc/passwd,dog"), "line 6: /etc/passwd is an absolute path"),
    (
        _row("../secret.png,dog", lambda train: tree(train.parent, "secret.png")),
        "info.csv, line 6: ../secret.png leads out of",
    ),
    (_row("..,dog"), "info.csv, line 6: .. leads out of"),
    (_row("a/../../b.png,dog"), "line 6: a/../../b.png leads out of"),
    (
        _row("link.png,dog", _linked_outside("link.png", "x.png")),
        "info.csv, line 6: link.png is a link that leads out of DATA; copy the file, or give --follow-links",
    ),
    (
        _row("link,dog", _linked_outside("link", "x.png")),
        "info.csv, line 6: link is a link that leads out of DATA; copy the file, or give --follow-links",
    ),
    (
        _row(".x.png,dog", _files(".x.png")),
        "line 6: .x.png: there is no such file in DATA/train that is read: it is hidden, or in a folder of a system",
    ),
    (
        _row("link/x.png,dog", _linked_outside("link")),
        "info.csv, line 6: link/x.png is a link that leads out of DATA; copy",
    ),
    (_table(GOOD_ROWS, _linked_outside("info.csv", "x.png")), "info.csv: is a link that leads out of"),
    (_table(GOOD_ROWS, _instead("info.csv", Path.mkdir)), "info.csv: is not a file"),
    (_table(GOOD_ROWS, _instead("info.csv", os.mkfifo)), "info.csv: is not a file"),
    (
        _table(GOOD_ROWS, lambda train: tree(train.parent, "test/x.png")),
        "DATA/test: has no info.csv, and train has; add one, or remove the folder to have test images held out",
    ),
    (_files("val/info.csv", "test/info.csv"), "test/info.csv is there, and train/info.csv is not; add it"),
    (
        _files("train/info.csv", "train/INFO.csv"),
        "train/INFO.csv and train/info.csv are both tables of the train split",
    ),
    (
        _files("train/info.csv", "Training/info.csv"),
        "Training/info.csv and train/info.csv are both tables of the train",
    ),
    (_files("train/info.csv", "Train/cat/0.png"), "DATA/Train: has no info.csv, and train has"),
    (
        _table(GOOD_ROWS, lambda train: info_csv(train.parent / "test", "files,type\n0.png,fox\n", FOUR)),
        "holds 1 class(es) that train does not have (fox)",
    ),
    (
        _row("0.png,cat\n1.png,cat\nx.png,fox", _files("x.png")),
        "holds 3 class(es) (cat, dog, fox), and params say n_classes = 2; set n_classes to 3",
    ),
    (
        _table(GOOD_ROWS, lambda train: (train / "2.png").write_bytes(b"text")),
        "1 of 4 images cannot be read (25.00%), and max_unreadable is 1.00%; the first is train/2.png",
    ),
]


@pytest.mark.parametrize(
    ("make", "expected"),
    [*LAYOUT, *IDX, *FOLDERS, *TABLE],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_bad_data_ends_with_one_line_that_says_what_is_wrong(
    tmp_path: Path, record_property: Callable[[str, object], None], make: Make, expected: str
) -> None:
    (tmp_path / "in" / "data").mkdir(parents=True)
    make(tmp_path / "in" / "data")

    message = refusal(tmp_path / "in" / "data")

    assert expected in message
    record_property(BAD_INPUT, ("data", message))


def test_a_gate_on_a_class_that_the_data_do_not_have_ends_here_and_not_after_training(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"cat": 3, "dog": 3})

    assert refusal(data, gate={"recall[kat]": {"min": 0.5}}) == (
        "params: gate.recall[kat]: there is no class 'kat' among cat, dog; did you mean 'cat'?"
    )
