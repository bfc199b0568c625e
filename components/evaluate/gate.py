"""The gate: whether a model's figures on the test split reach the thresholds of the params."""

from __future__ import annotations

import math
from collections.abc import Mapping

from components.evaluate.intervals import Interval
from components.shared.artifacts.evaluation import ComparisonRecord
from components.shared.artifacts.gate import GateResult, ThresholdResult
from components.shared.logs import step_logger
from components.shared.params.gate import Gate, Threshold

# A mean of shares that is exactly the threshold on paper may be a rounding below it.
_TOLERANCE = 1e-12
_UNDEFINED = "cannot be computed of these images"

_log = step_logger("evaluate")


def judge(
    gate: Gate,
    figures: Mapping[str, float],
    intervals: Mapping[str, Interval],
    comparison: ComparisonRecord | None = None,
) -> GateResult:
    """Hold the figures of an evaluation against a gate. One that is missing or not finite does not pass.

    Args:
        gate: The thresholds; :func:`~components.shared.params.gate.check_gate` has accepted their classes.
        figures: By name, those of single classes too: ``accuracy``, ``recall[cat]``.
        intervals: Of 95 %, low and high, by the same names, where a figure has one.
        comparison: With the baseline; the gate's ``vs_baseline`` needs it.
    """
    found = [
        _judged(metric, threshold, figures.get(metric), intervals.get(metric))
        for metric, threshold in gate.thresholds.items()
    ]
    if gate.vs_baseline is not None:
        found.append(_compared(gate.vs_baseline == "better", gate.wanted()["vs_baseline"], comparison))
    return GateResult(passed=all(one.passed for one in found), thresholds=found)


def log_gate(result: GateResult) -> None:
    """Log a gate's result: a line for each threshold, and one for all."""
    for threshold in result.thresholds:
        if threshold.passed:
            _log.info("gate: %s: passed", threshold)
        else:
            _log.warning("gate: %s: not passed", threshold)
    (_log.info if result.passed else _log.warning)("%s", result)


def _judged(metric: str, threshold: Threshold, got: float | None, interval: Interval | None) -> ThresholdResult:
    if got is None or not math.isfinite(got):
        return ThresholdResult(metric=metric, wanted=str(threshold), got=None, passed=False, reason=_UNDEFINED)
    is_least = threshold.min is None or got >= threshold.min - _TOLERANCE
    is_most = threshold.max is None or got <= threshold.max + _TOLERANCE
    bounds = list(interval) if interval is not None and all(map(math.isfinite, interval)) else None
    return ThresholdResult(metric=metric, wanted=str(threshold), got=got, interval=bounds, passed=is_least and is_most)


def _compared(must_be_better: bool, wanted: str, comparison: ComparisonRecord | None) -> ThresholdResult:
    if comparison is None:
        reason = "there is no baseline to compare to"
        return ThresholdResult(metric="vs_baseline", wanted=wanted, got=None, passed=False, reason=reason)
    accuracy = comparison.differences.get("accuracy")
    return ThresholdResult(
        metric="vs_baseline",
        wanted=wanted,
        got=accuracy.value if accuracy else None,
        interval=accuracy.interval if accuracy else None,
        passed=comparison.verdict == "better" if must_be_better else comparison.verdict != "worse",
        reason=comparison.verdict,
    )
