"""What a step has made, as MLflow gets it: read from its manifests, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.artifacts.artifact import read_manifest
from components.shared.artifacts.evaluation import EVALUATION, EvaluationManifest
from components.shared.artifacts.model import MODEL, ModelManifest
from components.shared.files import sha256_of
from components.shared.params.gate import CLASS_METRICS
from components.shared.tracking.figures import Point, points_at_end, points_of_history
from components.shared.tracking.model_folder import FOLDER, model_folder

# Of more classes the report has the figures: MLflow draws a chart for each metric.
_MAX_CLASSES = 100


@dataclass(frozen=True)
class Made:
    """What there is to record of a step that has succeeded.

    Attributes:
        points: Final figures.
        history: Of training, the figures of every epoch, also those of earlier attempts.
        files: Files by the name they get in MLflow.
        model: Of training, what describes its ``model.onnx``.
    """

    points: list[Point] = field(default_factory=list)
    history: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    model: ModelManifest | None = None

    def texts(self, run_id: str, mlflow_version: str) -> dict[str, str]:
        """Texts by the name they get in MLflow; the last makes a model of the files before it."""
        if self.model is None or self.model.onnx is None:
            return {}
        texts = model_folder(self.model, self.model.onnx.file, run_id, mlflow_version)
        return {f"{FOLDER}/{name}": text for name, text in texts.items()}


def made_by(step: str, report: Mapping[str, Any], time_ms: int) -> Made:
    """What a step's report, in paths of this machine, leads to; ArtifactError where that is no whole artifact."""
    if step == "train" and "model" in report:
        return _model(Path(report["model"]), time_ms)
    if step == "evaluate" and "evaluation" in report:
        return _evaluation(Path(report["evaluation"]), time_ms)
    return Made()


def _model(directory: Path, time_ms: int) -> Made:
    manifest: ModelManifest = read_manifest(directory, MODEL)
    selection = manifest.selection
    figures = {"selected/loss": selection.loss, "selected/accuracy": selection.accuracy}
    tags = {
        "dataset_sha256": manifest.provenance.dataset_sha256,
        "model_sha256": sha256_of(directory / MODEL.manifest_file),
        "weights_sha256": manifest.weights.sha256,
        "selected_epoch": str(selection.epoch),
        "selected_on": selection.split,
        "device": manifest.provenance.device,
    }
    files = {}
    if manifest.onnx is not None:
        tags["onnx_sha256"] = manifest.onnx.sha256
        files[f"{FOLDER}/{manifest.onnx.file}"] = directory / manifest.onnx.file
    if manifest.learning_curves is not None:
        files[manifest.learning_curves.file] = directory / manifest.learning_curves.file
    return Made(
        points=list(points_at_end(figures, time_ms, selection.epoch)),
        history=list(points_of_history(manifest.history, selection.split, time_ms)),
        tags=tags,
        files=files,
        model=manifest,
    )


def _evaluation(directory: Path, time_ms: int) -> Made:
    manifest: EvaluationManifest = read_manifest(directory, EVALUATION)
    figures = dict(manifest.metrics)
    for row in manifest.per_class if len(manifest.per_class) <= _MAX_CLASSES else ():
        figures |= {f"{name}[{row.name}]": getattr(row, name) for name in CLASS_METRICS}
    return Made(
        points=list(points_at_end(figures, time_ms)),
        tags={
            "dataset_sha256": manifest.dataset_sha256,
            "model_sha256": manifest.model_sha256,
            "evaluation_sha256": sha256_of(directory / EVALUATION.manifest_file),
        },
        files={manifest.report.file: directory / manifest.report.file},
    )
