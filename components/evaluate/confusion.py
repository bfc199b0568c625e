"""Which classes are taken for which: the most confused pairs, and the matrix of the classes that matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluate.findings import Findings
from components.shared.metrics import Integers
from components.shared.text import natural_key

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


def most_confused(findings: Findings, limit: int) -> list[ConfusedPair]:
    """The pairs of classes confused most often, by count; equals in class order."""
    support = findings.per_class.support
    labels, predicted, counts = (column[:limit].tolist() for column in _confused(findings))
    return [
        ConfusedPair(label, taken_for, count, count / int(support[label]))
        for label, taken_for, count in zip(labels, predicted, counts, strict=True)
    ]


def most_often_taken_for(findings: Findings) -> dict[int, tuple[int, int]]:
    """By each class that has errors, the class most of its images were taken for, and how many."""
    labels, predicted, counts = _confused(findings)
    labels, first = np.unique(labels, return_index=True)
    most = zip(predicted[first].tolist(), counts[first].tolist(), strict=True)
    return dict(zip(labels.tolist(), most, strict=True))


def _confused(findings: Findings) -> tuple[Integers, Integers, Integers]:
    """Labels, predictions and counts of all confused pairs, by count; equals in class order."""
    wrong, classes = findings.labels != findings.predicted, len(findings.classes)
    codes, counts = np.unique(findings.labels[wrong] * classes + findings.predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return codes[order] // classes, codes[order] % classes, counts[order]


def confusion_of(findings: Findings, pairs: Sequence[ConfusedPair]) -> Matrix:
    """The confusion matrix; beyond MAX_MATRIX_CLASSES that of the classes in the first of the pairs."""
    order = sorted(range(len(findings.classes)), key=lambda index: natural_key(findings.classes[index]))
    if len(order) > MAX_MATRIX_CLASSES:
        confused = list(dict.fromkeys(one for pair in pairs for one in (pair.label, pair.predicted)))
        kept = set(confused[:MAX_CONFUSED_CLASSES])
        order = [index for index in order if index in kept]
    positions = np.full(len(findings.classes), -1)
    positions[order] = np.arange(len(order))
    rows, columns = positions[findings.labels], positions[findings.predicted]
    both = (rows >= 0) & (columns >= 0)
    counts = np.bincount(rows[both] * len(order) + columns[both], minlength=len(order) ** 2)
    return Matrix(order, counts.reshape(len(order), len(order)))
