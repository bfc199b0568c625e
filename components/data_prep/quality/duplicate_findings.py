"""Findings about images that a dataset has more than once: leakage between splits, copies, and labels that disagree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.equal_values import Indices, first_of_each
from components.data_prep.quality.columns import Columns
from components.data_prep.quality.duplicates import Duplicates
from components.data_prep.quality.model import MAX_EXAMPLES, Example, Finding


def duplicate_findings(columns: Columns, found: Duplicates) -> Iterator[Finding]:
    """What there is to report of duplicates.

    Leakage is counted in images of test and validation that a training image shows, too; copies in images beyond the
    first one in a split; labels that disagree in all images that show the same.
    """
    yield from _leakage(columns, found)
    yield from _conflicts(columns, found)
    yield from _copies(columns, found)


def _leakage(columns: Columns, found: Duplicates) -> Iterator[Finding]:
    training = columns.splits["train"].stop
    groups, held_out = found.groups, np.arange(len(columns)) >= training
    # A group goes by its lowest index, and the training images come first.
    exact = held_out & (groups < training)
    one, other = found.pairs
    across = (one < training) & (other >= training)
    beside = np.full(len(columns), -1, dtype=np.int64)
    beside[other[across][::-1]] = one[across][::-1]
    near = held_out & ~exact & (beside[groups] >= 0)
    yield from columns.finding(
        "leakage",
        "problem",
        exact,
        "Held-out images are training images, too: the same file or the same pixels.",
        _exact_advice(columns, exact),
        _pairs(columns, np.flatnonzero(exact), groups),
    )
    yield from columns.finding(
        "near_leakage",
        "problem",
        near,
        "Held-out images show the same as a training image: encoded again, resized, or in other light.",
        "Keep what shows the same in one split, or remove it from one: figures on it are too good; where such images "
        "are really different ones, leave them.",
        _pairs(columns, np.flatnonzero(near), beside[groups]),
        at_least=found.crowded > 0,
    )


def _exact_advice(columns: Columns, leaking: npt.NDArray[np.bool_]) -> str:
    placed = columns.assembled.placed
    if any(placed[split].source == split for split in columns.by_split(leaking)):
        return "Remove them from one of the splits: the model has seen them, and figures on them are too good."
    return "Remove the copies: what is held out is drawn image by image, and figures on what was seen are too good."


def _conflicts(columns: Columns, found: Duplicates) -> Iterator[Finding]:
    labels, groups = columns.labels, found.groups
    lowest, highest = labels.copy(), labels.copy()
    np.minimum.at(lowest, groups, labels)
    np.maximum.at(highest, groups, labels)
    disagree = (lowest != highest)[groups]
    yield from columns.finding(
        "label_conflict",
        "problem",
        disagree,
        "The same image is in more than one class.",
        "Keep each in the class that is right, and remove the others: no model can learn both.",
        _pairs(columns, np.flatnonzero(disagree & (labels != labels[groups])), groups),
    )
    one, other = found.pairs
    near = labels[one] != labels[other]
    images = np.zeros(len(columns), dtype=np.bool_)
    images[one[near]] = images[other[near]] = True
    beside = np.full(len(columns), -1, dtype=np.int64)
    beside[other[near][::-1]] = one[near][::-1]
    yield from columns.finding(
        "near_label_conflict",
        "warning",
        images,
        "Images of different classes show nearly the same.",
        "Look whether one of the labels is wrong.",
        _pairs(columns, np.flatnonzero(beside >= 0), beside),
        at_least=found.crowded > 0,
    )


def _copies(columns: Columns, found: Duplicates) -> Iterator[Finding]:
    exact, first_exact = _again(columns, found.groups)
    near, first_near = _again(columns, found.near_groups())
    yield from columns.finding(
        "duplicates",
        "warning",
        exact,
        "Images are in their split more than once: the same file or the same pixels.",
        "Remove the copies, unless they are to count more than others.",
        _pairs(columns, np.flatnonzero(exact), first_exact),
    )
    near &= ~exact
    yield from columns.finding(
        "near_duplicates",
        "note",
        near,
        "Images show nearly the same as another one of their split.",
        "Remove what adds nothing.",
        _pairs(columns, np.flatnonzero(near), first_near),
        at_least=found.crowded > 0,
    )


def _again(columns: Columns, groups: Indices) -> tuple[npt.NDArray[np.bool_], Indices]:
    """Which images have one of their group before them in their split, and the first such one of each."""
    first = np.arange(len(columns))
    for part in columns.splits.values():
        first[part] = first_of_each(groups[part]) + part.start
    return first != np.arange(len(columns)), first


def _pairs(columns: Columns, images: Indices, beside: Indices) -> list[Example]:
    chosen = images[:MAX_EXAMPLES].tolist()
    return [Example(images=[columns.ref(index), columns.ref(int(beside[index]))]) for index in chosen]
