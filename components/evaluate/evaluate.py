"""evaluate(): from a model directory and a dataset directory to an evaluation directory."""

from __future__ import annotations

import csv
import platform
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.classifier.device import choose_device, describe_device, make_repeatable
from components.classifier.images import ImageStore, Normaliser, store_images
from components.classifier.inference import Predictions, log_batches, predict
from components.classifier.load import load_network
from components.classifier.metrics import Metrics, per_class
from components.classifier.network import Network
from components.evaluate.fit import check_fit
from components.evaluate.report import ConfidentError, Findings, most_confident_errors, render_report
from components.shared.artifacts.artifact import ArtifactWriter, FileRecord
from components.shared.artifacts.dataset import DATASET, Dataset, evaluation_splits, open_dataset
from components.shared.artifacts.evaluation import (
    EVALUATION,
    ClassRecord,
    EvaluationManifest,
    LastWeights,
    MetricsRecord,
)
from components.shared.artifacts.model import MODEL, Model, open_model, weight_files
from components.shared.errors import ArtifactError
from components.shared.events.data import Emit, Progress, Succeeded, ignore_events
from components.shared.files import naming, sha256_of
from components.shared.html.page import write_page
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.version import __version__

_log = step_logger("evaluate")

# A matrix of 2,000 classes is 4 million numbers, 40 MB of JSON; predictions.csv holds the same in a line an image.
_MAX_CONFUSION_CLASSES = 2000

# What a spreadsheet takes for a formula, which may run a program (OWASP, CSV injection); and the apostrophe itself, so
# that no two names become one.
_FORMULA = re.compile("(?:^|(?<=;))(?=[\" ]*[=+\\-@'\uff1d\uff0b\uff0d\uff20])")


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation found, and its directory, report and manifest."""

    findings: Findings = field(repr=False)
    evaluation: Path
    report_file: Path
    manifest: EvaluationManifest = field(repr=False)

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "evaluation": str(self.evaluation),
            "report_file": str(self.report_file),
            "predictions_file": str(self.evaluation / self.manifest.predictions.file),
            "split": self.manifest.split,
            "images": self.manifest.images,
            "selected_epoch": self.manifest.selected_epoch,
            "selected_on": self.manifest.selected_on,
            "optimistic": self.manifest.optimistic,
            "metrics": self.findings.metrics.as_dict(),
            "last_metrics": last.as_dict() if (last := self.findings.last_metrics) else None,
            "device": self.manifest.device,
            "images_per_second": self.manifest.images_per_second,
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        return Succeeded(
            seconds=seconds,
            metrics=dict(self.findings.metrics.as_dict()),
            artifacts={"evaluation": str(self.evaluation), "report": str(self.report_file)},
        )


def evaluate(
    *, model: Path, dataset: Path, evaluation: Path, params: Params, emit: Emit = ignore_events
) -> EvaluateResult:
    """Evaluate a model on the test split of a dataset and write an evaluation directory.

    Args:
        model: A complete model directory.
        dataset: A complete dataset directory with the model's classes and image shape.
        evaluation: Where the evaluation directory is made; new, empty, or an earlier evaluation that is replaced.
        params: The run's options.
        emit: Gets the status of the step.

    Raises:
        InputError: Model or dataset is incomplete or damaged, they or the params do not fit each other, the network
            gives values that are not finite, the evaluation directory holds something else, or there is no such device.
    """
    device = choose_device(params.device, cpu_build_is_enough=True)
    source, data = open_model(model, weight_files), open_dataset(dataset, evaluation_splits)
    check_fit(source, data, params)
    make_repeatable(params.manual_seed)
    networks = {
        file: load_network(source, model / file)
        for file in (source.manifest.weights.file, source.manifest.last_weights.file)
    }
    with ArtifactWriter(evaluation, EVALUATION) as writer:
        findings, errors = _findings(source, data, networks, params, device, emit)
        if params.eval_metric_compute_freq == "batch":
            log_batches(_log, findings.predictions, params.eval_batch_size)
        _log_findings(findings)
        predictions_file = writer.new_file("predictions.csv")
        _write_predictions(predictions_file, findings)
        report_file = writer.new_file("report.html")
        write_page(report_file, render_report(findings, errors, source.manifest, data.manifest))
        manifest = _manifest(findings, source, data, writer.record(predictions_file), writer.record(report_file))
        writer.commit(manifest)
    return EvaluateResult(findings, evaluation, report_file, manifest)


def _findings(
    model: Model, data: Dataset, networks: dict[str, Network], params: Params, device: torch.device, emit: Emit
) -> tuple[Findings, list[ConfidentError]]:
    manifest, split = model.manifest, data.splits["test"]
    images = store_images(split, device).store
    labels = torch.tensor(split.labels, device=device)
    normalise = Normaliser(manifest.normalisation, device)
    _log.info("%s test images of %d classes on %s", f"{len(split):,}", len(manifest.classes), describe_device(device))

    def predictions_of(file: str) -> Predictions:
        # The memory order that training evaluates in, so that the figures are training's own to the last bit.
        network = networks[file].to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return predict(network, images, labels, normalise)

    start = time.perf_counter()
    predictions = predictions_of(manifest.weights.file)
    seconds = time.perf_counter() - start
    emit(Progress(len(split), len(split), "images", samples_per_second=len(split) / seconds, device=str(device)))
    if wrong := int(np.count_nonzero(~np.isfinite(predictions.losses))):
        raise ArtifactError(
            f"{model.path}: the network gives values that are not finite for {wrong:,} of {len(split):,} images; "
            "train it again, with a smaller learning_rate"
        )
    metrics = predictions.metrics()
    last_metrics: Metrics | None = metrics
    if manifest.last_weights.sha256 != manifest.weights.sha256:
        last = predictions_of(manifest.last_weights.file)
        last_metrics = last.metrics() if np.isfinite(last.losses).all() else None
    findings = Findings(
        classes=manifest.classes,
        predictions=predictions,
        metrics=metrics,
        last_metrics=last_metrics,
        per_class=per_class(predictions.labels, predictions.predicted, predictions.n_classes),
        split="test",
        selected_epoch=manifest.selection.epoch,
        selected_on=manifest.selection.split,
        last_epoch=max([manifest.selection.epoch, *(record.epoch for record in manifest.history)]),
        same_dataset=manifest.provenance.dataset_sha256 == sha256_of(data.path / DATASET.manifest_file),
        device=describe_device(device),
        versions={
            "shutterline": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        manual_seed=params.manual_seed,
        seconds=seconds,
    )
    return findings, _confident_errors(findings.predictions, images, device)


def _confident_errors(predictions: Predictions, images: ImageStore, device: torch.device) -> list[ConfidentError]:
    indices = most_confident_errors(predictions)
    if not len(indices):
        return []
    columns = (predictions.labels, predictions.predicted, predictions.confidences)
    pictures = images.take(torch.tensor(indices, device=device)).cpu().numpy()
    rows = zip(indices.tolist(), pictures, *(column[indices].tolist() for column in columns), strict=True)
    return [ConfidentError(*row) for row in rows]


def _log_findings(findings: Findings) -> None:
    _log.info("%s: %s (%.0f images/s)", findings.split, _in_a_line(findings.metrics), findings.images_per_second)
    if findings.last_epoch != findings.selected_epoch:
        last = "values that are not finite" if findings.last_metrics is None else _in_a_line(findings.last_metrics)
        _log.info("last weights, of epoch %d: %s", findings.last_epoch, last)
    _log.info("%s", findings.selection_note())


def _in_a_line(metrics: Metrics) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.as_dict().items())


def _write_predictions(file: Path, findings: Findings) -> None:
    predictions, names = findings.predictions, [_as_cell(name) for name in findings.classes]
    columns = (predictions.labels, predictions.predicted, predictions.confidences, predictions.losses)
    with naming(file), file.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(("index", "label", "predicted", "confidence", "loss"))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for index, (label, predicted, confidence, loss) in enumerate(rows):
            lines.writerow((index, names[label], names[predicted], confidence, loss))


def _as_cell(name: str) -> str:
    """A class's name as a spreadsheet shows it: what begins as a formula does gets an apostrophe before it.

    So does what follows a semicolon, at which a spreadsheet of many countries divides cells, quotes or not.
    """
    return _FORMULA.sub("'", name)


def _manifest(
    findings: Findings, model: Model, data: Dataset, predictions: FileRecord, report: FileRecord
) -> EvaluationManifest:
    of = findings.per_class
    rows = zip(
        findings.classes, *(column.tolist() for column in (of.precision, of.recall, of.f1, of.support)), strict=True
    )
    last = findings.last_metrics
    return EvaluationManifest(
        created_by=f"shutterline {__version__}",
        split=findings.split,
        images=findings.images,
        metrics=MetricsRecord(**findings.metrics.as_dict()),
        classes=findings.classes,
        per_class=[
            ClassRecord(name=name, precision=precision, recall=recall, f1=f1, support=support)
            for name, precision, recall, f1, support in rows
        ],
        confusion=findings.confusion().tolist() if len(findings.classes) <= _MAX_CONFUSION_CLASSES else None,
        selected_epoch=findings.selected_epoch,
        selected_on=findings.selected_on,
        optimistic=findings.optimistic,
        last_weights=LastWeights(epoch=findings.last_epoch, metrics=MetricsRecord(**last.as_dict()) if last else None),
        model_sha256=sha256_of(model.path / MODEL.manifest_file),
        dataset_sha256=sha256_of(data.path / DATASET.manifest_file),
        device=findings.device,
        versions=findings.versions,
        manual_seed=findings.manual_seed,
        seconds=findings.seconds,
        images_per_second=findings.images_per_second,
        predictions=predictions,
        report=report,
    )
