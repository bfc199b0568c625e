"""Which columns of a table hold the images and the labels, and the names of the classes that its metadata bring."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from components.data_prep.layouts.source import composed, listed
from components.shared.artifacts.artifact import class_name_problem
from components.shared.errors import DataError
from components.shared.text import shortened, shown

# What columns are usually called, in any case; of several that could be meant, one of these names decides.
_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "class", "target", "category")


@dataclass(frozen=True, slots=True)
class Column:
    """A column at the top of a table."""

    name: str
    type: str  # as it is printed in messages
    kind: Literal["images", "texts", "numbers", "other"]  # encoded images; what can be labels; neither
    path: str  # what is read of it, such as image.bytes


class Feature(NamedTuple):
    """What the library datasets notes of a column."""

    type: str  # such as ClassLabel
    names: tuple[str, ...] | None  # of the classes, in NFC


Features = Mapping[str, Feature]


def read_features(where: str, text: str | bytes) -> Features:
    """What a schema's metadata under the key ``huggingface`` say, or a ``dataset_info.json``; DataError if damaged."""
    try:
        info = json.loads(text)
        info = info.get("info", info)
        return {name: _feature(where, name, feature) for name, feature in (info.get("features") or {}).items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise DataError(f"{where}: its description of the columns is damaged; write it again") from None


def _feature(where: str, column: str, feature: Any) -> Feature:
    kind = feature.get("_type") if isinstance(feature, dict) else None  # a list of what it holds has none
    names = feature.get("names") if kind == "ClassLabel" else None
    return Feature(str(kind), names if names is None else check_names(where, column, names))


def check_names(where: str, column: str, names: Any) -> tuple[str, ...]:
    """The names of classes in NFC; an error if they are none."""
    at = f"{where}, column {shown(column)}"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{at}: the names of its classes are no list of texts; write it again")
    checked = tuple(map(composed, names))
    for name in checked:
        if problem := class_name_problem(name):
            raise DataError(f"{at}: the class name {shown(name)!a} {problem}")
    if len(set(checked)) < len(checked):
        twice = next(name for name in checked if checked.count(name) > 1)
        raise DataError(f"{at}: {shown(twice)} is the name of two classes; rename one of them")
    return checked


class Choice(NamedTuple):
    """A column, and why it is this one."""

    column: Column
    reason: str


def choose_images(where: str, columns: Sequence[Column], features: Features) -> Choice:
    """The column of the images; an error if there is none, or it is not clear which."""
    found = [column for column in columns if column.kind == "images"]
    noted = [column for column in found if _type_of(column, features) == "Image"]
    if not found:
        raise DataError(
            f"{where}: has no column of images, which holds their encoded bytes, or structs with a field bytes; it has "
            f"{_listed(columns)}"
        )
    return _choose(where, "images", noted or found, _IMAGES, "an Image by its metadata" if noted else "it holds bytes")


def choose_labels(where: str, columns: Sequence[Column], features: Features) -> Choice:
    """The column of the labels: a ClassLabel, or one of numbers or texts that is called so; an error as for images."""
    found = [column for column in columns if column.kind in ("numbers", "texts")]
    noted = [column for column in found if _type_of(column, features) == "ClassLabel"]
    named = [column for column in found if column.name.casefold() in _LABELS]
    if not (noted or named):
        raise DataError(
            f"{where}: has no column of labels: of whole numbers or texts, and either a ClassLabel by its metadata or "
            f"called {', '.join(_LABELS[:-1])} or {_LABELS[-1]}; it has {_listed(columns)}; rename the one that counts"
        )
    return _choose(where, "labels", noted or named, _LABELS, "a ClassLabel by its metadata" if noted else "by its name")


def _choose(where: str, what: str, found: list[Column], usual: Collection[str], reason: str) -> Choice:
    if len(found) == 1:
        return Choice(found[0], reason)
    for name in usual:
        called = [column for column in found if column.name.casefold() == name]
        if len(called) == 1:
            others = listed([column.name for column in found if column is not called[0]])
            return Choice(called[0], f"by its name; not read: {others}")
    raise DataError(
        f"{where}: {_listed(found)} could all be the {what}; call the one that counts {next(iter(usual))}, or keep it "
        "alone, such as by select_columns of datasets or select of a pyarrow.Table"
    )


def _type_of(column: Column, features: Features) -> str:
    return features[column.name].type if column.name in features else ""


def _listed(columns: Sequence[Column]) -> str:
    return listed([f"{shown(column.name, 40)} ({shortened(column.type, 40)})" for column in columns]) or "none"
