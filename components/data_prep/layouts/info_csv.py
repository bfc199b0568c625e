"""``info.csv``: images and their classes as a table, in ``train/`` and optionally in ``test/`` and ``val/``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.data_prep.layouts.manifest_rows import check_width, csv_cells
from components.data_prep.layouts.named_files import NamedFiles, unused_images
from components.data_prep.layouts.source import (
    Source,
    SourceSplit,
    check_known_classes,
    composed,
    image_split,
    listed,
    training_classes,
)
from components.data_prep.splits import SPLITS, split_of
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import count_left_out
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.logs import step_logger
from components.shared.text import shown

FILE_NAME = "info.csv"
_FILE_COLUMN, _CLASS_COLUMN = "files", "type"

_log = step_logger("data-prep")

# By split: the name of its folder in the data folder, and of the table in that.
Tables = dict[SplitName, tuple[str, str]]


def is_table(name: str) -> bool:
    """Whether a file name is a table's, in any case."""
    return name.casefold() == FILE_NAME


def find_tables(tree: FileTree) -> Tables | None:
    """The tables in the folders of splits, if there are any; an error if a split has two, or training none."""
    found: dict[SplitName, list[tuple[str, str]]] = {}
    folders: dict[SplitName, list[str]] = {}
    for name, folder in tree.root.folders.items():
        if split := split_of(name):
            folders.setdefault(split, []).append(name)
            for file in filter(is_table, sorted((*folder.others, *folder.specials, *folder.folders))):
                found.setdefault(split, []).append((name, file))
    if not found:
        return None
    for name in itertools.chain(*folders.values()):
        if "" in tree.root.folders[name].problems:
            tree.root.folders[name].raise_problem(tree.at, name)
    for split, tables in found.items():
        if len(tables) > 1:
            names = " and ".join(shown("/".join(table)) for table in tables)
            raise DataError(f"{tree.at()}: {names} are both tables of the {split} split; remove all but one")
    if "train" not in found:
        table = "/".join(next(iter(found.values()))[0])
        raise DataError(f"{tree.at()}: {shown(table)} is there, and train/{FILE_NAME} is not; add it")
    for split, given in folders.items():
        if split not in found or len(given) > 1:
            without = next(name for name in given if split not in found or name != found[split][0][0])
            raise DataError(
                f"{tree.at(without)}: has no {FILE_NAME}, and train has; add one, or remove the folder"
                + (f" to have {split} images held out" if split not in found else "")
            )
    return {split: found[split][0] for split in SPLITS if split in found}


def open_info_csv(tree: FileTree, tables: Tables, n_classes: int | None) -> Source:
    """The source made of the tables of splits: read whole, every file that they name found."""
    root = tree.root
    read = {split: _Table(tree, folder, file) for split, (folder, file) in tables.items()}
    classes = training_classes(read["train"].where, {row.type for row in read["train"].rows.values()}, n_classes)
    label_of = {name: label for label, name in enumerate(classes)}
    used: dict[str, str] = {}
    splits: dict[SplitName, SourceSplit] = {}
    for split, table in read.items():
        check_known_classes(table.where, {row.type for row in table.rows.values()}, classes)
        if again := next((key for key in table.rows if key in used), None):
            raise DataError(
                f"{table.where}: names {shown(table.rows[again].file)}, and so does {used[again]}; "
                "an image has one split"
            )
        used |= dict.fromkeys(table.rows, table.where)
        folder = tables[split][0]
        files = [f"{folder}/{row.file}" for row in table.rows.values()]
        labels = np.array([label_of[row.type] for row in table.rows.values()], dtype=np.int64)
        splits[split] = image_split(tree, folder, files, labels)
    real = {path for table in read.values() for path in table.real}
    unused = unused_images(tree, used)
    left_out = count_left_out(root, {"in no table": unused}, real)
    why = " and ".join(f"{shown('/'.join(tables[split]))} with {len(table.rows)} rows" for split, table in read.items())
    return Source(tree, FILE_NAME, classes, splits, left_out, why)


class _Row(NamedTuple):
    line: int
    file: str  # below the table's folder
    identity: str
    type: str


class _Table:
    """One info.csv: its rows by the identity of their files, and the real paths of these and of itself."""

    def __init__(self, tree: FileTree, folder: str, file: str) -> None:
        self.where = where = tree.at(f"{folder}/{file}")
        files = NamedFiles(tree, folder)
        self.rows: dict[str, _Row] = {}
        repeated = 0
        for line, written, name in _rows(tree.local(f"{folder}/{file}"), where):
            at = f"{where}, line {line}: {shown(written)}"
            row = _Row(line, *files.find(written, at), name)
            earlier = self.rows.setdefault(row.identity, row)
            if earlier.type != name:
                raise DataError(
                    f"{at} is of type {shown(name)}, and by line {earlier.line} of type {shown(earlier.type)}; an "
                    "image has one class"
                )
            repeated += earlier is not row
        if repeated:
            _log.warning("%s: %d row(s) say again what earlier rows say", where, repeated)
        if not self.rows:
            raise DataError(f"{where}: has no row below its header; name one image a row")
        self.real = {tree.root.folders[folder].path(file), *files.real}


def _rows(path: Path, where: str) -> Iterator[tuple[int, str, str]]:
    lines = csv_cells(path, where)
    header = [name.strip() for name in next(lines, (1, []))[1]]
    if not any(header):
        raise DataError(f"{where}: is empty; it needs a header with {_FILE_COLUMN} and {_CLASS_COLUMN}")
    for column in (_FILE_COLUMN, _CLASS_COLUMN):
        if (count := header.count(column)) != 1:
            raise DataError(
                f"{where}: has {count or 'no'} column(s) named {column}; there are {listed(header, 10)}, and "
                f"{_FILE_COLUMN} and {_CLASS_COLUMN} are needed once each"
            )
    for line, row in lines:
        at = f"{where}, line {line}"
        check_width(row, header, at)
        file, name = (row[header.index(column)].strip() for column in (_FILE_COLUMN, _CLASS_COLUMN))
        if not file:
            raise DataError(f"{at}: the column {_FILE_COLUMN} is empty")
        if problem := class_name_problem(name):
            raise DataError(f"{at}: the column {_CLASS_COLUMN} {problem}")
        yield line, file, composed(name)
