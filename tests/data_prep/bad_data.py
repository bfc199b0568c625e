from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.data_prep.building import class_folders, idx_bytes, idx_folder, info_csv, params_json, plain, save

# Every entry is refused under these: 4×4, grayscale, two classes, half of the images held out, 1 % unreadable.
PARAMS_JSON = params_json()


@dataclass(frozen=True)
class BadData:
    name: str
    make: Callable[[Path], Path]
    expected: str


IMAGES = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
LABELS = np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8)
TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"


def _entry(folder: Path, change: Callable[[Path], object]) -> Path:
    change(folder)
    return folder


def _idx(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    return lambda folder: _entry(idx_folder(folder, IMAGES, LABELS), change)


def _idx_file(name: str, content: bytes) -> Callable[[Path], Path]:

    def replace(folder: Path) -> None:
        (folder / name.removesuffix(".gz")).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return _idx(replace)


def _folders(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    return lambda folder: _entry(class_folders(folder / "data", {"cat": 3, "dog": 3}), change)


def _train_and_test(test: Callable[[Path], object]) -> Callable[[Path], Path]:

    def make(folder: Path) -> Path:
        class_folders(folder / "data" / "train", {"cat": 3, "dog": 3})
        (folder / "data" / "test").mkdir()
        test(folder / "data" / "test")
        return folder / "data"

    return make


GOOD_ROWS = "files,type\n0.png,cat\n1.png,cat\n2.png,dog\n3.png,dog\n"
CSV_IMAGES = ("0.png", "1.png", "2.png", "3.png")


def _table(text: str, change: Callable[[Path], object] = lambda _: None) -> Callable[[Path], Path]:

    def make(folder: Path) -> Path:
        change(info_csv(folder / "data" / "train", text, CSV_IMAGES))
        return folder / "data"

    return make


def _table_bytes(content: bytes) -> Callable[[Path], Path]:
    return _table("", lambda train: (train / "info.csv").write_bytes(content))


def _row(row: str, change: Callable[[Path], object] = lambda _: None) -> Callable[[Path], Path]:
    return _table(GOOD_ROWS + row + "\n", change)


def _link_outside(link: Path, target: str = "") -> None:
    outside = next(parent for parent in link.parents if parent.name == "data").parent / "outside"
    save(outside / "x.png", plain(1))
    link.unlink(missing_ok=True)
    link.symlink_to(outside / target)


def _make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(value ^ 0xFF for value in data[middle : middle + 4]) + data[middle + 4 :]


def _no_folder(folder: Path) -> Path:
    return folder / "nowhere"


def _archive(folder: Path) -> Path:
    (folder / "data.zip").write_bytes(b"PK\x03\x04")
    return folder / "data.zip"


LAYOUT: list[BadData] = [
    BadData("no such folder", _no_folder, "nowhere: there is no such data folder"),
    BadData("an archive in place of a folder", _archive, "data.zip: is a file; name the folder"),
    BadData("an empty folder", lambda folder: folder, "(it holds nothing); it may be IDX files"),
    BadData(
        "other files",
        lambda folder: _entry(folder, lambda here: (here / "emnist.mat").write_bytes(b"x")),
        "in a layout that is known (it holds emnist.mat)",
    ),
    BadData(
        "a dataset directory",
        lambda folder: _entry(folder, lambda here: (here / "dataset.json").write_text(json.dumps({}))),
        "is a dataset directory already; give it to train as it is",
    ),
    BadData(
        "images in train/ without classes",
        lambda folder: _entry(folder, lambda here: save(here / "train" / "x.png", plain(1))),
        "in a layout that is known (it holds train/)",
    ),
    BadData(
        "IDX files and class folders",
        _idx(lambda folder: class_folders(folder, {"cat": 3, "dog": 3})),
        "holds IDX files and a folder per class, and it must be clear which counts",
    ),
    BadData(
        "a table and class folders",
        _table(GOOD_ROWS, lambda train: class_folders(train.parent, {"cat": 3, "dog": 3})),
        "holds train/info.csv and a folder per class",
    ),
    BadData(
        "a table and IDX files",
        _table(GOOD_ROWS, lambda train: idx_folder(train.parent, IMAGES, LABELS)),
        "holds IDX files and train/info.csv",
    ),
]

IDX: list[BadData] = [
    BadData(
        "IDX images without labels",
        _idx(lambda folder: (folder / TRAIN_LABELS).unlink()),
        f"there is no {TRAIN_LABELS}, plain or .gz, and {TRAIN_IMAGES} is there without it",
    ),
    BadData(
        "IDX labels without images",
        _idx(lambda folder: (folder / TRAIN_IMAGES).unlink()),
        f"there is no {TRAIN_IMAGES}, plain or .gz, and {TRAIN_LABELS} is there without it",
    ),
    BadData(
        "IDX test files alone",
        lambda folder: idx_folder(folder, IMAGES, LABELS, split="t10k"),
        f"there is no {TRAIN_IMAGES}, plain or .gz, and it is needed",
    ),
    BadData(
        "IDX test images without labels",
        _idx(lambda folder: (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES))),
        "there is no t10k-labels-idx1-ubyte, plain or .gz, and t10k-images-idx3-ubyte is there without it",
    ),
    BadData(
        "an IDX file both plain and compressed",
        _idx(lambda folder: (folder / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)))),
        f"{TRAIN_IMAGES} and {TRAIN_IMAGES}.gz are both there; remove all but one",
    ),
    BadData(
        "an IDX file by both spellings",
        _idx(lambda folder: (folder / "train-labels.idx1-ubyte").write_bytes(idx_bytes(LABELS))),
        f"{TRAIN_LABELS} and train-labels.idx1-ubyte are both there",
    ),
    BadData("an empty IDX file", _idx_file(TRAIN_IMAGES, b""), f"{TRAIN_IMAGES}: is empty"),
    BadData("an empty compressed file", _idx_file(f"{TRAIN_IMAGES}.gz", b""), f"{TRAIN_IMAGES}.gz: is empty"),
    BadData("IDX magic cut", _idx_file(TRAIN_LABELS, b"\0\0\x08"), f"{TRAIN_LABELS}: ends within its header"),
    BadData(
        "IDX sizes cut", _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES)[:11]), f"{TRAIN_IMAGES}: ends within its header"
    ),
    BadData(
        "IDX images cut",
        _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES)[:-1]),
        "ends early: by its header (6×4×4) it has 112 bytes, and it has 111; fetch it again",
    ),
    BadData(
        "IDX images cut before they were compressed",
        _idx_file(f"{TRAIN_IMAGES}.gz", gzip.compress(idx_bytes(IMAGES)[:-1])),
        "ends early: by its header (6×4×4) it has 112 bytes, and it ends after 111",
    ),
    BadData(
        "IDX labels cut before they were compressed",
        _idx_file(f"{TRAIN_LABELS}.gz", gzip.compress(idx_bytes(LABELS)[:-1])),
        "ends early: by its header (6) it has 14 bytes, and it ends after 13",
    ),
    BadData(
        "IDX images with bytes after them",
        _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES) + b"\n"),
        "goes on after the 6×4×4 values that its header announces",
    ),
    BadData(
        "compressed IDX labels with bytes after them",
        _idx_file(f"{TRAIN_LABELS}.gz", gzip.compress(idx_bytes(LABELS) + b"\n")),
        "goes on after the 6 values that its header announces",
    ),
    BadData("no IDX file", _idx_file(TRAIN_IMAGES, b"<html></html>"), "is not an IDX file: it begins with 3c 68 74 6d"),
    BadData(
        "a compressed IDX file without .gz",
        _idx_file(TRAIN_IMAGES, gzip.compress(idx_bytes(IMAGES))),
        "is gzip-compressed; give it a name that ends in .gz",
    ),
    BadData(
        "a plain IDX file with .gz",
        _idx_file(f"{TRAIN_IMAGES}.gz", idx_bytes(IMAGES)),
        "is not gzip-compressed, though its name says so",
    ),
    BadData(
        "compressed data damaged",
        _idx_file(f"{TRAIN_IMAGES}.gz", _damaged(gzip.compress(idx_bytes(IMAGES)))),
        f"{TRAIN_IMAGES}.gz: is damaged",
    ),
    BadData(
        "compressed data that means nothing",
        _idx_file(f"{TRAIN_IMAGES}.gz", gzip.compress(idx_bytes(IMAGES))[:10] + b"\xff" * 100),
        f"{TRAIN_IMAGES}.gz: is damaged: its compressed data cannot be read",
    ),
    BadData(
        "compressed data with a wrong checksum",
        _idx_file(f"{TRAIN_IMAGES}.gz", gzip.compress(idx_bytes(IMAGES))[:-8] + bytes(8)),
        "is damaged (CRC check failed",
    ),
    BadData(
        "compressed data cut",
        _idx_file(f"{TRAIN_IMAGES}.gz", gzip.compress(idx_bytes(IMAGES))[:-9]),
        "ends early, within its compressed data",
    ),
    BadData(
        "IDX values of float32",
        _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES, type_code=0x0D)),
        "holds values that are float32 (code 0x0d); only uint8 (0x08) is read",
    ),
    BadData(
        "IDX values of an unknown type",
        _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES, type_code=0x42)),
        "holds values that are of an unknown type (code 0x42)",
    ),
    BadData(
        "IDX images of two dimensions",
        _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES, dims=(6, 16))),
        "has 2 dimension(s), and images have 3",
    ),
    BadData(
        "IDX images of 200 dimensions",
        _idx_file(TRAIN_IMAGES, b"\0\0\x08\xc8" + bytes(800)),
        "has 200 dimensions, and images have 3 or 4 and labels 1",
    ),
    BadData(
        "a pipe in place of an IDX file",
        _idx(lambda folder: _make_pipe(folder / TRAIN_LABELS)),
        f"{TRAIN_LABELS}: is not a file",
    ),
    BadData(
        "IDX labels of two dimensions",
        _idx_file(TRAIN_LABELS, idx_bytes(LABELS, dims=(6, 1))),
        "has 2 dimensions, and labels have 1",
    ),
    BadData(
        "IDX without a dimension", _idx_file(TRAIN_LABELS, b"\0\0\x08\0"), "holds nothing (no dimension by its header)"
    ),
    BadData(
        "IDX images of two channels",
        _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES, dims=(6, 4, 2, 2))),
        "has 2 channels, and images have 1 or 3",
    ),
    BadData(
        "no IDX image at all", _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES[:0])), "holds nothing (0×4×4 by its header)"
    ),
    BadData(
        "an IDX header that announces 2^96 bytes",
        _idx_file(TRAIN_IMAGES, idx_bytes(IMAGES, dims=(2**32 - 1,) * 3)),
        "ends early: by its header (4294967295×4294967295×4294967295)",
    ),
    BadData(
        "a compressed header that announces 2^96 bytes",
        _idx_file(f"{TRAIN_IMAGES}.gz", gzip.compress(idx_bytes(IMAGES, dims=(2**32 - 1,) * 3))),
        "bytes cannot hold them, however compressed",
    ),
    BadData(
        "a gzip bomb",
        _idx_file(f"{TRAIN_IMAGES}.gz", gzip.compress(idx_bytes(IMAGES) + bytes(2**24))),
        "goes on after the 6×4×4 values",
    ),
    BadData(
        "more IDX images than labels",
        _idx_file(TRAIN_LABELS, idx_bytes(LABELS[:5])),
        f"holds 6 images, and {TRAIN_LABELS} 5 labels; they must be as many",
    ),
    BadData(
        "an IDX label beyond n_classes",
        _idx_file(TRAIN_LABELS, idx_bytes(LABELS + np.uint8(1))),
        "holds label 2 (first at position 1), and params say n_classes = 2, which means labels 0 to 1",
    ),
    BadData(
        "an IDX test label beyond n_classes",
        _idx(lambda folder: idx_folder(folder, IMAGES, [0, 1, 9, 0, 1, 0], split="t10k")),
        "t10k-labels-idx1-ubyte: holds label 9 (first at position 2)",
    ),
    BadData(
        "a class without an IDX image",
        _idx_file(TRAIN_LABELS, idx_bytes(LABELS * np.uint8(0))),
        "1 class(es) have no training image: 1; the labels are 0 to 0, and params say n_classes = 2",
    ),
    BadData(
        "a folder in place of an IDX file",
        _idx(lambda folder: _make_folder(folder / TRAIN_IMAGES)),
        f"{TRAIN_IMAGES}: is not a file",
    ),
]

FOLDERS: list[BadData] = [
    BadData(
        "more classes than n_classes",
        _folders(lambda data: class_folders(data, {"fox": 3})),
        "holds 3 class(es) (cat, dog, fox), and params say n_classes = 2; set n_classes to 3 or correct the data",
    ),
    BadData(
        "fewer classes than n_classes",
        lambda folder: class_folders(folder, {"cat": 3}),
        "holds 1 class(es) (cat), and params say n_classes = 2; add the other classes",
    ),
    BadData(
        "a class folder without images",
        _folders(lambda data: (data / "fox").mkdir()),
        "class folder(s) without an image: fox; an image is a file with an image's ending",
    ),
    BadData(
        "a class in test alone",
        _train_and_test(lambda test: class_folders(test, {"cat": 1, "fox": 1})),
        "holds 1 class(es) that train does not have (fox)",
    ),
    BadData(
        "a test folder without images",
        _train_and_test(lambda test: (test / "cat").mkdir()),
        "test: holds no image; remove the folder to have test images held out",
    ),
    BadData(
        "an image linked from outside",
        _folders(lambda data: _link_outside(data / "cat" / "link.png", "x.png")),
        "cat/link.png: is a link that leads out of",
    ),
    BadData(
        "a class folder linked from outside",
        _folders(lambda data: _link_outside(data / "fox")),
        "fox: is a link that leads out of",
    ),
    BadData(
        "a link to a folder above",
        _folders(lambda data: (data / "cat" / "again").symlink_to("..")),
        "cat/again: is a link to a folder above it, which would be read without end",
    ),
    BadData(
        "a link that leads nowhere",
        _folders(lambda data: (data / "cat" / "gone.png").symlink_to("nowhere.png")),
        "gone.png: is not a file, or a link that leads nowhere",
    ),
    BadData(
        "a link to itself",
        _folders(lambda data: (data / "cat" / "self.png").symlink_to("self.png")),
        "self.png: cannot be read: Too many levels of symbolic links",
    ),
    BadData(
        "a pipe in place of an image",
        _folders(lambda data: os.mkfifo(data / "cat" / "pipe.png")),
        "pipe.png: is not a file",
    ),
    BadData(
        "a class name of two lines",
        _folders(lambda data: class_folders(data, {"two\nlines": 1})),
        r"the folder name two\nlines holds characters that cannot be printed",
    ),
    BadData(
        "a class of one image, and no test split",
        lambda folder: class_folders(folder, {"cat": 1, "dog": 5}),
        "too few readable training images: cat (1); every class needs 2, for train and test; add images",
    ),
    BadData(
        "too many unreadable images",
        _folders(lambda data: (data / "cat" / "0001.png").write_bytes(b"")),
        "1 of 6 images cannot be read (16.67%), and max_unreadable is 1.00%; the first is cat/0001.png: is empty",
    ),
]

TABLE: list[BadData] = [
    BadData("an empty table", _table(""), "info.csv: is empty; it needs a header with files and type"),
    BadData("a table of blank lines", _table("\n\n\n"), "info.csv: is empty"),
    BadData("a header alone", _table("files,type\n"), "info.csv: has no row below its header"),
    BadData(
        "no column named type",
        _table("files,label\n0.png,cat\n"),
        "has no column(s) named type; there are files, label, and files and type are needed",
    ),
    BadData("semicolons", _table("files;type\n0.png;cat\n"), "has no column(s) named files; there are files;type"),
    BadData("a column twice", _table("files,type,files\n0.png,cat,1.png\n"), "has 2 column(s) named files"),
    BadData("a row too short", _row("0.png"), "info.csv, line 6: has 1 value(s), and the header has 2"),
    BadData("a row too long", _row("0.png,cat,dog"), "info.csv, line 6: has 3 value(s), and the header has 2"),
    BadData("a NUL byte", _table_bytes(b"files,type\n0.png,ca\0t\n"), "info.csv, line 2: holds a NUL byte"),
    BadData("Latin-1", _table_bytes("files,type\n0.png,bär\n".encode("latin-1")), "info.csv, line 2: is not UTF-8"),
    BadData("UTF-16", _table_bytes(GOOD_ROWS.encode("utf-16")), "info.csv, line 1: is not UTF-8 (byte 0)"),
    BadData("a quotation mark without its partner", _row('"0.png,cat'), "line 6: is not CSV: unexpected end of data"),
    BadData("a value of 200 kB", _row(f"0.png,{'x' * 200_000}"), "line 6: is not CSV: field larger than field limit"),
    BadData("a type of 201 characters", _row(f"0.png,{'x' * 201}"), "has 201 characters, and a class name may"),
    BadData("a type of two lines", _row('0.png,"two\nlines"'), "holds characters that cannot be printed"),
    BadData("no file", _row(",cat"), "info.csv, line 6: the column files is empty"),
    BadData("no type", _row("0.png, "), "info.csv, line 6: the column type is empty, and must name a class"),
    BadData(
        "one image, two types",
        _row("./0.png,dog"),
        "info.csv, line 6: ./0.png is of type dog, and by line 2 of type cat; an image has one class",
    ),
    BadData("a file that is not there", _row("4.png,dog"), "info.csv, line 6: there is no file 4.png in"),
    BadData("backslashes", _row("images\\4.png,dog"), "parts are separated by /, not by \\"),
    BadData(
        "a file below a file",
        _row("0.png/x.png,dog"),
        "info.csv, line 6: there is no file 0.png/x.png in",
    ),
    BadData("a folder", _row("images,dog", lambda train: (train / "images").mkdir()), "line 6: images is not a file"),
    BadData("a name too long", _row(f"{'x' * 300}.png,dog"), "cannot be read: File name too long"),
    BadData("an absolute path", _row("/etc/passwd,dog"), "line 6: /etc/passwd is an absolute path"),
    BadData(
        "a path that leads out",
        _row("../secret.png,dog", lambda train: save(train.parent / "secret.png", plain(1))),
        "info.csv, line 6: ../secret.png leads out of",
    ),
    BadData("the folder above", _row("..,dog"), "info.csv, line 6: .. leads out of"),
    BadData("a path that leads out to nothing", _row("a/../../b.png,dog"), "line 6: a/../../b.png leads out of"),
    BadData(
        "a link that leads out",
        _row("link.png,dog", lambda train: _link_outside(train / "link.png", "x.png")),
        "info.csv, line 6: link.png leads out of",
    ),
    BadData(
        "a linked folder that leads out",
        _row("link/x.png,dog", lambda train: _link_outside(train / "link")),
        "info.csv, line 6: link/x.png leads out of",
    ),
    BadData(
        "a table linked from outside",
        _table(
            GOOD_ROWS,
            lambda train: _link_outside(train / "info.csv", "x.png"),
        ),
        "info.csv: is a link that leads out of",
    ),
    BadData(
        "a folder in place of the table",
        _table(GOOD_ROWS, lambda train: _make_folder(train / "info.csv")),
        "info.csv: is not a file",
    ),
    BadData(
        "a pipe in place of the table",
        _table(GOOD_ROWS, lambda train: _make_pipe(train / "info.csv")),
        "info.csv: is not a file",
    ),
    BadData(
        "a test folder without a table",
        _table(GOOD_ROWS, lambda train: save(train.parent / "test" / "x.png", plain(1))),
        "test: has no info.csv, and train has",
    ),
    BadData(
        "a table in test alone",
        lambda folder: _entry(folder, lambda here: info_csv(here / "test", GOOD_ROWS, CSV_IMAGES)),
        "test/info.csv is there, and train/info.csv is not",
    ),
    BadData(
        "a class in the test table alone",
        _table(GOOD_ROWS, lambda train: info_csv(train.parent / "test", "files,type\n0.png,fox\n", CSV_IMAGES)),
        "holds 1 class(es) that train does not have (fox)",
    ),
    BadData(
        "a table of other classes than n_classes",
        _row("0.png,cat\n1.png,cat\nx.png,fox", lambda train: save(train / "x.png", plain(1))),
        "holds 3 class(es) (cat, dog, fox), and params say n_classes = 2; set n_classes to 3",
    ),
    BadData(
        "too many unreadable images in a table",
        _table(GOOD_ROWS, lambda train: (train / "2.png").write_bytes(b"text")),
        "1 of 4 images cannot be read (25.00%), and max_unreadable is 1.00%; the first is train/2.png",
    ),
]

BAD_DATA: list[BadData] = [*LAYOUT, *IDX, *FOLDERS, *TABLE]
