"""evaluate(): from a model directory and a dataset directory to an evaluation directory."""

from __future__ import annotations

import csv
import platform
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.classifier.device import choose_device, describe_device, make_repeatable
from components.classifier.images import ImageStore, Normaliser, store_images
from components.classifier.inference import log_batches, predict
from components.classifier.load import load_network
from components.classifier.network import Network
from components.evaluate.analyse import analyse
from components.evaluate.findings import Findings, Origin
from components.evaluate.fit import check_fit
from components.evaluate.gate import check_gate, judge, log_gate
from components.evaluate.report import MAX_ERRORS, ConfidentError, render_report
from components.shared.artifacts.artifact import ArtifactWriter, FileRecord
from components.shared.artifacts.dataset import DATASET, Dataset, evaluation_splits, open_dataset
from components.shared.artifacts.evaluation import (
    EVALUATION,
    ClassRecord,
    EvaluationManifest,
)
from components.shared.artifacts.model import MODEL, Model, open_model, weight_files
from components.shared.errors import ArtifactError
from components.shared.events.data import Emit, Progress, Succeeded, ignore_events
from components.shared.files import naming, sha256_of
from components.shared.html.page import write_page
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.spreadsheet import as_cell
from components.shared.version import __version__

_log = step_logger("evaluate")

# A matrix of 2,000 classes is 4 million numbers, 40 MB of JSON; predictions.csv holds the same in a line an image.
_MAX_CONFUSION_CLASSES = 2000


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation found, and its directory, report and manifest.

    Attributes:
        publish: Whether the model is to be published: it passes, and the params say where to.
    """

    findings: Findings = field(repr=False)
    evaluation: Path
    report_file: Path
    manifest: EvaluationManifest = field(repr=False)
    publish: bool

    @property
    def passed(self) -> bool:
        """Whether the model passes the gate; without one every model does."""
        return self.findings.gate is None or self.findings.gate.passed

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
            "metrics": dict(self.findings.metrics),
            "passed": self.passed,
            "publish": self.publish,
            "gate": self.findings.gate.model_dump() if self.findings.gate else None,
            "device": self.manifest.device,
            "images_per_second": self.manifest.images_per_second,
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        return Succeeded(
            seconds=seconds,
            metrics=dict(self.findings.metrics),
            artifacts={"evaluation": str(self.evaluation), "report": str(self.report_file)},
            gate=self.findings.gate.outcome() if self.findings.gate else None,
            publishes=self.publish,
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
    check_gate(params.gate, source.manifest.classes)
    make_repeatable(params.manual_seed)
    network = load_network(source, model / source.manifest.weights.file)
    with ArtifactWriter(evaluation, EVALUATION) as writer:
        findings, errors = _findings(source, data, network, params, device, emit)
        if params.gate is not None:
            gate = judge(params.gate, findings.figures(), findings.intervals, findings.comparison)
            findings = replace(findings, gate=gate)
        _log_findings(findings)
        predictions_file = writer.new_file("predictions.csv")
        _write_predictions(predictions_file, findings)
        report_file = writer.new_file("report.html")
        write_page(report_file, render_report(findings, errors, source.manifest, data.manifest))
        manifest = _manifest(findings, writer.record(predictions_file), writer.record(report_file))
        writer.commit(manifest)
    passes = findings.gate is None or findings.gate.passed
    return EvaluateResult(findings, evaluation, report_file, manifest, passes and params.publish_uri is not None)


def _findings(
    model: Model, data: Dataset, network: Network, params: Params, device: torch.device, emit: Emit
) -> tuple[Findings, list[ConfidentError]]:
    manifest, split = model.manifest, data.splits["test"]
    images = store_images(split, device).store
    labels = torch.tensor(split.labels, device=device)
    normalise = Normaliser(manifest.normalisation, device)
    _log.info("%s test images of %d classes on %s", f"{len(split):,}", len(manifest.classes), describe_device(device))
    started, start = datetime.now(UTC), time.perf_counter()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    predictions = predict(network, images, labels, normalise, every_class=True)
    seconds = time.perf_counter() - start
    emit(Progress(len(split), len(split), "images", samples_per_second=len(split) / seconds, device=str(device)))
    if wrong := int(np.count_nonzero(~np.isfinite(predictions.losses))):
        raise ArtifactError(
            f"{model.path}: the network gives values that are not finite for {wrong:,} of {len(split):,} images; "
            "train it again, with a smaller learning_rate"
        )
    if params.eval_metric_compute_freq == "batch":
        log_batches(_log, predictions, params.eval_batch_size)
    origin = Origin(
        run="",
        started=started,
        ended=datetime.now(UTC),
        seconds=seconds,
        device=describe_device(device),
        provider="",
        threads=torch.get_num_threads(),
        versions={
            "shutterline": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        manual_seed=params.manual_seed,
        selected_epoch=manifest.selection.epoch,
        selected_on=manifest.selection.split,
        last_epoch=max([manifest.selection.epoch, *(record.epoch for record in manifest.history)]),
        same_dataset=manifest.provenance.dataset_sha256 == sha256_of(data.path / DATASET.manifest_file),
        model_sha256=sha256_of(model.path / MODEL.manifest_file),
        onnx_sha256=None,
        dataset_sha256=sha256_of(data.path / DATASET.manifest_file),
    )
    findings = analyse(
        manifest.classes, predictions.labels, np.asarray(predictions.probabilities, dtype=np.float32), origin
    )
    return findings, _confident_errors(findings, images, device)


def _confident_errors(findings: Findings, images: ImageStore, device: torch.device) -> list[ConfidentError]:
    indices = findings.most_confident_errors(MAX_ERRORS)
    if not len(indices):
        return []
    columns = (findings.labels, findings.predicted, findings.confidences)
    pictures = images.take(torch.tensor(indices, device=device)).cpu().numpy()
    rows = zip(indices.tolist(), pictures, *(column[indices].tolist() for column in columns), strict=True)
    return [ConfidentError(*row) for row in rows]


def _log_findings(findings: Findings) -> None:
    figures = "  ".join(f"{name} {value:.4f}" for name, value in findings.metrics.items())
    _log.info("%s: %s (%.0f images/s)", findings.split, figures, findings.images_per_second)
    _log.info("%s", findings.selection_note())
    if findings.gate is not None:
        log_gate(findings.gate)


def _write_predictions(file: Path, findings: Findings) -> None:
    names = [as_cell(name) for name in findings.classes]
    columns = (findings.labels, findings.predicted, findings.confidences, findings.losses)
    with naming(file), file.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(("index", "label", "predicted", "confidence", "loss"))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for index, (label, predicted, confidence, loss) in enumerate(rows):
            lines.writerow((index, names[label], names[predicted], confidence, loss))


def _manifest(findings: Findings, predictions: FileRecord, report: FileRecord) -> EvaluationManifest:
    of = findings.per_class
    rows = zip(
        findings.classes, *(column.tolist() for column in (of.precision, of.recall, of.f1, of.support)), strict=True
    )
    return EvaluationManifest(
        created_by=f"shutterline {__version__}",
        split=findings.split,
        images=findings.images,
        metrics=findings.metrics,
        classes=findings.classes,
        per_class=[
            ClassRecord(name=name, precision=precision, recall=recall, f1=f1, support=support)
            for name, precision, recall, f1, support in rows
        ],
        confusion=findings.confusion().tolist() if len(findings.classes) <= _MAX_CONFUSION_CLASSES else None,
        selected_epoch=findings.origin.selected_epoch,
        selected_on=findings.origin.selected_on,
        optimistic=findings.optimistic,
        gate=findings.gate,
        model_sha256=findings.origin.model_sha256,
        dataset_sha256=findings.origin.dataset_sha256,
        device=findings.origin.device,
        versions=findings.origin.versions,
        manual_seed=findings.origin.manual_seed,
        seconds=findings.origin.seconds,
        images_per_second=findings.images_per_second,
        predictions=predictions,
        report=report,
    )
