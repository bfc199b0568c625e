"""From probabilities to findings: every figure of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from components.evaluate.curves import curves_of
from components.evaluate.findings import Findings, Origin
from components.evaluate.intervals import intervals_of
from components.evaluate.metrics import Probabilities, Scores, figures_of, scores_of
from components.evaluate.reliability import reliability_of
from components.shared.artifacts.evaluation import ComparisonRecord
from components.shared.artifacts.names import ImageName
from components.shared.metrics import Integers, per_class
from components.shared.seeds import derived_seed


def analyse(
    classes: list[str],
    labels: Integers,
    probabilities: Probabilities,
    origin: Origin,
    *,
    scores: Scores | None = None,
    names: Sequence[ImageName] | None = None,
    comparison: ComparisonRecord | None = None,
) -> Findings:
    """What probabilities of shape (images, classes) show, given the true classes; `scores` where they are there."""
    scores = scores or scores_of(labels, probabilities)
    of = per_class(labels, scores.predicted, len(classes))
    reliability = reliability_of(scores.predicted == labels, scores.confidences)
    roc, precision_recall = curves_of(labels, probabilities)
    metrics = figures_of(labels, scores, of)
    seed = derived_seed(origin.manual_seed, "evaluate/intervals")
    intervals = intervals_of(classes, labels, scores, of, metrics, seed)
    metrics["expected_calibration_error"] = reliability.expected_calibration_error
    if roc.area is not None:
        metrics["roc_auc_ovr"] = roc.area
    if precision_recall.area is not None:
        metrics["average_precision"] = precision_recall.area
    return Findings(
        classes=classes,
        labels=labels,
        predicted=scores.predicted,
        confidences=scores.confidences,
        losses=scores.losses,
        probabilities=probabilities,
        names=names,
        metrics=metrics,
        intervals=intervals,
        per_class=of,
        reliability=reliability,
        roc=roc,
        precision_recall=precision_recall,
        comparison=comparison,
        gate=None,
        origin=origin,
    )
