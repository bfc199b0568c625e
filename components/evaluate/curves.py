"""ROC and precision-recall curves of each class against the rest, with exact areas.

Between two scores of the class's own images only wrong ones are added, which is a straight line. So a curve is exact
by the scores of these images alone: what is sorted for 2,000 classes are float32 values, without their labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.shared.metrics import Integers, Reals

# Vertices that a curve keeps to be drawn; areas are of all.
MAX_VERTICES = 201
# Scores that are sorted at once: 64 MiB.
BLOCK_VALUES = 2**24


@dataclass(frozen=True)
class Curve:
    """A curve by its vertices, arrays of one shape, from the highest threshold to the lowest.

    Attributes:
        x: False positive rate, or recall.
        y: True positive rate, or precision.
        thresholds: Images of at least this probability are taken for the class; infinity: none; NaN: not of one class.
    """

    x: Reals
    y: Reals
    thresholds: Reals


@dataclass(frozen=True)
class Curves:
    """The curves of all classes, each against the rest, and their mean.

    Attributes:
        classes: None for a class that does not occur, and for ROC also for one to which all images belong.
        areas: Under each class's curve, exact; NaN where there is none. Of precision and recall: average precision.
        macro: Mean of the curves over a grid of x; None where no class has one.
    """

    classes: list[Curve | None]
    areas: Reals
    macro: Curve | None

    @property
    def area(self) -> float | None:
        """Mean of the areas, each class alike; None where no class has one."""
        return None if self.macro is None else float(np.nanmean(self.areas))

    @property
    def left_out(self) -> int:
        """Number of classes without a curve, which the means leave out."""
        return sum(curve is None for curve in self.classes)


def curves_of(labels: Integers, probabilities: npt.NDArray[np.float32]) -> tuple[Curves, Curves]:
    """ROC and precision-recall curves from the true classes and the probabilities, shape (images, classes)."""
    kinds = [_Collected(probabilities.shape[1]) for _ in range(2)]
    for index, (own, scores) in enumerate(_by_class(labels, probabilities)):
        for kind, drawn in zip(kinds, _drawn(own, scores), strict=True):
            if drawn is not None:
                kind.add(index, *drawn)
    roc, precision_recall = (kind.curves() for kind in kinds)
    return roc, precision_recall


def _by_class(
    labels: Integers, probabilities: npt.NDArray[np.float32]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Of each class, the scores of its own images and those of all, sorted."""
    order = np.argsort(labels, kind="stable")
    n_images, n_classes = probabilities.shape
    bounds = np.searchsorted(labels[order], np.arange(n_classes + 1))
    width = max(1, BLOCK_VALUES // n_images)
    for start in range(0, n_classes, width):
        # Copied by blocks of classes: a column alone would read all pages of a mapped file.
        block = np.ascontiguousarray(probabilities[:, start : start + width].T)
        for offset, scores in enumerate(block):
            own = scores[order[bounds[start + offset] : bounds[start + offset + 1]]]
            own.sort()
            scores.sort()
            yield own, scores


_Drawn = tuple[Curve, float, Reals]
_GRID = np.linspace(0, 1, MAX_VERTICES)


def _drawn(own: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> tuple[_Drawn | None, _Drawn | None]:
    """A class's two curves, each with its area and its values over the grid."""
    positives, negatives = len(own), len(scores) - len(own)
    if not positives:
        return None, None
    thresholds = np.unique(own)[::-1]
    # Two vertices for each threshold: with the images above it, and with those at it as well.
    above = len(scores) - np.searchsorted(scores, thresholds, side="right")
    at = len(scores) - np.searchsorted(scores, thresholds, side="left")
    taken = np.stack([above, at], axis=1).ravel()
    right = np.repeat(len(own) - np.searchsorted(own, thresholds, side="left"), 2)
    right[::2] = np.concatenate(([0], right[1:-1:2]))
    padded = np.append(scores.astype(np.float64), np.inf)
    at_vertices = padded[len(scores) - taken]  # the lowest score that is taken
    recall = right / positives
    precision = np.divide(right, taken, out=np.ones(len(taken)), where=taken > 0)
    precision_recall = (
        _thinned(recall, precision, at_vertices),
        float(np.sum(np.diff(recall[1::2], prepend=0) * precision[1::2])),
        precision[1::2][np.minimum(np.searchsorted(recall[1::2], _GRID), len(thresholds) - 1)],
    )
    if not negatives:
        return None, precision_recall
    x = np.concatenate(([0], (taken - right) / negatives, [1]))
    y = np.concatenate(([0], recall, [1]))
    vertices = np.concatenate(([np.inf], at_vertices, scores[:1]))
    return (_thinned(x, y, vertices), float(np.trapezoid(y, x)), np.interp(_GRID, x, y)), precision_recall


def _thinned(x: Reals, y: Reals, thresholds: Reals) -> Curve:
    """At most MAX_VERTICES of the vertices, evenly along the curve, its ends among them."""
    along = np.concatenate(([0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))))
    kept = np.flatnonzero(np.diff(along, prepend=-1))  # vertices that do not repeat the one before
    if len(kept) > MAX_VERTICES:
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], MAX_VERTICES)).clip(max=len(along) - 1))
    return Curve(x[kept], y[kept], thresholds[kept])


class _Collected:
    """The curves of one kind, class by class."""

    def __init__(self, n_classes: int) -> None:
        self._classes: list[Curve | None] = [None] * n_classes
        self._areas = np.full(n_classes, np.nan)
        self._sum = np.zeros(len(_GRID))

    def add(self, index: int, curve: Curve, area: float, over_grid: Reals) -> None:
        self._classes[index], self._areas[index] = curve, area
        self._sum += over_grid

    def curves(self) -> Curves:
        count = sum(curve is not None for curve in self._classes)
        macro = Curve(_GRID, self._sum / count, np.full(len(_GRID), np.nan)) if count else None
        return Curves(self._classes, self._areas, macro)
