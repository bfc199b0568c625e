"""The curves of an evaluation as charts: reliability, ROC, precision and recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from components.evaluate.curves import Curves
from components.evaluate.findings import Findings
from components.shared.html.charts import Series, unit_chart
from components.shared.html.page import named, percent

_WORST_CLASSES = 3


def reliability_rows(findings: Findings) -> list[tuple[str, ...]]:
    """A row for each range of confidence that has images: their number, mean confidence and accuracy."""
    of = findings.reliability
    return [
        (
            f"{of.edges[at]:.2f} – {of.edges[at + 1]:.2f}",
            f"{of.counts[at]:,}",
            percent(float(of.confidence[at])),
            percent(float(of.accuracy[at])),
        )
        for at in np.flatnonzero(of.counts).tolist()
    ]


def curve_charts(findings: Findings) -> list[Markup]:
    """Reliability, ROC and precision-recall curves, of the mean and of the classes that do worst."""
    of = findings.reliability
    filled = np.flatnonzero(of.counts)
    points = list(zip(of.confidence[filled].tolist(), of.accuracy[filled].tolist(), strict=True))
    error = findings.metrics["expected_calibration_error"]
    charts = [
        unit_chart(
            "Reliability",
            f"Accuracy by confidence; the expected calibration error is {percent(error)}",
            ("confidence; columns: number of images", "accuracy"),
            [Series("perfect", "ideal", [(0, 0), (1, 1)], False), Series("model", "macro", points)],
            of.counts.tolist(),
        )
    ]
    places: dict[int, int] = {}  # one class looks the same in both charts
    for title, area, curves, axes in (
        ("ROC", "AUC", findings.roc, ("false positive rate", "true positive rate")),
        ("Precision and recall", "average precision", findings.precision_recall, ("recall", "precision")),
    ):
        if lines := _lines(findings, curves, places):
            ideal = [Series("chance", "ideal", [(0, 0), (1, 1)], False)] if title == "ROC" else []
            label = f"{title}, {area}: {'; '.join(line.name for line in lines)}"
            charts.append(unit_chart(title, label, axes, [*lines, *ideal]))
    return charts


def _lines(findings: Findings, curves: Curves, places: dict[int, int]) -> list[Series]:
    """The mean over the classes, and the classes of the smallest areas; `places` are those of the chart before."""
    if curves.macro is None or curves.area is None:
        return []

    def points(curve: Any) -> list[tuple[float, float]]:
        return list(zip(curve.x.tolist(), curve.y.tolist(), strict=True))

    lines = []
    has_one = np.flatnonzero(np.isfinite(curves.areas))
    if len(has_one) > 2:  # of two classes the curves are one another's mirror
        worst = has_one[np.argsort(curves.areas[has_one], kind="stable")][:_WORST_CLASSES].tolist()
        kept = {index: places[index] for index in worst if index in places}
        free = (place for place in range(1, _WORST_CLASSES + 1) if place not in kept.values())
        places |= {index: kept[index] if index in kept else next(free) for index in worst}
        for index in worst:
            name = f"{named(findings.classes[index], 24)} {curves.areas[index]:.4f}"
            lines.append(Series(name, f"worst-{places[index]}", points(curves.classes[index]), False))
    return [Series(f"mean of classes {curves.area:.4f}", "macro", points(curves.macro), False), *lines]
