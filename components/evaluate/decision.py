"""What decides, as the report shows it: the gate's thresholds, and the comparison with a baseline."""

from __future__ import annotations

from typing import Any

from components.evaluate.figures import difference_texts, figure_name, figure_text
from components.evaluate.findings import Findings
from components.shared.html.page import Cell, fixed, named

_MAX_THRESHOLDS = 100


def decision_of(findings: Findings) -> dict[str, Any]:
    """The gate's result: its kind, heading, text, and a row for each threshold."""
    gate = findings.gate
    if gate is None:
        text = "A gate in the params, such as {accuracy: {min: 0.97}}, decides whether a model is good enough."
        return {"kind": "open", "heading": "No gate was set", "text": text, "thresholds": []}
    missed, count = len(gate.failed), len(gate.thresholds)
    rows = []
    # A gate may have a threshold for each class: what is not reached comes first then, and not all are shown.
    ranked = sorted(gate.thresholds, key=lambda one: one.passed) if count > _MAX_THRESHOLDS else gate.thresholds
    for one in ranked[:_MAX_THRESHOLDS]:
        verdict = "✓ passed" if one.passed else "✗ not passed"
        result = f"{verdict}: {one.reason}" if one.reason else verdict
        kind = "name ok" if one.passed else "name missed"
        bounds = " – ".join(map(fixed, one.interval or ()))
        rows.append((named(one.metric), Cell(result, kind), one.got_text, one.wanted, bounds or "–"))
    return {
        "kind": "passed" if gate.passed else "failed",
        "heading": "✓ The model passes the gate" if gate.passed else "✗ The model does not pass the gate",
        "text": f"{missed:,} of {count:,} thresholds not reached."
        if missed
        else f"All {count:,} thresholds are reached.",
        "thresholds": rows,
        "left_out": f", {len(rows)} of {count:,}; evaluation.json has all" if len(rows) < count else "",
    }


def comparison_of(findings: Findings) -> dict[str, Any] | None:
    """The comparison with the baseline: a row for each figure, and a text; None where there is none."""
    comparison = findings.comparison
    if comparison is None:
        return None
    rows = []
    for name, difference in comparison.differences.items():
        change, low, high = difference_texts(name, difference)
        of_both = (figure_text(name, figures[name]) for figures in (findings.metrics, comparison.metrics))
        rows.append((figure_name(name), change, f"{low.removesuffix(' points')} to {high}", *of_both))
    return {
        "rows": rows,
        "text": (
            f"{comparison.verdict.capitalize()} on accuracy: the model alone is right for "
            f"{comparison.only_model:,} images, the baseline alone for {comparison.only_baseline:,} "
            f"(McNemar, p = {comparison.p_value:.2g})."
        ),
        "baseline": named(comparison.baseline, 200),
    }
