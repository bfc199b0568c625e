"""What an evaluation found, before it is written down as a manifest and a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.classifier.inference import Predictions
from components.classifier.metrics import Integers, Metrics, PerClass, confusion_matrix


@dataclass(frozen=True)
class Findings:
    """Everything an evaluation found; the figures of the last weights are None where they are not finite.

    `same_dataset` says whether the model was trained with the dataset evaluated here.
    """

    classes: list[str]
    predictions: Predictions
    metrics: Metrics
    last_metrics: Metrics | None
    per_class: PerClass
    split: Literal["test"]
    selected_epoch: int
    selected_on: Literal["validation", "test"]
    last_epoch: int
    same_dataset: bool
    device: str
    versions: dict[str, str]
    manual_seed: int
    seconds: float

    @property
    def images(self) -> int:
        """Number of images evaluated."""
        return len(self.predictions.labels)

    @property
    def wrong(self) -> int:
        """Number of images taken for another class than theirs."""
        return int((self.predictions.labels != self.predictions.predicted).sum())

    @property
    def images_per_second(self) -> float:
        """Images predicted in a second of wall time."""
        return self.images / self.seconds

    @property
    def optimistic(self) -> bool:
        """Whether the epoch was chosen by the very images evaluated here."""
        return self.same_dataset and self.selected_on == self.split

    def confusion(self) -> Integers:
        """Counts of shape (classes, classes): row the true class, column the predicted one."""
        return confusion_matrix(self.predictions.labels, self.predictions.predicted, len(self.classes))

    def selection_note(self) -> str:
        """One sentence or two on how far the figures can be trusted, given how the epoch was chosen."""
        chosen = f"The weights are those of epoch {self.selected_epoch}, chosen on the {self.selected_on} split"
        if self.optimistic:
            return (
                f"{chosen} that is evaluated here too, so these figures are a little optimistic. "
                "Set validation_fraction to choose the epoch by images of their own."
            )
        if self.same_dataset:
            return f"{chosen}; the images evaluated here took no part in training or in that choice."
        return (
            f"{chosen} of another dataset than the one evaluated here. The figures are optimistic if the model's own "
            "dataset shares images with this one."
        )
