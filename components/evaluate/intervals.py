"""How far the figures of a split may be from those of all such images: 95 % intervals.

Shares of images, such as accuracy or the recall of a class, have Wilson's interval. Other figures are computed again a
thousand times, with images of random weights (the Bayesian bootstrap: Rubin, 1981), and the interval has the middle
95 % of them. Weights, unlike images drawn with replacement, leave no class out. Each time two images are added, one
right and one wrong, of classes drawn anew: without them a model that makes no mistake among 359 images would seem to
be beyond doubt. How many images a class has is left to chance, too, as it is where test images are collected.

In simulations (tests/evaluate/test_intervals.py) the intervals held the figure of all images 90 to 99 % of the time,
of 359 to 2,000 images with less than one to 35 mistakes to be expected. With 20 images a class macro F1's did in 90 %
and weighted precision's in 68 %, being figures that are themselves too high for so few. Calibration error has no
interval: chance alone raises it, resampling raises it once more, and for a calibrated model its intervals held 71 % of
the time. Areas under curves have none, for their cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics import TOP, Scores, brier_scale, counted
from components.shared.metrics import Integers, PerClass, Reals

Interval = tuple[float, float]
RESAMPLES = 1000
# Normal deviates from -Z to Z are 95 %.
_Z = 1.959963984540054
# Random weights that are drawn at once: 64 MiB.
BLOCK_VALUES = 2**23


def intervals_of(
    classes: list[str], labels: Integers, scores: Scores, of: PerClass, metrics: dict[str, float], seed: int
) -> dict[str, Interval]:
    """The intervals of figures by name, those of single classes too; figures without one are not there.

    Args:
        classes: Names of all classes.
        labels: True classes, shape (images,).
        scores: Of the images.
        of: Figures of each class.
        metrics: The figures by name.
        seed: Of the random weights.
    """
    is_right = scores.predicted == labels
    shares = {"accuracy": is_right, "recall_weighted": is_right, f"top_{TOP}_accuracy": scores.ranks < TOP}
    resampled = _resampled(labels, scores, len(classes), np.random.default_rng(seed))
    found = {}
    for name, value in metrics.items():
        if name in shares:
            low, high = wilson(np.count_nonzero(shares[name]), len(labels))
        elif name in resampled:
            low, high = np.nanpercentile(resampled[name], [2.5, 97.5])
        else:
            continue
        # With the image that is added, most resamples of a model without mistakes are a little worse than it.
        found[name] = min(float(low), value), max(float(high), value)
    right = np.bincount(labels[is_right], minlength=len(classes))
    for name, images in (("precision", of.times_predicted), ("recall", of.support)):
        lows, highs = wilson(right, images)
        found |= {f"{name}[{each}]": (float(lows[i]), float(highs[i])) for i, each in enumerate(classes)}
    return found


def wilson(right: npt.ArrayLike, images: npt.ArrayLike) -> tuple[Reals, Reals]:
    """Low and high of the share that `right` are of `images`, arrays of one shape; 0 and 1 where there is no image."""
    count = np.maximum(images, 1)
    share, excess = right / count, _Z**2 / count
    half = _Z * np.sqrt(share * (1 - share) / count + excess / (4 * count))
    low, high = ((share + excess / 2 + sign * half) / (1 + excess) for sign in (-1, 1))
    is_empty = np.equal(images, 0)
    # Rounding may leave a share of 0 or 1 just outside.
    return np.where(is_empty, 0, np.clip(low, 0, share)), np.where(is_empty, 1, np.clip(high, share, 1))


def resampled_means(values: Reals, random: np.random.Generator, extra: npt.ArrayLike = ()) -> Reals:
    """Means of the columns of values of shape (images, columns) under random weights, shape (RESAMPLES, columns).

    `extra` are rows that are added to the images.
    """
    rows = np.concatenate([values, np.reshape(extra, (-1, values.shape[1]))]).astype(np.float32)
    columns = np.append(rows, np.ones((len(rows), 1), dtype=np.float32), axis=1)
    sums = [random.standard_exponential((count, len(rows)), dtype=np.float32) @ columns for count in _blocks(len(rows))]
    found = np.concatenate(sums).astype(np.float64)
    return found[:, :-1] / found[:, -1:]


def _blocks(width: int) -> Iterator[int]:
    """Numbers of resamples that are made at once, where each takes so many values."""
    rows = max(1, BLOCK_VALUES // width)
    return (min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows))


def _resampled(labels: Integers, scores: Scores, n_classes: int, random: np.random.Generator) -> dict[str, Reals]:
    """Figures by name, each of shape (RESAMPLES,)."""
    order = np.lexsort((scores.predicted, labels))
    both = np.stack([labels[order], scores.predicted[order]])
    # Classes that occur nowhere count in no figure.
    present, both = np.unique(both, return_inverse=True)
    true, predicted = both.reshape(2, -1)
    starts = np.flatnonzero(np.diff(true * len(present) + predicted, prepend=-1))
    sizes = np.diff(starts, append=len(labels))
    cells = true[starts], predicted[starts]
    on_diagonal = cells[0] == cells[1]
    parts = []
    for count in _blocks(len(starts) + 8 * len(present)):
        # The weights of all images of a cell, which are exponential, sum up to this.
        weights = random.standard_gamma(sizes, (count, len(sizes)))
        counts = [_sums(weights, cell, len(present)) for cell in cells]
        counts.append(_sums(weights[:, on_diagonal], cells[0][on_diagonal], len(present)))
        _add_two_images(counts, true, random)
        parts.append(counted(*counts))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values = np.stack([scores.losses, scores.squared_errors * brier_scale(n_classes)], axis=1)
    found["log_loss"], found["brier_score"] = resampled_means(values, random).T
    return found


def _sums(columns: Reals, groups: Integers, n_groups: int) -> Reals:
    """Sums of the columns of each group, shape (rows, groups)."""
    found = np.zeros((len(columns), n_groups))
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    if len(starts):
        found[:, ordered[starts]] = np.add.reduceat(columns[:, order], starts, axis=1)
    return found


def _add_two_images(counts: list[Any], true: Integers, random: np.random.Generator) -> None:
    """Add one image that is right and one that is wrong to each row of support, times predicted and right ones."""
    support, taken, _ = counts
    rows, n_images = np.arange(len(support)), len(true)
    weights = random.standard_exponential((2, len(rows)))
    own = true[random.integers(n_images, size=len(rows))]
    for each in counts:
        each[rows, own] += weights[0]
    own = true[random.integers(n_images, size=len(rows))]
    support[rows, own] += weights[1]
    begin, end = np.searchsorted(true, own), np.searchsorted(true, own, side="right")
    others = n_images - (end - begin)
    if others.min():  # of one class alone, the wrong one is taken for none; else for that of an image of another
        other = random.integers(others)
        taken[rows, true[np.where(other >= begin, other + end - begin, other)]] += weights[1]
