"""The figures of an evaluation, by scikit-learn's names and with its values; tests hold them against scikit-learn.

A figure that cannot be computed of the images at hand, such as Cohen's kappa where one class alone occurs, is left out,
where scikit-learn gives NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from components.shared.metrics import Integers, PerClass, Reals, share

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
    n_classes = len(of.support)
    right = np.bincount(labels[scores.predicted == labels], minlength=n_classes)
    figures = {name: float(value) for name, value in counted(of.support, of.times_predicted, right).items()}
    if n_classes > TOP:
        figures[f"top_{TOP}_accuracy"] = float(np.mean(scores.ranks < TOP))
    figures["log_loss"] = float(np.mean(scores.losses))
    figures["brier_score"] = float(np.mean(scores.squared_errors)) * brier_scale(n_classes)
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def brier_scale(n_classes: int) -> float:
    """Of two classes scikit-learn's Brier score counts one, to be at most 1; of more all, and it is at most 2."""
    return 0.5 if n_classes == 2 else 1.0


def counted(support: Any, times_predicted: Any, right: Any) -> dict[str, Reals]:
    """The figures that follow from counts, or weights, of images; NaN where one cannot be computed.

    Args:
        support: Images of each class, shape (…, classes).
        times_predicted: Images taken for each class.
        right: Images of each class that are taken for it.

    Returns:
        Arrays of shape (…), by name. Macro averages are over the classes that occur among labels or predictions,
        balanced accuracy is over those that occur among labels.
    """
    images = support.sum(axis=-1)
    occurs = support > 0
    anywhere = occurs | (times_predicted > 0)
    shares = {
        "precision": share(right, times_predicted),
        "recall": share(right, support),
        "f1": share(2 * right, support + times_predicted),
    }
    accuracy = right.sum(axis=-1) / images
    by_chance = np.sum(support * (times_predicted / images[..., None]), axis=-1) / images
    spread = [1 - np.sum(np.square(each / images[..., None]), axis=-1) for each in (support, times_predicted)]
    product = np.maximum(0, spread[0] * spread[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = (accuracy - by_chance) / (1 - by_chance)
        matthews = np.where(product > 0, (accuracy - by_chance) / np.sqrt(product), 0.0)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": np.mean(shares["recall"], axis=-1, where=occurs),
        **{f"{name}_macro": np.mean(each, axis=-1, where=anywhere) for name, each in shares.items()},
        **{f"{name}_weighted": np.sum(each * support, axis=-1) / images for name, each in shares.items()},
        "cohen_kappa": kappa,
        "matthews_corrcoef": matthews,
    }
