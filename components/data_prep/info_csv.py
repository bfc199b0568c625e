"""``info.csv``: images and their classes as a table, in ``train/`` and optionally in ``test/`` and ``val/``."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from components.data_prep.folder_tree import Folder, images_below, joined, paths_below
from components.data_prep.images import read_batches
from components.data_prep.left_out import count_left_out
from components.data_prep.source import (
    Source,
    SourceSplit,
    check_known_classes,
    composed,
    listed,
    reading,
    require_inside,
    shown,
    training_classes,
)
from components.data_prep.splits import SPLITS, split_of
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.logs import step_logger

FILE_NAME = "info.csv"
_FILE_COLUMN, _CLASS_COLUMN = "files", "type"

_log = step_logger("data-prep")

# By split: the name of its folder in the data folder, and of the table in that.
Tables = dict[SplitName, tuple[str, str]]


def is_table(name: str) -> bool:
    """Whether a file name is a table's, in any case."""
    return name.casefold() == FILE_NAME


def find_tables(data: Path, root: Folder) -> Tables:
    """The tables in the folders of splits; none, if none is there.

    Args:
        data: The data folder, for messages.
        root: What is in it.

    Raises:
        DataError: A split has two, or one for training is missing.
    """
    found: dict[SplitName, list[tuple[str, str]]] = {}
    folders: dict[SplitName, list[str]] = {}
    for name, folder in root.folders.items():
        if split := split_of(name):
            folders.setdefault(split, []).append(name)
            if folder.problems.get("") and os.path.lexists(data / name / FILE_NAME):
                folder.raise_problem(data / name)
            for file in filter(is_table, sorted((*folder.others, *folder.specials, *folder.folders))):
                found.setdefault(split, []).append((name, file))
    for split, tables in found.items():
        if len(tables) > 1:
            names = " and ".join(shown("/".join(table)) for table in tables)
            raise DataError(f"{shown(data)}: {names} are both tables of the {split} split; remove all but one")
    if found and "train" not in found:
        table = "/".join(next(iter(found.values()))[0])
        raise DataError(f"{shown(data)}: {shown(table)} is there, and train/{FILE_NAME} is not; add it")
    for split, given in folders.items() if found else ():
        if split not in found or len(given) > 1:
            without = next(name for name in given if split not in found or name != found[split][0][0])
            raise DataError(
                f"{shown(data / without)}: has no {FILE_NAME}, and train has; add one, or remove the folder"
                + (f" to have {split} images held out" if split not in found else "")
            )
    return {split: found[split][0] for split in SPLITS if split in found}


def open_info_csv(data: Path, root: Folder, tables: Tables, n_classes: int, *, follow_links: bool) -> Source:
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
    paths = {split: data / folder / file for split, (folder, file) in tables.items()}
    read = {
        split: _Table(paths[split], root.folders[folder], data, follow_links=follow_links)
        for split, (folder, _) in tables.items()
    }
    classes = training_classes(paths["train"], set(read["train"].types), n_classes)
    label_of = {name: label for label, name in enumerate(classes)}
    used: dict[str, Path] = {}
    splits: dict[SplitName, SourceSplit] = {}
    for split, table in read.items():
        check_known_classes(paths[split], table.types, classes)
        for real in sorted(table.real):
            if real in used:
                raise DataError(
                    f"{shown(paths[split])}: names {shown(real)}, and so does {shown(used[real])}; "
                    "an image has one split"
                )
            used[real] = paths[split]
        files = [f"{tables[split][0]}/{file}" for file in table.files]
        labels = np.array([label_of[name] for name in table.types], dtype=np.int64)
        splits[split] = SourceSplit(labels, partial(read_batches, data, files))
    unused = [path for path, name, at in images_below(root) if at.links.get(name, f"{at.real}/{name}") not in used]
    return Source(
        path=data,
        name=FILE_NAME,
        classes=classes,
        splits=splits,
        folders={split: folder for split, (folder, _) in tables.items()},
        left_out=count_left_out(root, {"in no table": unused}, {*used, *map(os.path.realpath, paths.values())}),
    )


class _Table:
    """One info.csv: paths below its folder, the class of each, and the real paths.

    Raises:
        DataError: It cannot be used.
    """

    def __init__(self, path: Path, folder: Folder, data: Path, *, follow_links: bool) -> None:
        if not follow_links:
            require_inside(path.parent, data, "what it leads to")
            require_inside(path, path.parent, "what it leads to")
        if not path.is_file():  # opening a pipe would wait for its other end
            raise DataError(f"{shown(path)}: is not a file")
        self.files: list[str] = []
        self.types: list[str] = []
        self.real: set[str] = set()
        self._folder, self._tree, self._follow_links = path.parent, folder, follow_links
        self._root = os.path.realpath(path.parent)
        self._parents: dict[str, str] = {}
        first_seen: dict[str, tuple[int, str]] = {}
        repeated, of_other_form = 0, []
        for line, written, name in _rows(path):
            where = f"{shown(path)}, line {line}"
            file, real = self._locate(written, where)
            if composed(file) == composed(os.path.normpath(written)) and file != os.path.normpath(written):
                of_other_form.append(written)
            earlier_line, earlier = first_seen.setdefault(real, (line, name))
            if earlier != name:
                raise DataError(
                    f"{where}: {shown(written)} is of type {shown(name)}, and by line {earlier_line} of type "
                    f"{shown(earlier)}; an image has one class"
                )
            if earlier_line == line:
                self.files.append(file)
                self.types.append(name)
                self.real.add(real)
            else:
                repeated += 1
        if repeated:
            _log.warning("%s: %d row(s) say again what earlier rows say", shown(path), repeated)
        if of_other_form:
            _log.info(
                "%s: %d file(s) were found by names that differ in Unicode composition alone, such as %s",
                shown(path),
                len(of_other_form),
                ascii(of_other_form[0]),
            )
        if not self.files:
            raise DataError(f"{shown(path)}: has no row below its header; name one image a row")

    def _locate(self, written: str, where: str) -> tuple[str, str]:
        if written.startswith("/"):
            raise DataError(
                f"{where}: {shown(written)} is an absolute path; write it relative to {shown(self._folder)}"
            )
        file = os.path.normpath(written)
        if file == ".." or file.startswith("../"):
            raise DataError(f"{where}: {shown(written)} leads out of {shown(self._folder)}; images stay below it")
        try:
            real, mode = self._real_and_mode(file)
            alike = self._by_composed_name.get(composed(file), []) if mode is None else []
            if len(alike) == 1:
                file = alike[0]
                real, mode = self._real_and_mode(file)
        except OSError as error:
            raise DataError(f"{where}: {shown(written)} cannot be read: {error.strerror}") from error
        if mode is None:
            advice = "; its parts are separated by /, not by \\" if "\\" in written else ""
            if alike:
                advice = f"; it may be {' or '.join(map(ascii, alike))}, alike but for Unicode composition: rename one"
            raise DataError(f"{where}: there is no file {shown(written)} in {shown(self._folder)}{advice}")
        if not self._follow_links and real != self._root and not real.startswith(f"{self._root}/"):
            raise DataError(
                f"{where}: {shown(written)} leads out of {shown(self._folder)} by a link; copy the file, or give "
                "--follow-links"
            )
        if not stat.S_ISREG(mode):
            raise DataError(f"{where}: {shown(written)} is not a file")
        return file, real

    def _real_and_mode(self, file: str) -> tuple[str, int | None]:
        # The real path of a parent folder is looked up once: a row costs two system calls.
        parent, name = os.path.split(file)
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(f"{self._root}/{parent}")
        real = f"{self._parents[parent]}/{name}"
        try:
            mode = os.lstat(real).st_mode
            if stat.S_ISLNK(mode):
                real = os.path.realpath(real)
                mode = Path(real).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return real, None
        return real, mode

    @cached_property
    def _by_composed_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for path, here in paths_below(self._tree):
            for name in (*here.images, *here.others):
                names.setdefault(composed(joined(path, name)), []).append(joined(path, name))
        return names


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
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
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise DataError(f"{shown(path)}: is empty; it needs a header with {_FILE_COLUMN} and {_CLASS_COLUMN}")
        for column in (_FILE_COLUMN, _CLASS_COLUMN):
            if (count := header.count(column)) != 1:
                raise DataError(
                    f"{shown(path)}: has {count or 'no'} column(s) named {column}; there are {listed(header, 10)}, and "
                    f"{_FILE_COLUMN} and {_CLASS_COLUMN} are needed once each"
                )
        for row in filter(None, reader):
            where = f"{shown(path)}, line {reader.line_num}"
            if len(row) != len(header):
                raise DataError(
                    f"{where}: has {len(row)} value(s), and the header has {len(header)}; "
                    "put values that hold a comma in quotation marks"
                )
            file, name = (row[header.index(column)].strip() for column in (_FILE_COLUMN, _CLASS_COLUMN))
            if not file:
                raise DataError(f"{where}: the column {_FILE_COLUMN} is empty")
            if problem := class_name_problem(name):
                raise DataError(f"{where}: the column {_CLASS_COLUMN} {problem}")
            yield reader.line_num, file, composed(name)
    except csv.Error as error:
        raise DataError(f"{shown(path)}, line {reader.line_num}: is not CSV: {error}") from error
