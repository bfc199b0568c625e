"""``info.csv``: images and their classes as a table, in ``train/`` and optionally in ``test/`` and ``val/``."""

from __future__ import annotations

import csv
import io
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.data_prep.folder_tree import Folder, images_below, leads_out_of, raise_problem
from components.data_prep.image_files import ImageFileSplit
from components.data_prep.left_out import NOT_IN_TABLE, LeftOutCounter
from components.data_prep.source import (
    SPLITS,
    Source,
    check_class_count,
    check_known_classes,
    composed,
    in_class_order,
    leads_inside,
    listed,
    reading,
    shown,
)
from components.data_prep.split_folders import split_of
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.logs import step_logger

FILE_NAME = "info.csv"
_FILE_COLUMN = "files"
_CLASS_COLUMN = "type"

_log = step_logger("data-prep")


@dataclass(frozen=True)
class TableFile:
    """Where the table of one split is.

    Attributes:
        folder: The split's folder, by its name in the data folder.
        file: The table's name in it.
    """

    folder: str
    file: str


@dataclass
class _Table:
    """What one info.csv says: paths below its folder, and the class of each."""

    path: Path
    files: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    real: set[str] = field(default_factory=set)


def is_table(name: str) -> bool:
    """Whether a file name is a table's, in any case."""
    return name.casefold() == FILE_NAME


def find_tables(data: Path, root: Folder) -> dict[SplitName, TableFile]:
    """The tables in the folders of splits; none, if none is there.

    Args:
        data: The data folder, for messages.
        root: What is in it.

    Raises:
        DataError: A split has two, or one for training is missing.
    """
    found: dict[SplitName, list[TableFile]] = {}
    folders: dict[SplitName, list[str]] = {}
    for name, folder in root.folders.items():
        if split := split_of(name):
            folders.setdefault(split, []).append(name)
            if folder.problems.get("") and os.path.lexists(data / name / FILE_NAME):
                raise_problem(folder, data / name)
            for file in sorted((*folder.others, *folder.specials, *folder.folders)):
                if is_table(file):
                    found.setdefault(split, []).append(TableFile(name, file))
    if not found:
        return {}
    for split, tables in found.items():
        if len(tables) > 1:
            names = " and ".join(shown(f"{table.folder}/{table.file}") for table in tables)
            raise DataError(f"{shown(data)}: {names} are both tables of the {split} split; remove all but one")
    if "train" not in found:
        table = next(iter(found.values()))[0]
        raise DataError(
            f"{shown(data)}: {shown(f'{table.folder}/{table.file}')} is there, and train/{FILE_NAME} is not; add it"
        )
    for split, given in folders.items():
        if split not in found or len(given) > 1:
            without = next(name for name in given if split not in found or name != found[split][0].folder)
            raise DataError(
                f"{shown(data / without)}: has no {FILE_NAME}, and train has; add one, or remove the folder"
                + (f" to have {split} images held out" if split not in found else "")
            )
    return {split: tables[0] for split, tables in found.items()}


def open_info_csv(
    data: Path, root: Folder, tables: dict[SplitName, TableFile], n_classes: int, *, follow_links: bool
) -> Source:
    """The source made of the tables of splits, such as ``train/info.csv``.

    Args:
        data: The data folder.
        root: What is in it.
        tables: What :func:`find_tables` found there; ``train`` is among them.
        n_classes: How many classes there must be.
        follow_links: Whether links may lead out of a split's folder.

    Raises:
        DataError: A table cannot be read, names files that are not there or lie outside its folder, or disagrees with
            the other tables or the params.
    """
    ordered: dict[SplitName, TableFile] = {split: tables[split] for split in SPLITS if split in tables}
    read = {split: _read_table(data, table, follow_links=follow_links) for split, table in ordered.items()}
    classes = in_class_order(set(read["train"].types))
    check_class_count(read["train"].path, classes, n_classes)
    for table in read.values():
        check_known_classes(table.path, set(table.types), classes)
    _check_apart(read)
    used = {real for table in read.values() for real in table.real}
    counter = LeftOutCounter(root)
    counter.add_images(
        NOT_IN_TABLE,
        [
            path
            for path, name, folder in images_below(root)
            if folder.links.get(name, f"{folder.real}/{name}") not in used
        ],
    )
    used |= {os.path.realpath(table.path) for table in read.values()}
    return Source(
        path=data,
        name=FILE_NAME,
        classes=classes,
        splits={split: _as_split(data, ordered[split].folder, table, classes) for split, table in read.items()},
        folders={split: table.folder for split, table in ordered.items()},
        left_out=counter.counted(used),
    )


def _check_apart(tables: dict[SplitName, _Table]) -> None:
    """See that no image is in two splits, which links can do.

    Raises:
        DataError: One is.
    """
    seen: dict[str, Path] = {}
    for table in tables.values():
        for real in sorted(table.real):
            if real in seen:
                raise DataError(
                    f"{shown(table.path)}: names {shown(real)}, and so does {shown(seen[real])}; an image has one split"
                )
            seen[real] = table.path


def _as_split(data: Path, folder: str, table: _Table, classes: tuple[str, ...]) -> ImageFileSplit:
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[name] for name in table.types], dtype=np.int64)
    return ImageFileSplit(data, [f"{folder}/{file}" for file in table.files], labels)


def _read_table(data: Path, found: TableFile, *, follow_links: bool) -> _Table:
    folder = data / found.folder
    path = folder / found.file
    for inner, outer in ((folder, data), (path, folder)):
        if not follow_links and not leads_inside(inner, outer):
            raise DataError(f"{shown(inner)}: {leads_out_of(outer, 'what it leads to')}")
    if not path.is_file():  # opening a pipe would wait for its other end
        raise DataError(f"{shown(path)}: is not a file")
    table = _Table(path)
    files = _Files(folder, follow_links=follow_links)
    first_seen: dict[Path, tuple[int, str]] = {}
    repeated = 0
    for line, written, name in _rows(path):
        where = f"{shown(path)}, line {line}"
        file, real = files.locate(written, where)
        earlier_line, earlier = first_seen.setdefault(real, (line, name))
        if earlier != name:
            raise DataError(
                f"{where}: {shown(written)} is of type {shown(name)}, and by line {earlier_line} of type "
                f"{shown(earlier)}; an image has one class"
            )
        if earlier_line == line:
            table.files.append(file)
            table.types.append(name)
            table.real.add(str(real))
        else:
            repeated += 1
    if repeated:
        _log.warning("%s: %d row(s) say again what earlier rows say", shown(path), repeated)
    if files.composed:
        _log.info(
            "%s: %d file(s) were found by names that differ in Unicode composition alone, such as %s",
            shown(path),
            files.composed,
            ascii(files.example),
        )
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
            rows.append((reader.line_num, file, composed(name)))
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


class _Files:
    """Finds the files that a table names, each inside the table's folder.

    The real path of a parent folder is looked up once: a table of 60,000 rows then costs two system calls a row.

    Attributes:
        composed: How many were found by a name of another Unicode composition.
        example: One of them, as the table writes it.
    """

    def __init__(self, folder: Path, *, follow_links: bool) -> None:
        self.composed = 0
        self.example = ""
        self._folder = folder
        self._follow_links = follow_links
        self._root = Path(os.path.realpath(folder))
        self._parents: dict[Path, Path] = {}
        self._names: dict[Path, dict[str, list[str]]] = {}

    def locate(self, file: str, where: str) -> tuple[str, Path]:
        """A file's path below the folder as the disk has it, and its real path; errors say `where` it is named."""
        path = Path(file)
        if path.is_absolute():
            raise DataError(f"{where}: {shown(file)} is an absolute path; write it relative to {shown(self._folder)}")
        # What is written must stay below the folder; where links are followed, those alone may lead out of it.
        written = Path(os.path.normpath(self._root / path))
        if not written.is_relative_to(self._root):
            raise DataError(f"{where}: {shown(file)} leads out of {shown(self._folder)}; images stay below it")
        if self._follow_links:
            path = written.relative_to(self._root)
        try:
            try:
                real, mode = self._looked_up(path)
            except (FileNotFoundError, NotADirectoryError):
                if file.isascii() or (other := self._of_other_composition(path, where)) is None:
                    raise
                real, mode = self._looked_up(Path(other))
                self.composed += 1
                self.example = self.example or file
                file = other
        except (FileNotFoundError, NotADirectoryError):
            advice = "; its parts are separated by /, not by \\" if "\\" in file else ""
            raise DataError(f"{where}: there is no file {shown(file)} in {shown(self._folder)}{advice}") from None
        except OSError as error:
            raise DataError(f"{where}: {shown(file)} cannot be read: {error.strerror}") from error
        if mode is None:
            raise DataError(
                f"{where}: {shown(file)} leads out of {shown(self._folder)} by a link; copy the file, or give "
                "--follow-links"
            )
        if not stat.S_ISREG(mode):
            raise DataError(f"{where}: {shown(file)} is not a file")
        return file, real

    def _looked_up(self, path: Path) -> tuple[Path, int | None]:
        """The real path and mode of a file; without a mode, it lies elsewhere and links are not followed."""
        real = self._real(path)
        return real, real.stat().st_mode if self._follow_links or real.is_relative_to(self._root) else None

    def _real(self, path: Path) -> Path:
        if path.parent not in self._parents:
            self._parents[path.parent] = Path(os.path.realpath(self._root / path.parent))
        real = self._parents[path.parent] / path.name
        return Path(os.path.realpath(real)) if path.name in ("", "..") or real.is_symlink() else real

    def _of_other_composition(self, path: Path, where: str) -> str | None:
        """The path on disk whose parts differ from these in Unicode composition alone."""
        here, parts = self._root, []
        for part in path.parts:
            if here not in self._names:
                names: dict[str, list[str]] = {}
                for name in sorted(os.listdir(here)):  # noqa: PTH208 - names alone
                    names.setdefault(composed(name), []).append(name)
                self._names[here] = names
            alike = [part] if part == ".." else self._names[here].get(composed(part), [])
            if not alike:
                return None
            if len(alike) > 1 and part not in alike:
                raise DataError(
                    f"{where}: {part!a} may be {' or '.join(map(ascii, alike))} on disk, which differ in Unicode "
                    "composition alone; rename one of them"
                )
            parts.append(part if part in alike else alike[0])
            here /= parts[-1]
        return "/".join(parts)
