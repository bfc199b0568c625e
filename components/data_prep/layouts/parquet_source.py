"""Parquet files with encoded images and labels, as Hugging Face's datasets have them: one file, or several a split.

A label is read by its name. datasets takes the first file's list of names for the numbers of all files, and loses the
names of columns whose types differ a little from what it writes; here each file's numbers mean its own list's names.
An image is named after its file and its row, counted from 0, which is where it is: the path in the column says where it
once was on another machine, may be of several rows or of none, and is never opened.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from components.data_prep.contents import Block, Encoded
from components.data_prep.layouts.parquet_columns import (
    Choice,
    Column,
    Features,
    check_names,
    choose_images,
    choose_labels,
)
from components.data_prep.layouts.source import (
    MadeNames,
    Source,
    SourceSplit,
    check_known_classes,
    composed,
    in_class_order,
    listed,
    training_classes,
)
from components.data_prep.splits import SPLITS, split_in, split_of
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import count_left_out, images_below, joined, paths_below
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import Labels, SplitName
from components.shared.errors import DataError
from components.shared.logs import step_logger
from components.shared.strict_yaml import DocumentError, parse_yaml, read_text
from components.shared.text import shown

if TYPE_CHECKING:
    from components.data_prep.layouts.parquet_file import ParquetFile, RawLabels

_ENDING = ".parquet"
# train-00000-of-00003.parquet, and with a hash as older versions wrote it.
_SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{5,9})-of-(?P<count>\d{5,9})(?:-[0-9a-f]{16})?")
_STATE = "state.json"  # what save_to_disk writes beside data-00000-of-00001.arrow
_README = "README.md"
_README_BYTES, _README_VALUES = 1024**2, 100_000

_log = step_logger("data-prep")


@dataclass(frozen=True)
class ParquetFiles:
    """The files of each split, by path in order of code points, as datasets reads them."""

    splits: dict[SplitName, list[str]]
    unread: list[str]  # of no split, beside those of splits


def find_parquet(tree: FileTree) -> ParquetFiles | None:
    """The Parquet files of the data, if there is one; an error if it is not clear which split one is of."""
    folders = list(paths_below(tree.root))
    files = sorted(joined(at, name) for at, folder in folders for name in folder.others if _is_parquet(name))
    saved = [tree.at(at) for at, folder in folders if _STATE in folder.others and any(map(_is_arrow, folder.others))]
    if saved and not files:
        raise DataError(
            f"{min(saved)}: was written by save_to_disk of datasets, which is not read; load it by load_from_disk, and "
            "write each split by to_parquet, as train.parquet"
        )
    if not files:
        return None
    placed = {file: _placed(tree, file) for file in files}
    if len(tops := sorted({top for top, _ in placed.values()})) > 1:
        raise DataError(
            f"{tree.at()}: holds Parquet files in {listed([shown(top) or 'the top' for top in tops])}, which may be "
            "several datasets; give --data the folder of one, with its splits in folders such as train and test, or in "
            "the names of the files"
        )
    _check_complete(tree, files)
    splits = {split: [file for file in files if placed[file][1] == split] for split in SPLITS}
    unread = [file for file in files if placed[file][1] is None]
    if len(unread) == len(files):
        return ParquetFiles({"train": files}, [])
    if not splits["train"]:
        raise DataError(
            f"{tree.at()}: holds Parquet files of splits ({listed(files)}), and none for training; put train into the "
            "name of those that are to be trained on"
        )
    return ParquetFiles({split: of for split, of in splits.items() if of}, unread)


def _is_parquet(name: str) -> bool:
    return name.casefold().endswith(_ENDING)


def _is_arrow(name: str) -> bool:
    return name.endswith(".arrow")


def _placed(tree: FileTree, file: str) -> tuple[str, SplitName | None]:
    """The folder that a file is in, without those of splits, and its split by its folders, or else by its name."""
    *folders, name = file.split("/")
    stem = name[: -len(_ENDING)]
    if shard := _SHARD.fullmatch(stem):
        stem = shard["name"]
    splits = [_split(folder) for folder in folders]
    top = "/".join(folder for folder, split in zip(folders, splits, strict=True) if not split)
    found = {split for split in (*splits, _split(stem)) if split}
    if len(found) > 1:
        raise DataError(f"{tree.at(file)}: its path names {' and '.join(sorted(found))}; an image has one split")
    return top, found.pop() if found else None


def _split(name: str) -> SplitName | None:
    return split_of(name) or split_in(name)


def _check_complete(tree: FileTree, files: Sequence[str]) -> None:
    """Refuse shards of which some are missing, or of two writings."""
    sets: dict[str, dict[int, list[int]]] = {}
    for file in files:
        if shard := _SHARD.fullmatch(file[: -len(_ENDING)]):
            numbers = sets.setdefault(shard["name"], {}).setdefault(int(shard["count"]), [])
            numbers.append(int(shard["number"]))
    for name, counts in sets.items():
        if len(counts) > 1:
            of = " and ".join(f"of {count}" for count in counts)
            raise DataError(f"{tree.at(name)}: has shards {of}; remove those that are older")
        for count, numbers in counts.items():
            if missing := count - len({number for number in numbers if number < count}):
                first = next(number for number in range(count) if number not in numbers)
                problem = f"{missing} of {count} shards are missing, such as {first:05d}-of-{count:05d}; fetch them"
                raise DataError(f"{tree.at(name)}: {problem}")
            if len(numbers) > count:
                raise DataError(f"{tree.at(name)}: has {len(numbers)} shards of {count}; remove what is there twice")


@dataclass
class _Classes:
    """The classes of all files by name, in the order in which they came up, and the labels as their numbers."""

    named_at: str = ""  # the first file that has a list of names
    unnamed_at: str = ""  # the first file with numbers that have no names
    first: tuple[str, ...] = ()
    others: list[str] = field(default_factory=list)  # files with other lists
    numbers: dict[str, int] = field(default_factory=dict)

    def labels(self, where: str, column: str, raw: RawLabels, names: tuple[str, ...] | None) -> Labels:
        """The labels of a file's rows; -1 where there is none."""
        at = f"{where}, column {shown(column)}"
        if names is not None and not self.named_at:
            self.named_at, self.first = at, names
        elif names is not None and names != self.first:
            self.others.append(where)
        for name in names or ():
            self.numbers.setdefault(name, len(self.numbers))
        if raw.texts is None and names is None:
            self.unnamed_at = self.unnamed_at or at
        if self.named_at and self.unnamed_at:
            raise DataError(
                f"{self.unnamed_at}: holds numbers without names of classes, and {self.named_at} brings names "
                f"({listed(self.first)}), so what they mean is not certain; write it with the names, or as texts"
            )
        if raw.texts is None:
            return self._of_numbers(at, raw.values, names)
        texts = [composed(text.strip()) for text in raw.texts]
        for number, text in enumerate(texts):
            if problem := class_name_problem(text):
                _refuse(at, raw.values == number, f"the class name {problem}")
        if names is not None and (unknown := set(texts) - set(names)):
            number = min(map(texts.index, unknown))
            of = f"none of its {len(names)} classes ({listed(names)})"
            _refuse(at, raw.values == number, f"{shown(texts[number])} is {of}")
        return np.array([*map(self._of_name, texts), -1], dtype=np.int64)[raw.values]

    def _of_numbers(self, at: str, labels: Labels, names: tuple[str, ...] | None) -> Labels:
        values, index = np.unique(labels, return_inverse=True)
        end = len(names) if names else values.max(initial=0) + 1
        for value in values[(values < -1) | (values >= end)].tolist():
            of = f"the number of none of its {len(names)} classes ({listed(names)})" if names else "no class"
            _refuse(at, labels == value, f"{value} is {of}; correct it, or remove the row")
        own = [-1 if value < 0 else self._of_name(names[value] if names else str(value)) for value in values.tolist()]
        return np.array(own, dtype=np.int64)[index]

    def _of_name(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


def _refuse(at: str, rows: Any, problem: str) -> NoReturn:
    raise DataError(f"{at}, row {int(np.argmax(rows))}: {problem}")


class _Listing:
    """Reads the footers and labels of files, each file once; the first one decides which columns count."""

    def __init__(self, tree: FileTree) -> None:
        self.classes = _Classes()
        self.images = self._labels = ""
        self._tree = tree
        self._names: tuple[str, ...] | None = None

    def read(self, file: str) -> tuple[ParquetFile, Labels]:
        """A file, and the label of each row; -1 where there is none."""
        # Now: pyarrow takes 0.2 s to import and 50 MB, which no other layout needs.
        from components.data_prep.layouts.parquet_file import open_parquet_file

        with self._tree.borrowed(file) as path:
            table = open_parquet_file(path, self._tree.at(file))
            if not self.images:
                self._choose(table)
            images = _same(table, self.images, choose_images)
            if table.has_no_bytes(images):
                raise DataError(
                    f"{table.where}, column {shown(images.name)}: holds no image, at most paths to where they were, "
                    "which are not opened; give the images' own folder as --data, or load a copy that save_to_disk "
                    "wrote, and write that by to_parquet, which has the images themselves"
                )
            column = _same(table, self._labels, choose_labels)
            raw = table.labels(path, column)
        feature = table.features.get(column.name)
        names = feature.names if feature and feature.names else self._names
        return table, self.classes.labels(table.where, column.name, raw, names)

    def _choose(self, table: ParquetFile) -> None:
        images = choose_images(table.where, table.columns, table.features)
        labels = choose_labels(table.where, table.columns, table.features)
        for what, choice in (("images", images), ("labels", labels)):
            _log.info("%s are read from the column %s (%s)", what, shown(choice.column.name), choice.reason)
        self.images, self._labels = images.column.name, labels.column.name
        self._names = _names_of_readme(self._tree, self._labels)

    def read_split(self, split: SplitName, files: Sequence[str]) -> tuple[tuple[ParquetFile, ...], Labels] | None:
        """The files of a split, and the labels of all rows; None if no row of a held-out split has one."""
        read = [self.read(file) for file in files]
        values = np.concatenate([labels for _, labels in read])
        count = int((values < 0).sum())
        if not len(values):
            raise DataError(f"{read[0][0].where}: the {split} split has no row; remove it, or fetch it again")
        if count == len(values) and split != "train":
            why = "none of its %d rows has a label (-1, or null)"
            _log.warning(f"%s: the %s split is not read, as {why}", self._tree.at(), split, count)
            return None
        for table, labels in read:
            if (labels < 0).any():
                at = f"{table.where}, column {shown(self._labels)}"
                _refuse(
                    at, labels < 0, f"there is no label (-1, or null), as in {count} of {split}'s rows; remove them"
                )
        return tuple(table for table, _ in read), values


def _same(table: ParquetFile, name: str, choose: Callable[[str, Sequence[Column], Features], Choice]) -> Column:
    """The column of that name in a file, which must do for the same as in the first file."""
    columns = [column for column in table.columns if column.name == name]
    return choose(f"{table.where}, where {shown(name)} is needed", columns, table.features).column


def open_parquet(tree: FileTree, found: ParquetFiles, n_classes: int | None) -> Source:
    """The source made of Parquet files: footers and labels read, no image."""
    listing = _Listing(tree)
    read = {split: listing.read_split(split, files) for split, files in found.splits.items()}
    by_split = {split: of_split for split, of_split in read.items() if of_split}
    classes, names = listing.classes, list(listing.classes.numbers)
    held = {split: _held(names, values) for split, (_, values) in by_split.items()}
    training_classes(tree.at(), held["train"], n_classes)
    order = tuple(held["train"]) if classes.named_at else in_class_order(held["train"])
    if classes.others:
        _log.warning(
            "%d file(s) have other names of classes, or another order, than %s; each is read by its own: %s",
            *(len(classes.others), classes.named_at, listed(classes.others)),
        )
    label_of = {name: label for label, name in enumerate(order)}
    if unused := [name for name in names if name not in label_of]:
        _log.warning("%d class(es) have no training image, and are left out: %s", len(unused), listed(unused))
    number_of = np.array([label_of.get(name, -1) for name in names], dtype=np.int64)
    splits: dict[SplitName, SourceSplit] = {}
    for split, (tables, values) in by_split.items():
        check_known_classes(f"{tree.at()}, {split}", held[split], order)
        files = found.splits[split]
        starts = [0, *accumulate(table.count for table in tables)]
        rows = _Rows(tree, files, tables, listing.images, starts)
        splits[split] = SourceSplit(
            "", number_of[values], MadeNames(partial(_row_name, files, starts), range(starts[-1])), rows
        )
    if found.unread:
        _log.warning("not read, being of no split: %d file(s), such as %s", len(found.unread), shown(found.unread[0]))
    beside = {"beside Parquet files": [path for path, _, _ in images_below(tree.root)]}
    used = {file for split in splits for file in found.splits[split]}
    below = [(folder, at, name) for at, folder in paths_below(tree.root) for name in folder.others]
    real = {folder.path(name) for folder, at, name in below if joined(at, name) in used}
    left_out = count_left_out(tree.root, beside, real)
    why = f"{len(used)} file(s) such as {shown(found.splits['train'][0])}"
    return Source(tree, "Parquet files", order, splits, left_out, why)


def _held(names: Sequence[str], values: Labels) -> list[str]:
    """The names of the classes that have a label."""
    return [name for name, count in zip(names, np.bincount(values, minlength=len(names)), strict=True) if count]


def _names_of_readme(tree: FileTree, column: str) -> tuple[str, ...] | None:
    """The names of a column's classes in the head of a README.md, as datasets' own hub has them."""
    if _README not in tree.root.others:
        return None
    where = tree.at(_README)
    try:
        _, head, _ = re.split(r"^---[ \t]*\r?$", read_text(tree.local(_README), _README_BYTES), maxsplit=2, flags=re.M)
        (document,) = parse_yaml(head, _README_VALUES, core=True)
        info = document["dataset_info"]
        (features,) = (one["features"] for one in (info if isinstance(info, list) else [info]))
        (names,) = (feature["dtype"]["class_label"]["names"] for feature in features if feature["name"] == column)
        return check_names(where, column, [names[str(number)] for number in range(len(names))])
    except (DocumentError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it says nothing, or nothing of this column


def _row_name(files: Sequence[str], starts: Sequence[int], position: int) -> str:
    """Of an image by its position in a split, such as ``train-00000-of-00003.parquet/0``."""
    file = bisect_right(starts, position) - 1
    return f"{files[file]}/{position - starts[file]}"


@dataclass(frozen=True)
class _Rows:
    """Hands out the images of files, one file and one row group after another."""

    tree: FileTree
    files: Sequence[str]
    tables: tuple[ParquetFile, ...]
    column: str
    starts: list[int]  # the position of each file's first row, and of the end

    def __call__(self, wanted: Collection[int]) -> Iterator[Encoded | Block]:
        positions = sorted(wanted)
        for file, table, start, end in zip(self.files, self.tables, self.starts, self.starts[1:], strict=False):
            rows = [each - start for each in positions[bisect_left(positions, start) : bisect_left(positions, end)]]
            if not rows:
                continue
            (column,) = (column for column in table.columns if column.name == self.column)
            with self.tree.borrowed(file) as path:
                for image in table.images(path, column, rows):
                    yield Encoded(start + image.row, image.content, problem=image.problem)
