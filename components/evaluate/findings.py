"""What an evaluation found: predictions, figures, and where all comes from. The report, the gate and Kubeflow read it.

Figures carry scikit-learn's names; those of a class are called ``recall[NAME]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from components.evaluate.curves import Curves
from components.evaluate.intervals import Interval
from components.evaluate.metrics import Probabilities
from components.evaluate.reliability import Reliability
from components.shared.artifacts.evaluation import ComparisonRecord
from components.shared.artifacts.gate import GateResult
from components.shared.artifacts.names import ImageName
from components.shared.metrics import Integers, PerClass, Reals, confusion_matrix
from components.shared.params.gate import CLASS_METRICS


@dataclass(frozen=True)
class Origin:
    """What was evaluated, by what, where and when.

    Attributes:
        run: The run's id; empty where the evaluation was of no run.
        started: When the evaluation began, in UTC.
        ended: When the model had predicted all images, in UTC.
        seconds: Wall time of predicting the split.
        device: Where the model ran, for people.
        provider: ONNX Runtime's name of it.
        threads: Threads that computed a layer.
        versions: Of what computed the figures, by name.
        manual_seed: Of the resampling behind the intervals.
        selected_epoch: The epoch whose weights are the model.
        selected_on: The split that epoch was chosen on.
        last_epoch: The last epoch of the training.
        was_chosen: Whether the epoch was chosen among several by figures on `selected_on`; else it is the only one that
            was evaluated.
        same_dataset: Whether the model was trained with the dataset evaluated here.
        model_sha256: Of the model's manifest.
        onnx_sha256: Of model.onnx, which was run.
        dataset_sha256: Of the dataset's manifest.
    """

    run: str
    started: datetime
    ended: datetime
    seconds: float
    device: str
    provider: str
    threads: int
    versions: dict[str, str]
    manual_seed: int
    selected_epoch: int
    selected_on: Literal["validation", "test"]
    last_epoch: int
    was_chosen: bool
    same_dataset: bool
    model_sha256: str
    onnx_sha256: str
    dataset_sha256: str


@dataclass(frozen=True)
class Findings:
    """Everything an evaluation found, of the images of a split in stored order.

    Attributes:
        classes: Their names; labels and predictions index them.
        labels: The true classes, shape (images,).
        predicted: The most probable class of each image, the first of equals, shape (images,).
        confidences: The probability of that class, shape (images,).
        losses: Log loss of each image in nats, shape (images,).
        probabilities: Shape (images, classes); mapped into memory where they are large.
        names: File and original size of each image; None where the dataset has none.
        metrics: Figures over all images by scikit-learn's names; what cannot be computed of these images is not there.
        intervals: Of 95 %, low and high, by the names of `metrics`; figures without one are not there.
        per_class: Precision, recall, F1 and support of every class.
        reliability: How often the model is right by how confident it is.
        roc: Receiver operating characteristic of each class against the rest.
        precision_recall: Precision over recall of each class against the rest.
        comparison: With the baseline; None where there is none.
        gate: What the gate decided; None where there is none.
        origin: What was evaluated, by what, where and when.
    """

    classes: list[str]
    labels: Integers
    predicted: Integers
    confidences: Reals
    losses: Reals
    probabilities: Probabilities
    names: Sequence[ImageName] | None
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_class: PerClass
    reliability: Reliability
    roc: Curves
    precision_recall: Curves
    comparison: ComparisonRecord | None
    gate: GateResult | None
    origin: Origin
    split: Literal["test"] = "test"

    @property
    def images(self) -> int:
        """Number of images evaluated."""
        return len(self.labels)

    @property
    def wrong(self) -> int:
        """Number of images taken for another class than theirs."""
        return int((self.labels != self.predicted).sum())

    @property
    def images_per_second(self) -> float:
        """Images predicted in a second of wall time."""
        return self.images / self.origin.seconds

    @property
    def passed(self) -> bool:
        """Whether the model passes the gate; without one every model does."""
        return self.gate is None or self.gate.passed

    @property
    def optimistic(self) -> bool:
        """Whether the epoch was chosen by the very images evaluated here."""
        return self.origin.was_chosen and self.origin.same_dataset and self.origin.selected_on == self.split

    def name_of(self, index: int) -> str:
        """An image's file below the data folder, or its split and position where the dataset has no names."""
        return self.names[index].file if self.names else f"{self.split}/{index}"

    def figures(self) -> dict[str, float]:
        """All figures by name, those of single classes too, which are called recall[NAME] and the like."""
        return self.metrics | {
            f"{figure}[{name}]": value
            for figure in CLASS_METRICS
            for name, value in zip(self.classes, getattr(self.per_class, figure).tolist(), strict=True)
        }

    def confusion(self) -> Integers:
        """Counts of shape (classes, classes): row the true class, column the predicted one."""
        return confusion_matrix(self.labels, self.predicted, len(self.classes))

    def most_confident_errors(self, limit: int) -> Integers:
        """Indices of the wrongly predicted images with the most confidence, highest first; equals in stored order."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        order = np.argsort(-self.confidences[wrong], kind="stable")
        return wrong[order[:limit]].astype(np.int64)

    def selection_note(self) -> str:
        """One sentence or two on how far the figures can be trusted, given how the epoch was chosen."""
        chosen = f"The weights are those of epoch {self.origin.selected_epoch}, chosen on the {self.origin.selected_on}"
        if self.optimistic:
            return (
                f"{chosen} split that is evaluated here too, so these figures are a little optimistic. "
                "Set validation_fraction to choose the epoch by images of their own."
            )
        if self.origin.same_dataset and not self.origin.was_chosen:
            return (
                f"The weights are those of epoch {self.origin.selected_epoch}, the only one that training evaluated; "
                "the images evaluated here chose nothing."
            )
        if self.origin.same_dataset:
            return f"{chosen} split; the images evaluated here took no part in training or in that choice."
        return (
            f"{chosen} split of another dataset than the one evaluated here. The figures are optimistic if the model's "
            "own dataset shares images with this one."
        )
