"""evaluate(): from a model directory and a dataset directory to an evaluation directory."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluate.analyse import analyse
from components.evaluate.baseline import Baseline
from components.evaluate.comparison import comparison_text
from components.evaluate.findings import Findings, Origin
from components.evaluate.fit import check_fit
from components.evaluate.gate import judge, log_gate
from components.evaluate.inference import collect, parts_of
from components.evaluate.manifest import manifest_of
from components.evaluate.predictions_csv import write_predictions
from components.evaluate.report import render_report
from components.shared.artifacts.artifact import ArtifactWriter
from components.shared.artifacts.dataset import DATASET, Dataset, evaluation_splits, open_dataset
from components.shared.artifacts.evaluation import EVALUATION, EvaluationManifest
from components.shared.artifacts.model import MODEL, Model, onnx_file, onnx_of, open_model
from components.shared.events.data import Emit, Mistake, Progress, Succeeded, ignore_events
from components.shared.files import sha256_of
from components.shared.html.page import write_page
from components.shared.inference.classifier import OnnxClassifier
from components.shared.inference.runtime import runtime_version
from components.shared.limits import usable_cpus
from components.shared.logs import step_logger
from components.shared.metrics import log_batches
from components.shared.params.gate import check_gate
from components.shared.params.params import Params
from components.shared.run import current_run
from components.shared.staging import Staging
from components.shared.version import __version__

_log = step_logger("evaluate")
_LOGGED = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "log_loss")
_MISTAKES = 10


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation found, and its directory, report and manifest.

    Attributes:
        publish: Whether the model is to be published: it passes, and the params name a publish_uri.
    """

    findings: Findings = field(repr=False)
    evaluation: Path
    report_file: Path
    manifest: EvaluationManifest = field(repr=False)
    publish: bool

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
            "passed": self.findings.passed,
            "publish": self.publish,
            "gate": self.findings.gate.model_dump() if self.findings.gate else None,
            "device": self.manifest.device,
            "images_per_second": self.manifest.images_per_second,
        }

    def _mistake(self, index: int) -> Mistake:
        found = self.findings
        label, predicted = found.classes[found.labels[index]], found.classes[found.predicted[index]]
        return Mistake(found.name_of(index), label, predicted, float(found.confidences[index]))

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        return Succeeded(
            seconds=seconds,
            metrics=dict(self.findings.metrics),
            artifacts={"evaluation": str(self.evaluation), "report": str(self.report_file)},
            mistakes=[self._mistake(index) for index in self.findings.most_confident_errors(_MISTAKES).tolist()],
            gate=self.findings.gate.outcome() if self.findings.gate else None,
            publishes=self.publish,
        )


def evaluate(
    *, model: Path, dataset: Path, evaluation: Path, params: Params, emit: Emit = ignore_events
) -> EvaluateResult:
    """Evaluate a model, as it is shipped, on the test split of a dataset and write an evaluation directory.

    Args:
        model: A complete model directory.
        dataset: A complete dataset directory with the model's classes and image shape.
        evaluation: Where the evaluation directory is made; new, empty, or an earlier evaluation that is replaced.
        params: The run's options.
        emit: Gets the status of the step.

    A baseline that the params name is fetched where it is in a bucket, and runs on the same images.

    Raises:
        InputError: Model, baseline or dataset is incomplete or damaged, they or the params do not fit each other, a
            network gives values that are not finite, the evaluation directory holds something else, or there is no such
            device.
    """
    source, data = open_model(model, onnx_file), open_dataset(dataset, evaluation_splits)
    check_fit(source, data, params)
    check_gate(params.gate, source.manifest.classes)
    classifier = OnnxClassifier.open(source, params.device)
    with Staging(_log, emit, params) as staging, ArtifactWriter(evaluation, EVALUATION) as writer:
        baseline = Baseline.open(params, data, staging)
        findings = _findings(source, data, classifier, baseline, params, evaluation, emit)
        if params.gate is not None:
            gate = judge(params.gate, findings.figures(), findings.intervals, findings.comparison)
            findings = replace(findings, gate=gate)
        if params.eval_metric_compute_freq == "batch":
            columns = (findings.labels, findings.predicted, findings.losses)
            log_batches(_log, *columns, len(findings.classes), params.eval_batch_size)
        _log_findings(findings)
        predictions_file = writer.new_file("predictions.csv")
        write_predictions(predictions_file, findings)
        report_file = writer.new_file("report.html")
        write_page(report_file, render_report(findings, data.splits["test"].image, source.manifest, data.manifest))
        manifest = manifest_of(findings, writer.record(predictions_file), writer.record(report_file))
        writer.commit(manifest)
    publish = findings.passed and params.publish_uri is not None
    return EvaluateResult(findings, evaluation, report_file, manifest, publish)


def _findings(
    model: Model,
    data: Dataset,
    classifier: OnnxClassifier,
    baseline: Baseline | None,
    params: Params,
    evaluation: Path,
    emit: Emit,
) -> Findings:
    started, start = datetime.now(UTC), time.perf_counter()
    manifest, split, count = model.manifest, data.splits["test"], len(data.splits["test"])
    _log.info("%s test images of %d classes on %s", f"{count:,}", len(manifest.classes), classifier.device)

    def report(done: int) -> None:
        rate = done / (time.perf_counter() - start)
        emit(Progress(done, count, "images", samples_per_second=rate, device=classifier.device))

    parts = parts_of(classifier, split, model.path, report)
    probabilities, scores = collect(parts, (count, len(manifest.classes)), evaluation)
    seconds = time.perf_counter() - start
    report(count)
    comparison = baseline.compare(scores) if baseline else None
    dataset_sha256 = sha256_of(data.path / DATASET.manifest_file)
    origin = Origin(
        run=current_run.get(),
        started=started,
        ended=datetime.now(UTC),
        seconds=seconds,
        device=classifier.device,
        provider=classifier.provider,
        threads=usable_cpus(),
        versions={
            "shutterline": __version__,
            "python": platform.python_version(),
            "onnxruntime": runtime_version(),
            "numpy": np.__version__,
        },
        manual_seed=params.manual_seed,
        selected_epoch=manifest.selection.epoch,
        selected_on=manifest.selection.split,
        last_epoch=max([manifest.selection.epoch, *(record.epoch for record in manifest.history)]),
        was_chosen=sum(record.loss is not None for record in manifest.history) != 1,
        same_dataset=manifest.provenance.dataset_sha256 == dataset_sha256,
        model_sha256=sha256_of(model.path / MODEL.manifest_file),
        onnx_sha256=onnx_of(manifest, model.path).sha256,
        dataset_sha256=dataset_sha256,
    )
    names = list(found) if (found := split.names()) is not None else None
    return analyse(
        manifest.classes, split.labels, probabilities, origin, scores=scores, names=names, comparison=comparison
    )


def _log_findings(findings: Findings) -> None:
    figures = "  ".join(f"{name} {findings.metrics[name]:.4f}" for name in _LOGGED)
    _log.info("%s: %s (%.0f images/s)", findings.split, figures, findings.images_per_second)
    low, high = findings.intervals["accuracy"]
    _log.info("accuracy of all such images, with 95 %% confidence: %.4f to %.4f", low, high)
    for name, curves in (("roc_auc_ovr", findings.roc), ("average_precision", findings.precision_recall)):
        if curves.left_out:
            counted, of = len(findings.classes) - curves.left_out, len(findings.classes)
            _log.info("%s: of %d of %d classes; the others have none of the images, or all", name, counted, of)
    if findings.comparison is not None:
        _log.info("%s", comparison_text(findings.comparison))
    _log.info("%s", findings.selection_note())
    if findings.gate is not None:
        log_gate(findings.gate)
