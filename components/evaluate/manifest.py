"""From findings to ``evaluation.json``."""

from __future__ import annotations

from components.evaluate.findings import Findings
from components.shared.artifacts.artifact import FileRecord
from components.shared.artifacts.evaluation import ClassRecord, EvaluationManifest
from components.shared.version import __version__

# A matrix of 2,000 classes is 4 million numbers, 40 MB of JSON; predictions.csv holds the same in a line an image.
MAX_CONFUSION_CLASSES = 2000


def manifest_of(findings: Findings, predictions: FileRecord, report: FileRecord) -> EvaluationManifest:
    """The manifest of an evaluation with these files."""
    of, origin = findings.per_class, findings.origin
    columns = (column.tolist() for column in (of.precision, of.recall, of.f1, of.support))
    return EvaluationManifest(
        created_by=f"shutterline {__version__}",
        split=findings.split,
        images=findings.images,
        metrics=findings.metrics,
        intervals={name: list(interval) for name, interval in findings.intervals.items()},
        classes=findings.classes,
        per_class=[
            ClassRecord(name=name, precision=precision, recall=recall, f1=f1, support=support)
            for name, precision, recall, f1, support in zip(findings.classes, *columns, strict=True)
        ],
        confusion=findings.confusion().tolist() if len(findings.classes) <= MAX_CONFUSION_CLASSES else None,
        selected_epoch=origin.selected_epoch,
        selected_on=origin.selected_on,
        optimistic=findings.optimistic,
        gate=findings.gate,
        model_sha256=origin.model_sha256,
        dataset_sha256=origin.dataset_sha256,
        device=origin.device,
        versions=origin.versions,
        manual_seed=origin.manual_seed,
        seconds=origin.seconds,
        images_per_second=findings.images_per_second,
        predictions=predictions,
        report=report,
    )
