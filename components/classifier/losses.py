"""What training minimises: the loss of each image, and by what their sum is divided."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from components.classifier.building import checked_kwargs, construct, resolve
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params
from components.shared.text import first_line

# What Shutterline itself gives a loss, and what none of them would make sense with.
PASSED = ("reduction", "size_average", "reduce", "weight", "pos_weight", "ignore_index")


class Criterion:
    """The loss of a run.

    Sums of single images' losses are divided by :meth:`weight_of` the images, so that parts of a batch, on several
    devices or one after the other, add up to exactly what the whole batch gives.

    `class_counts` are training images of each class. ParamsError where the loss cannot be built, or takes no logits of
    that many classes.
    """

    def __init__(self, params: Params, class_counts: list[int], device: torch.device) -> None:
        weights = class_weights(params, class_counts)
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
        self._module = _module(params, self.weights)
        self._n_classes = params.n_classes
        self._one_hot = isinstance(self._module, nn.BCEWithLogitsLoss)
        self._weighs = isinstance(self._module, nn.CrossEntropyLoss | nn.MultiMarginLoss)
        try:
            shape = self(torch.zeros(2, params.n_classes, device=device), torch.zeros(2, device=device).long()).shape
            if shape != (2,):
                raise ValueError(f"gives losses of the shape {list(shape)} for two images")
        except Exception as error:  # whatever a loss raises is about its kwargs
            raise ParamsError([Problem("loss", f"{params.loss.class_} fails: {first_line(error)}")]) from error

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image, shape (batch,), from logits (batch, classes) and int64 labels (batch,)."""
        if self._one_hot:
            # The mean over the classes, as everywhere where this loss is used for single labels.
            # Not by torch's one_hot, which reads the labels to check them.
            wanted = labels.unsqueeze(1) == torch.arange(self._n_classes, device=labels.device)
            losses: Tensor = self._module(logits, wanted.to(logits.dtype)).mean(dim=1)
        else:
            losses = self._module(logits, labels)
        return losses if self.weights is None or self._weighs else losses * self.weights[labels]

    def weight_of(self, labels: Tensor) -> Tensor | int:
        """What the sum of these images' losses is divided by: how many they are, or the sum of their weights."""
        return len(labels) if self.weights is None else self.weights[labels].sum()


def _module(params: Params, weights: Tensor | None) -> Any:
    kwargs, problems = checked_kwargs(params.loss, "loss", PASSED)
    if problems:
        raise ParamsError(problems)
    cls = resolve(params.loss.class_)
    passed: dict[str, Any] = {"reduction": "none"}
    if issubclass(cls, nn.CrossEntropyLoss | nn.MultiMarginLoss):  # which know best what a weight means with smoothing
        passed["weight"] = weights
    return construct(cls, "loss.kwargs", {**kwargs, **passed})


def class_weights(params: Params, class_counts: list[int]) -> list[float] | None:
    """The weight of each class; "balanced" is scikit-learn's: images / (classes × images of the class)."""
    if params.class_weights is None or not isinstance(params.class_weights, str):
        return params.class_weights
    if 0 in class_counts:
        empty = class_counts.index(0)
        raise ParamsError(
            [Problem("class_weights", f'"balanced" needs images of every class, and class {empty} has none')]
        )
    total = sum(class_counts)
    return [total / (len(class_counts) * count) for count in class_counts]


def counts_of(labels: Any, n_classes: int) -> list[int]:
    """Images of each class, from the labels of a split."""
    counted = Counter(labels.tolist())
    return [counted[index] for index in range(n_classes)]
