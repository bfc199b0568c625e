"""Loss, accuracy, and macro precision, recall and F1, from labels, predictions and losses of single images.

The definitions are scikit-learn's (``precision_recall_fscore_support`` with ``zero_division=0``), computed in float64
in the same order, so the figures are equal to the last digit; tests hold them against scikit-learn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

# Lines of a log of single batches.
MAX_LINES = 1000

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """The figures of one evaluation: mean cross-entropy in nats, share of right images, and means over classes."""

    loss: float
    accuracy: float
    precision: float
    recall: float
    f1: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class PerClass:
    """Figures of every class, each an array of shape (classes,).

    Attributes:
        precision: Share of the class's predictions that are right; 0 where it is never predicted.
        recall: Share of the class's images that are found; 0 where it has none.
        f1: Harmonic mean of the two; 0 where both are 0.
        support: Number of the class's images.
        times_predicted: Number of images taken for the class.
    """

    precision: Reals
    recall: Reals
    f1: Reals
    support: Integers
    times_predicted: Integers


def confusion_matrix(labels: Integers, predicted: Integers, n_classes: int) -> Integers:
    """Counts of shape (classes, classes): row the true class, column the predicted one."""
    flat = np.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def per_class(labels: Integers, predicted: Integers, n_classes: int) -> PerClass:
    """The figures of every class, from the true and the predicted classes, each of shape (images,)."""
    # Counted class by class, not through the confusion matrix: that of 20,000 classes takes 3 GB, for every batch.
    right = np.bincount(labels[labels == predicted], minlength=n_classes)
    times_predicted = np.bincount(predicted, minlength=n_classes)
    support = np.bincount(labels, minlength=n_classes)
    return PerClass(
        precision=share(right, times_predicted),
        recall=share(right, support),
        f1=share(2 * right, support + times_predicted),
        support=support,
        times_predicted=times_predicted,
    )


def share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Reals:
    """`part` divided by `whole`, arrays of one shape; 0 where `whole` is 0."""
    found: Reals = np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
    return found


def metrics_of(labels: Integers, predicted: Integers, losses: Reals, n_classes: int) -> Metrics:
    """The figures of some images, each array of shape (images,).

    Macro averages are over the classes that occur among labels or predictions. No images are a ValueError.
    """
    if not len(labels):
        raise ValueError("metrics of no images")
    figures = per_class(labels, predicted, n_classes)
    occurs = (figures.support + figures.times_predicted) > 0
    return Metrics(
        loss=float(np.mean(losses)),
        accuracy=float(np.mean(labels == predicted)),
        precision=float(np.mean(figures.precision[occurs])),
        recall=float(np.mean(figures.recall[occurs])),
        f1=float(np.mean(figures.f1[occurs])),
    )


def batch_metrics(
    labels: Integers, predicted: Integers, losses: Reals, n_classes: int, batch_size: int
) -> Iterator[Metrics]:
    """The figures of each batch of `batch_size` images, in stored order."""
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        yield metrics_of(labels[part], predicted[part], losses[part], n_classes)


def log_batches(
    log: logging.Logger, labels: Integers, predicted: Integers, losses: Reals, n_classes: int, batch_size: int
) -> None:
    """Log the figures of each batch of `batch_size` images, a line each and at most 1,000."""
    batches = -(-len(labels) // batch_size)
    found = batch_metrics(labels, predicted, losses, n_classes, batch_size)
    for number, metrics in enumerate(islice(found, MAX_LINES), start=1):
        figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.as_dict().items())
        log.info("batch %d/%d  %s", number, batches, figures)
    if batches > MAX_LINES:
        log.info("… and %d more batches", batches - MAX_LINES)
