"""The evaluation directory: how a model does on a split it was not trained on.

Layout::

    evaluation.json    the manifest, written last: every figure
    predictions.csv    index,label,predicted,confidence,loss of every image, in stored order
    report.html        the same for people, one file that needs nothing else
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.shared.artifacts.artifact import (
    ArtifactKind,
    ClassNames,
    FileRecord,
    Manifest,
    Record,
    open_artifact,
)
from components.shared.artifacts.gate import GateResult


class ClassRecord(Record):
    """The figures of one class; 0 where a share would be of nothing."""

    name: str
    precision: float = Field(ge=0, le=1)
    recall: float = Field(ge=0, le=1)
    f1: float = Field(ge=0, le=1)
    support: int = Field(ge=0, description="Number of the class's images.")


class EvaluationManifest(Manifest):
    """``evaluation.json``."""

    kind: Literal["shutterline.evaluation"] = "shutterline.evaluation"
    split: Literal["test"]
    images: int = Field(ge=1, description="Number of images evaluated.")
    metrics: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        min_length=1, description="By scikit-learn's names; what cannot be computed of these images is not there."
    )
    intervals: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict, description="Of 95 %, low and high, by the names of metrics; not every figure has one."
    )
    classes: ClassNames = Field(min_length=1)
    per_class: list[ClassRecord]
    confusion: list[list[Annotated[int, Field(ge=0)]]] | None = Field(
        description="Row the true class, column the predicted one; None beyond 2,000 classes, where it would be larger "
        "than predictions.csv, which has it all."
    )
    selected_epoch: int = Field(ge=1, description="The epoch whose weights were evaluated.")
    selected_on: Literal["validation", "test"] = Field(description="The split that epoch was chosen on.")
    optimistic: bool = Field(description="Whether the epoch was chosen by the very images evaluated here.")
    gate: GateResult | None = Field(None, description="What the gate decided; None: the params had none.")
    model_sha256: str = Field(description="Of the model's manifest, and so of every file of the model.")
    dataset_sha256: str = Field(description="Of the dataset's manifest, and so of every file of the dataset.")
    device: str
    versions: dict[str, str]
    manual_seed: int
    seconds: float = Field(gt=0, description="Wall time of predicting the split with the selected weights.")
    images_per_second: float
    predictions: FileRecord
    report: FileRecord

    @model_validator(mode="after")
    def _one_row_a_class(self) -> Self:
        if [row.name for row in self.per_class] != self.classes:
            raise ValueError("per_class must have one row for each class, in their order")
        count = len(self.classes)
        if self.confusion is not None and [len(row) for row in self.confusion] != [count] * count:
            raise ValueError("confusion must have one row and one column for each class")
        support = [row.support for row in self.per_class]
        if sum(support) != self.images:
            raise ValueError(f"the support of its classes does not add up to its {self.images} images")
        if self.confusion is not None and [sum(row) for row in self.confusion] != support:
            raise ValueError("the rows of confusion do not add up to the support of their classes")
        return self


EVALUATION = ArtifactKind("evaluation", "evaluation.json", EvaluationManifest)


@dataclass(frozen=True)
class Evaluation:
    """An opened evaluation directory."""

    path: Path
    manifest: EvaluationManifest


def open_evaluation(path: Path) -> Evaluation:
    """Open an evaluation directory, every file checked; ArtifactError: not a complete one, or damaged."""
    return Evaluation(*open_artifact(path, EVALUATION))
