"""The evaluation directory: how a model does on a split it was not trained on.

Layout::

    evaluation.json    the manifest, written last: every figure
    predictions.csv    index,file,label,predicted,confidence,loss of every image, in stored order
    report.html        the same for people, one file that needs nothing else
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from components.shared.artifacts.artifact import (
    EARLIER,
    ArtifactKind,
    ClassNames,
    FileRecord,
    Manifest,
    Record,
    open_artifact,
)
from components.shared.artifacts.gate import Bounds, Finite, GateResult

_Count = Annotated[int, Field(ge=0)]
Verdict = Literal["better", "worse", "not distinguishable"]


class ClassRecord(Record):
    """The figures of one class; 0 where a share would be of nothing."""

    name: str
    precision: float = Field(ge=0, le=1)
    recall: float = Field(ge=0, le=1)
    f1: float = Field(ge=0, le=1)
    support: int = Field(ge=0, description="Number of the class's images.")
    precision_interval: Bounds
    recall_interval: Bounds
    roc_auc: Finite | None = Field(description="Against the rest; None where the class or the rest has no images.")
    average_precision: Finite | None = Field(description="None where the class has no images.")


class BinRecord(Record):
    """The images whose most probable class has a probability above `low` and up to `high`."""

    low: Finite
    high: Finite
    images: _Count
    confidence: Finite | None = Field(description="Mean probability of the predicted class; None in an empty bin.")
    accuracy: Finite | None = Field(description="Share of images that are right; None in an empty bin.")


class DifferenceRecord(Record):
    """A figure of the model minus that of the baseline."""

    value: Finite
    interval: Bounds

    @property
    def low(self) -> float:
        """Low end of its interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """High end of its interval."""
        return self.interval[1]


class ComparisonRecord(Record):
    """The model beside a baseline on the same images."""

    baseline: str = Field(description="Where the baseline is, as the params name it.")
    onnx_sha256: str = Field(description="Of the baseline's model.onnx.")
    metrics: dict[str, Finite] = Field(description="The baseline's figures.")
    differences: dict[str, DifferenceRecord] = Field(description="Of accuracy and log_loss, by the paired bootstrap.")
    only_model: int = Field(ge=0, description="Images that the model alone has right.")
    only_baseline: int = Field(ge=0, description="Images that the baseline alone has right.")
    p_value: float = Field(ge=0, le=1, description="McNemar's, exact.")
    verdict: Verdict = Field(description="On accuracy: not distinguishable unless p_value is below 0.05.")


class EvaluationManifest(Manifest):
    """``evaluation.json``."""

    kind: Literal["shutterline.evaluation"] = "shutterline.evaluation"
    split: Literal["test"]
    images: int = Field(ge=1, description="Number of images evaluated.")
    metrics: dict[str, Finite] = Field(
        min_length=1, description="By scikit-learn's names; what cannot be computed of these images is not there."
    )
    classes: ClassNames = Field(min_length=1)
    intervals: dict[str, Bounds] = Field(description="Of the metrics that have one.")
    per_class: list[ClassRecord]
    reliability: list[BinRecord]
    comparison: ComparisonRecord | None = Field(description="None: the params named no baseline.")
    confusion: list[list[_Count]] | None = Field(
        description="Row the true class, column the predicted one; None beyond 2,000 classes, where it would be larger "
        "than predictions.csv, which has it all."
    )
    selected_epoch: int = Field(ge=1, description="The epoch whose weights were evaluated.")
    selected_on: Literal["validation", "test"] = Field(description="The split that epoch was chosen on.")
    optimistic: bool = Field(description="Whether the epoch was chosen by the very images evaluated here.")
    gate: GateResult | None = Field(None, description="What the gate decided; None: the params had none.")
    run: str = Field(description="The run's id; empty where the evaluation was part of none.")
    started: str = Field(description="When the evaluation began, in UTC.")
    ended: str = Field(description="When the model had predicted all images, in UTC.")
    model_sha256: str = Field(description="Of the model's manifest, and so of every file of the model.")
    onnx_sha256: str = Field(description="Of model.onnx, which was run.")
    dataset_sha256: str = Field(description="Of the dataset's manifest, and so of every file of the dataset.")
    device: str
    provider: str = Field(description="ONNX Runtime's name of what ran the model.")
    threads: int = Field(ge=1)
    versions: dict[str, str]
    manual_seed: int
    seconds: float = Field(gt=0, description="Wall time of predicting the split.")
    images_per_second: float
    predictions: FileRecord
    report: FileRecord

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, document: Any) -> Any:
        if isinstance(document, dict) and "last_weights" in document:
            raise PydanticCustomError(EARLIER, "is of version 0.8 or earlier; evaluate the model again")
        return document

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
