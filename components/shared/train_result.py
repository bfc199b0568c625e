"""What training reports, made where it trained, or from the model that it has published."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from components.shared.artifacts.artifact import read_manifest
from components.shared.artifacts.model import LEARNING_CURVES, MODEL, ModelManifest, Selection
from components.shared.events.data import Succeeded
from components.shared.files import write_json
from components.shared.step import Reported, scalars
from components.shared.storage.location import AnyPath

PathT = TypeVar("PathT", bound=AnyPath)


@dataclass(frozen=True)
class TrainResult(Generic[PathT]):
    """What a training run made; its train loss is the last epoch's, its seconds are of all attempts together.

    Attributes:
        mlflow_run: Id of the MLflow run that has its figures, where another process has recorded it.
    """

    model: PathT
    checkpoints: PathT
    resumed_from: str | None
    selection: Selection
    train_loss: float
    epochs: int
    parameters: int
    images_per_second: float
    seconds: float
    device: str
    mlflow_run: str | None = None

    @classmethod
    def of_model(
        cls, manifest: ModelManifest, model: PathT, checkpoints: PathT, resumed_from: str | None, mlflow_run: str | None
    ) -> Self:
        """The result of the training that has published a model.

        Args:
            manifest: The model's.
            model: Where it is.
            checkpoints: Where the training keeps its checkpoints.
            resumed_from: The position of the checkpoint that it went on from; None: it began anew.
            mlflow_run: Id of the MLflow run that has its figures; None: there is none.
        """
        made = manifest.provenance
        return cls(
            model=model,
            checkpoints=checkpoints,
            selection=manifest.selection,
            train_loss=manifest.history[-1].train_loss,
            epochs=len(manifest.history),
            parameters=manifest.parameters,
            images_per_second=made.images_per_second,
            seconds=made.seconds,
            device=made.device,
            resumed_from=resumed_from,
            mlflow_run=mlflow_run,
        )

    @property
    def metrics(self) -> dict[str, float | None]:
        """The held-out figures of the chosen epoch."""
        return {"loss": self.selection.loss, "accuracy": self.selection.accuracy}

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "model": str(self.model),
            "checkpoints": str(self.checkpoints),
            "resumed_from": self.resumed_from,
            "best_epoch": self.selection.epoch,
            "selected_on": self.selection.split,
            "metrics": self.metrics,
            "train_loss": self.train_loss,
            "epochs": self.epochs,
            "parameters": self.parameters,
            "images_per_second": self.images_per_second,
            "device": self.device,
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        metrics = self.metrics | {"train_loss": self.train_loss, "images_per_second": self.images_per_second}
        artifacts = {"model": str(self.model), "checkpoints": str(self.checkpoints)}
        return Succeeded(seconds=seconds, metrics=metrics, artifacts=artifacts, mlflow_run=self.mlflow_run)


def write_outputs(result: Reported, model: Path, *, metrics: str, learning_curves: str, model_sha256: str) -> None:
    """Write the files that a platform gets beside the model.

    Args:
        result: A `TrainResult`, also in a user's names.
        model: A directory with the model's manifest and learning curves.
        metrics: Where its held-out figures are written as JSON; empty, as below: nowhere.
        learning_curves: Where the curves are copied to.
        model_sha256: Where the SHA-256 of its weights is written.
    """
    if metrics:
        # In the store too, not in the platform's metadata alone; kfp's local cache takes an output without a file
        # for lost.
        write_json(Path(metrics), scalars(result.report()["metrics"]))
    if model_sha256:
        Path(model_sha256).write_text(read_manifest(model, MODEL).weights.sha256, encoding="utf-8")
    if learning_curves:
        shutil.copyfile(model / LEARNING_CURVES, learning_curves)
