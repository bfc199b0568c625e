"""Class names that are kept beside the data, by their numbers, and what labels mean that are numbers or names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.data_prep.layouts.source import check_known_classes, composed, listed, training_classes
from components.data_prep.trees.file_tree import FileTree
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import Labels, SplitName
from components.shared.errors import DataError
from components.shared.files import read_regular
from components.shared.logs import step_logger
from components.shared.strict_json import parse_json
from components.shared.text import shown

_log = step_logger("data-prep")

# A name a line, as CLIP's benchmark and others keep them.
_TEXTS = ("classnames.txt", "class_names.txt", "classes.txt", "labels.txt")
_INFO = "dataset_info.json"  # as Hugging Face's datasets write it
_LARGEST = 16 << 20

Label = int | str


def is_name_file(file: str) -> bool:
    """Whether a file is one of class names, by its name."""
    return file.rpartition("/")[2] in (*_TEXTS, _INFO)


@dataclass(frozen=True)
class ClassNames:
    """Class names by their numbers, and where they are from."""

    where: str
    names: tuple[str, ...]


def read_class_names(tree: FileTree, files: Sequence[str]) -> ClassNames | None:
    """The class names that a tree's files hold; a DataError if two disagree, or one cannot be read."""
    found: ClassNames | None = None
    for file in files:
        where = tree.at(file)
        try:
            text = read_regular(tree.local(file), _LARGEST).decode("utf-8-sig")
            names = _of_info(text) if file.endswith(_INFO) else text.rstrip().splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: cannot be read as class names: {error}") from error
        if names:
            read = ClassNames(where, _unique(where, [composed(name.strip()) for name in names]))
            if found and found.names != read.names:
                raise DataError(f"{where}: names other classes than {found.where}; remove the one that is wrong")
            found = read
    return found


def _of_info(text: str) -> list[str]:
    match parse_json(text):
        case {"features": dict(features)}:
            lists = [value["names"] for value in features.values() if isinstance(value, dict) and "names" in value]
            if len(lists) == 1 and all(isinstance(name, str) for name in lists[0]):
                return list(lists[0])
    return []


def _unique(where: str, names: list[str]) -> tuple[str, ...]:
    for number, name in enumerate(names):
        if problem := class_name_problem(name):
            raise DataError(f"{where}, line {number + 1}: the name {problem}")
    counts = Counter(names)
    if again := [name for name, count in counts.items() if count > 1]:
        _log.warning("%s: several classes have one name (%s); their numbers are added to it", where, listed(again))
    unique = tuple(f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names))
    if len(set(unique)) < len(unique):
        raise DataError(f"{where}: several classes have one name; give each its own")
    return unique


def numbered(
    tree: FileTree,
    labels: Mapping[SplitName, Sequence[Label]],
    files: Mapping[SplitName, Sequence[str]],
    names: ClassNames | None,
    n_classes: int | None,
) -> tuple[tuple[str, ...], dict[SplitName, Labels]]:
    """The classes of labels that are numbers or names, and their numbers.

    Numbers index `names`, and are names themselves where there are none; names are sorted where there are none.

    Args:
        tree: What messages name.
        labels: Of each split, train among them.
        files: As many names of images, for messages.
        names: The class names beside the data.
        n_classes: How many classes there are to be; None: as many as there are.

    Raises:
        DataError: Both numbers and names are there, one is no class, or a class has no training image.
    """
    first: dict[type, str] = {}
    known = set(names.names if names else ())
    for split, of_split in labels.items():
        for position, label in enumerate(of_split):
            first.setdefault(type(label), f"{shown(files[split][position])} ({shown(label)})")
            if names and (label not in known if isinstance(label, str) else label >= len(names.names)):
                raise DataError(
                    f"{tree.at(files[split][position])}: its label is {shown(label)}, and {names.where} has "
                    f"{len(names.names)} names, {listed(names.names, 3)}; correct either"
                )
    if len(first) > 1 and names is None:
        raise DataError(
            f"{tree.at()}: labels are numbers, such as of {first[int]}, and names, such as of {first[str]}; "
            "write all as numbers, or all as names"
        )
    if names:
        classes = names.names
        if n_classes not in (None, len(classes)):
            raise DataError(
                f"{names.where}: names {len(classes)} classes, and params say n_classes = {n_classes}; correct either"
            )
    elif int in first:
        highest, where = max(
            (int(label), file) for split in labels for label, file in zip(labels[split], files[split], strict=True)
        )
        if n_classes is not None and highest >= n_classes:
            raise DataError(
                f"{tree.at(where)}: its label is {highest}, and params say n_classes = {n_classes}, which means labels "
                f"0 to {n_classes - 1}; correct n_classes or the label"
            )
        # So many names are not made for one label that is far off.
        count = min(n_classes or highest + 1, len(labels["train"]) + 5)
        classes = tuple(map(str, range(count)))
    else:
        classes = training_classes(tree.at(), set(map(str, labels["train"])), n_classes)
        for of_split in labels.values():
            check_known_classes(tree.at(), set(map(str, of_split)), classes)
    number_of = {name: number for number, name in enumerate(classes)}
    trained = {label if isinstance(label, int) else number_of[label] for label in set(labels["train"])}
    if missing := [name for name, number in number_of.items() if number not in trained]:
        raise DataError(
            f"{tree.at()}: {len(missing)} class(es) have no training image: {listed(missing)}; add some, or correct "
            f"{f'{names.where}' if names else 'the labels or n_classes'}"
        )
    return classes, {
        split: np.array([label if isinstance(label, int) else number_of[label] for label in of_split], dtype=np.int64)
        for split, of_split in labels.items()
    }
