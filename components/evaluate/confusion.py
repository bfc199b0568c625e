"""Which classes are taken for which: the most confused pairs, and the matrix of the classes that matter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluate.findings import Findings
from components.shared.metrics import Integers

# A wider matrix cannot be read at once.
MAX_MATRIX_CLASSES = 60
# Of more classes than that, the matrix has those of the most confused pairs.
MAX_CONFUSED_CLASSES = 20


@dataclass(frozen=True)
class ConfusedPair:
    """A class, the one it was taken for, for how many images, and what share of the true class's images they are."""

    label: int
    predicted: int
    count: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """Counts of some classes, which index the rows (true) and columns (predicted) of `counts`, in natural order."""

    classes: list[int]
    counts: Integers


def natural_order(names: Sequence[str]) -> list[int]:
    """Indices of the names as people order them: 2 before 10, capitals beside small letters."""

    def key(index: int) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"(\d+)", names[index].casefold())  # texts at even positions, numbers at odd ones
        numbers = (part.lstrip("0") if at % 2 else part for at, part in enumerate(parts))
        return [(len(part) if at % 2 else 0, part) for at, part in enumerate(numbers)], names[index]

    return sorted(range(len(names)), key=key)


def most_confused(findings: Findings, limit: int) -> list[ConfusedPair]:
    """The pairs of classes confused most often, by count; equals in class order."""
    wrong, classes = findings.labels != findings.predicted, len(findings.classes)
    codes, counts = np.unique(findings.labels[wrong] * classes + findings.predicted[wrong], return_counts=True)
    pairs = []
    for index in np.argsort(-counts, kind="stable")[:limit]:
        label, predicted = divmod(int(codes[index]), classes)
        count = int(counts[index])
        pairs.append(ConfusedPair(label, predicted, count, count / int(findings.per_class.support[label])))
    return pairs


def most_often_taken_for(findings: Findings) -> dict[int, tuple[int, int]]:
    """By each class that has errors, the class most of its images were taken for, and how many."""
    wrong, classes = findings.labels != findings.predicted, len(findings.classes)
    codes, counts = np.unique(findings.labels[wrong] * classes + findings.predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    labels, first = np.unique(codes[order] // classes, return_index=True)
    most = order[first]
    return dict(
        zip(labels.tolist(), zip((codes[most] % classes).tolist(), counts[most].tolist(), strict=True), strict=True)
    )


def confusion_of(findings: Findings, pairs: Sequence[ConfusedPair]) -> Matrix:
    """The confusion matrix; beyond MAX_MATRIX_CLASSES that of the classes in the first of the pairs."""
    order = natural_order(findings.classes)
    if len(order) > MAX_MATRIX_CLASSES:
        confused = list(dict.fromkeys(one for pair in pairs for one in (pair.label, pair.predicted)))
        kept = set(confused[:MAX_CONFUSED_CLASSES])
        order = [index for index in order if index in kept]
    place = np.full(len(findings.classes), -1)
    place[order] = np.arange(len(order))
    rows, columns = place[findings.labels], place[findings.predicted]
    both = (rows >= 0) & (columns >= 0)
    counts = np.bincount(rows[both] * len(order) + columns[both], minlength=len(order) ** 2)
    return Matrix(order, counts.reshape(len(order), len(order)))
