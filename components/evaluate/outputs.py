"""What a pipeline's platform shows of an evaluation, each in a file of its own and as the metadata that draws it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.evaluate.evaluate import EvaluateResult
from components.evaluate.findings import Findings
from components.evaluate.summary import render_summary
from components.shared.files import write_atomically, write_json
from components.shared.step import Scalar, scalars

# It travels as metadata, and no UI draws a larger one.
MAX_CLASSES = 100
# Points of a curve, which travel as metadata, too.
_POINTS = 101


@dataclass(frozen=True)
class Outputs:
    """What travels as metadata.

    Attributes:
        metrics: All figures; those of single classes up to `MAX_CLASSES`.
        confusion: Classes and matrix; None beyond `MAX_CLASSES`.
        roc: False positive rates, true positive rates, thresholds; None where no class has a curve.
    """

    metrics: dict[str, Scalar]
    confusion: tuple[list[str], list[list[int]]] | None
    roc: tuple[list[float], list[float], list[float]] | None


def write_outputs(
    result: EvaluateResult, *, metrics: Path, confusion: Path, roc: Path, report: Path, summary: Path, predictions: Path
) -> Outputs:
    """Write an evaluation's outputs to files, for stores and for kfp's cache, which takes one without a file for lost.

    Args:
        result: The evaluation.
        metrics: JSON of all figures by name.
        confusion: JSON of the confusion matrix; null where there are many classes.
        roc: JSON of the mean ROC curve; null where no class has one.
        report: The HTML report.
        summary: The figures that decide, in Markdown.
        predictions: CSV with a line for every image.
    """
    findings = result.findings
    is_shown = len(findings.classes) <= MAX_CLASSES
    figures = scalars(findings.figures() if is_shown else findings.metrics)
    matrix = findings.confusion().tolist() if is_shown else None
    curve = _roc(findings)
    write_json(metrics, figures)
    write_json(confusion, {"classes": len(findings.classes), "confusion": matrix})
    columns = dict(zip(("fpr", "tpr", "threshold"), curve, strict=True)) if curve is not None else None
    write_json(roc, {"average": "macro", "roc": columns})
    shutil.copyfile(result.report_file, report)
    write_atomically(summary, render_summary(findings).encode())
    shutil.copyfile(result.evaluation / result.manifest.predictions.file, predictions)
    return Outputs(figures, (findings.classes, matrix) if matrix is not None else None, curve)


def _roc(findings: Findings) -> tuple[list[float], list[float], list[float]] | None:
    """The ROC curve as KFP draws it, which wants a finite threshold beside every point."""
    # Of two classes the second's; of more the mean of all, each against the rest, which has specificity for thresholds.
    of_two = findings.roc.classes[1] if len(findings.classes) == 2 else None
    curve = of_two or findings.roc.macro
    if curve is None:
        return None
    chosen = np.unique(np.linspace(0, len(curve.x) - 1, min(_POINTS, len(curve.x))).round().astype(int))
    thresholds = np.minimum(curve.thresholds, 1) if of_two else 1 - curve.x
    fpr, tpr, threshold = (column[chosen].tolist() for column in (curve.x, curve.y, thresholds))
    return fpr, tpr, threshold
