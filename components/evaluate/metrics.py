"""The figures of an evaluation, by scikit-learn's names and with its values; tests hold them against scikit-learn.

A figure that cannot be computed of the images at hand, such as the area under ROC curves where one class alone occurs,
is left out, where scikit-learn gives NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from components.shared.metrics import Integers, PerClass, Reals

Probabilities = npt.NDArray[np.float32]
TOP = 5
# scikit-learn's log_loss clips probabilities to the resolution of their type: one of exactly 0 costs 15.94 nats.
_SMALLEST = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Scores:
    """What the probabilities say of each image, arrays of shape (images,).

    Attributes:
        predicted: The most probable class, the first of equals.
        confidences: Its probability.
        losses: Log loss in nats.
        squared_errors: Brier score's part: sum over the classes of the squared distance from 0 or 1.
        ranks: How many classes come before the true one; of equals the later ones do, as scikit-learn has it.
    """

    predicted: Integers
    confidences: Reals
    losses: Reals
    squared_errors: Reals
    ranks: Integers


def scores_of(labels: Integers, probabilities: Probabilities) -> Scores:
    """The scores of some images from true classes and probabilities, shape (images, classes)."""
    predicted = probabilities.argmax(axis=1)
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    later = np.arange(probabilities.shape[1]) > labels[:, None]
    squares = np.square(probabilities, dtype=np.float64).sum(axis=1)
    of_own = own[:, 0].astype(np.float64)
    return Scores(
        predicted=predicted,
        confidences=np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0].astype(np.float64),
        losses=-np.log(np.clip(of_own, _SMALLEST, 1 - _SMALLEST)),
        squared_errors=np.maximum(0, squares - of_own**2) + (1 - of_own) ** 2,
        ranks=np.count_nonzero((probabilities > own) | ((probabilities == own) & later), axis=1),
    )


def joined(parts: list[Scores]) -> Scores:
    """The scores of parts of a split, one after the other."""
    return Scores(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Scores)))


def figures_of(labels: Integers, scores: Scores, of: PerClass) -> dict[str, float]:
    """The figures that need no curve, by name, from the true classes, the scores and the figures of every class."""
    n_images, n_classes = len(labels), len(of.support)
    occurs = of.support > 0
    counted = occurs | (of.times_predicted > 0)
    accuracy = float(np.mean(scores.predicted == labels))
    figures = {"accuracy": accuracy, "balanced_accuracy": float(np.mean(of.recall[occurs]))}
    if n_classes > TOP:
        figures[f"top_{TOP}_accuracy"] = float(np.mean(scores.ranks < TOP))
    for name in ("precision", "recall", "f1"):
        figures[f"{name}_macro"] = float(np.mean(getattr(of, name)[counted]))
    for name in ("precision", "recall", "f1"):
        figures[f"{name}_weighted"] = float(np.average(getattr(of, name), weights=of.support))
    figures["log_loss"] = float(np.mean(scores.losses))
    # Of two classes scikit-learn counts one, so that the score is at most 1; of more all, and it is at most 2.
    figures["brier_score"] = float(np.mean(scores.squared_errors)) * (0.5 if n_classes == 2 else 1)
    by_chance = float(np.dot(of.support / n_images, of.times_predicted / n_images))
    if by_chance < 1:
        figures["cohen_kappa"] = (accuracy - by_chance) / (1 - by_chance)
    figures["matthews_corrcoef"] = _matthews(accuracy, by_chance, of)
    return figures


def _matthews(accuracy: float, by_chance: float, of: PerClass) -> float:
    n_images = of.support.sum()
    spreads = [1 - float(np.dot(share, share)) for share in (of.support / n_images, of.times_predicted / n_images)]
    product = spreads[0] * spreads[1]
    return (accuracy - by_chance) / product**0.5 if product > 0 else 0.0
