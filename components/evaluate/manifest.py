"""From findings to ``evaluation.json``."""

from __future__ import annotations

import math

from components.evaluate.findings import Findings
from components.shared.artifacts.artifact import FileRecord
from components.shared.artifacts.evaluation import (
    BinRecord,
    ClassRecord,
    EvaluationManifest,
)
from components.shared.version import __version__

# A matrix of 2,000 classes is 4 million numbers, 40 MB of JSON; predictions.csv holds the same in a line an image.
MAX_CONFUSION_CLASSES = 2000


def manifest_of(findings: Findings, predictions: FileRecord, report: FileRecord) -> EvaluationManifest:
    """The manifest of an evaluation with these files."""
    origin = findings.origin
    return EvaluationManifest(
        created_by=f"shutterline {__version__}",
        split=findings.split,
        images=findings.images,
        metrics=findings.metrics,
        intervals={name: list(findings.intervals[name]) for name in findings.metrics if name in findings.intervals},
        classes=findings.classes,
        per_class=_classes(findings),
        reliability=_bins(findings),
        comparison=findings.comparison,
        confusion=findings.confusion().tolist() if len(findings.classes) <= MAX_CONFUSION_CLASSES else None,
        selected_epoch=origin.selected_epoch,
        selected_on=origin.selected_on,
        optimistic=findings.optimistic,
        gate=findings.gate,
        run=origin.run,
        started=origin.started.isoformat(timespec="seconds"),
        ended=origin.ended.isoformat(timespec="seconds"),
        model_sha256=origin.model_sha256,
        onnx_sha256=origin.onnx_sha256,
        dataset_sha256=origin.dataset_sha256,
        device=origin.device,
        provider=origin.provider,
        threads=origin.threads,
        versions=origin.versions,
        manual_seed=origin.manual_seed,
        seconds=origin.seconds,
        images_per_second=findings.images_per_second,
        predictions=predictions,
        report=report,
    )


def _classes(findings: Findings) -> list[ClassRecord]:
    of = findings.per_class
    columns = (of.precision, of.recall, of.f1, of.support, findings.roc.areas, findings.precision_recall.areas)
    return [
        ClassRecord(
            name=name,
            precision=precision,
            recall=recall,
            f1=f1,
            support=support,
            precision_interval=list(findings.intervals[f"precision[{name}]"]),
            recall_interval=list(findings.intervals[f"recall[{name}]"]),
            roc_auc=_or_none(roc_auc),
            average_precision=_or_none(average_precision),
        )
        for name, precision, recall, f1, support, roc_auc, average_precision in zip(
            findings.classes, *(column.tolist() for column in columns), strict=True
        )
    ]


def _bins(findings: Findings) -> list[BinRecord]:
    of = findings.reliability
    columns = (of.edges[:-1], of.edges[1:], of.counts, of.confidence, of.accuracy)
    return [
        BinRecord(low=low, high=high, images=images, confidence=_or_none(confidence), accuracy=_or_none(accuracy))
        for low, high, images, confidence, accuracy in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
