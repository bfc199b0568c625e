"""``info.csv``: images and their classes as a table, in ``train/`` and optionally in ``test/``."""

from __future__ import annotations

import csv
import io
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.data_prep.image_files import ImageFileSplit
from components.data_prep.source import (
    Source,
    check_class_count,
    check_test_classes,
    class_name_problem,
    in_class_order,
    leads_inside,
    listed,
    reading,
    shown,
)
from components.shared.errors import DataError
from components.shared.logs import step_logger

FILE_NAME = "info.csv"
_FILE_COLUMN = "files"
_CLASS_COLUMN = "type"


@dataclass
class _Table:
    """What one info.csv says: paths below its folder, and the class of each."""

    path: Path
    files: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)


def open_info_csv(data: Path, n_classes: int) -> Source:
    """The source made of ``train/info.csv`` and, where there is a ``test/``, ``test/info.csv``.

    Args:
        data: The folder that holds ``train/``.
        n_classes: How many classes there must be.

    Raises:
        DataError: A table cannot be read, names files that are not there or lie outside its folder, or disagrees with
            the other table or the params.
    """
    train = _read_table(data / "train", data)
    classes = in_class_order(set(train.types))
    check_class_count(train.path, classes, n_classes)
    test = None
    if os.path.lexists(data / "test"):
        if not (data / "test" / FILE_NAME).is_file():
            raise DataError(
                f"{shown(data / 'test')}: has no {FILE_NAME}, and train has; add one, or remove the folder to have "
                "test images held out"
            )
        table = _read_table(data / "test", data)
        check_test_classes(table.path, set(table.types), classes)
        test = _as_split(data, "test", table, classes)
    return Source(path=data, name=FILE_NAME, classes=classes, train=_as_split(data, "train", train, classes), test=test)


def _as_split(data: Path, folder: str, table: _Table, classes: tuple[str, ...]) -> ImageFileSplit:
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[name] for name in table.types], dtype=np.int64)
    return ImageFileSplit(data, [f"{folder}/{file}" for file in table.files], labels)


def _read_table(folder: Path, data: Path) -> _Table:
    path = folder / FILE_NAME
    for inner, outer in ((folder, data), (path, folder)):
        if not leads_inside(inner, outer):
            raise DataError(f"{shown(inner)}: is a link that leads out of {shown(outer)}; copy what it leads to")
    if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
        raise DataError(f"{shown(path)}: is not a file")
    table = _Table(path)
    places = _Places(folder)
    first_seen: dict[Path, tuple[int, str]] = {}
    repeated = 0
    for line, file, name in _rows(path):
        where = f"{shown(path)}, line {line}"
        real = places.locate(file, where)
        earlier_line, earlier = first_seen.setdefault(real, (line, name))
        if earlier != name:
            raise DataError(
                f"{where}: {shown(file)} is of type {shown(name)}, and by line {earlier_line} of type "
                f"{shown(earlier)}; an image has one class"
            )
        if earlier_line == line:
            table.files.append(file)
            table.types.append(name)
        else:
            repeated += 1
    if repeated:
        step_logger("data-prep").warning("%s: %d row(s) say again what earlier rows say", shown(path), repeated)
    if not table.files:
        raise DataError(f"{shown(path)}: has no row below its header; name one image a row")
    return table


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """Line number, file and class of every row, stripped of surrounding space."""
    with reading(path):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{shown(path)}, line {line}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{shown(path)}, line {line}: holds a NUL byte; save it as text, in UTF-8")
    # strict: an unclosed quotation mark would otherwise swallow the rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, str, str]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        file_column, class_column = _column(path, header, _FILE_COLUMN), _column(path, header, _CLASS_COLUMN)
        for row in reader:
            if not row:
                continue
            where = f"{shown(path)}, line {reader.line_num}"
            if len(row) != len(header):
                raise DataError(
                    f"{where}: has {len(row)} value(s), and the header has {len(header)}; "
                    "put values that hold a comma in quotation marks"
                )
            file, name = row[file_column].strip(), row[class_column].strip()
            if not file:
                raise DataError(f"{where}: the column {_FILE_COLUMN} is empty")
            if problem := class_name_problem(name):
                raise DataError(f"{where}: the column {_CLASS_COLUMN} {problem}")
            rows.append((reader.line_num, file, name))
    except csv.Error as error:
        raise DataError(f"{shown(path)}, line {reader.line_num}: is not CSV: {error}") from error
    return rows


def _column(path: Path, header: list[str], name: str) -> int:
    if not any(header):
        raise DataError(f"{shown(path)}: is empty; it needs a header with {_FILE_COLUMN} and {_CLASS_COLUMN}")
    if (count := header.count(name)) != 1:
        raise DataError(
            f"{shown(path)}: has {count or 'no'} column(s) named {name}; there are {listed(header, 10)}, and "
            f"{_FILE_COLUMN} and {_CLASS_COLUMN} are needed once each"
        )
    return header.index(name)


class _Places:
    """Finds the files that a table names, each inside the table's folder.

    The real place of a parent folder is looked up once: a table of 60,000 rows then costs two system calls a row.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = Path(os.path.realpath(folder))
        self._parents: dict[Path, Path] = {}

    def locate(self, file: str, where: str) -> Path:
        """The real path of a file; errors say `where` it is named."""
        path = Path(file)
        if path.is_absolute():
            raise DataError(f"{where}: {shown(file)} is an absolute path; write it relative to {shown(self._folder)}")
        try:
            real = self._real(path)
            mode = real.stat().st_mode if real.is_relative_to(self._root) else None
        except (FileNotFoundError, NotADirectoryError):
            advice = "; its parts are separated by /, not by \\" if "\\" in file else ""
            raise DataError(f"{where}: there is no file {shown(file)} in {shown(self._folder)}{advice}") from None
        except OSError as error:
            raise DataError(f"{where}: {shown(file)} cannot be read: {error.strerror}") from error
        if mode is None:
            raise DataError(f"{where}: {shown(file)} leads out of {shown(self._folder)}; images stay below it")
        if not stat.S_ISREG(mode):
            raise DataError(f"{where}: {shown(file)} is not a file")
        return real

    def _real(self, path: Path) -> Path:
        if path.parent not in self._parents:
            self._parents[path.parent] = Path(os.path.realpath(self._root / path.parent))
        real = self._parents[path.parent] / path.name
        return Path(os.path.realpath(real)) if path.name in ("", "..") or real.is_symlink() else real
