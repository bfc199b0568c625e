"""The gate: figures against thresholds, undefined ones, a baseline, and what people and programs get to read."""

from __future__ import annotations

import math
from typing import Any

import pytest

from components.evaluate.gate import judge, log_gate
from components.shared.artifacts.evaluation import ComparisonRecord, DifferenceRecord, Verdict
from components.shared.artifacts.gate import GateResult
from components.shared.events.data import GateOutcome, ThresholdOutcome
from components.shared.params.gate import Gate


def compared(verdict: Verdict) -> ComparisonRecord:
    return ComparisonRecord(
        baseline="gs://models/1",
        onnx_sha256="0" * 64,
        metrics={"accuracy": 0.9},
        differences={"accuracy": DifferenceRecord(value=0.01, interval=[-0.02, 0.04])},
        only_model=3,
        only_baseline=1,
        p_value=0.6,
        verdict=verdict,
    )


def judged(gate: dict[str, Any], figures: dict[str, float], comparison: ComparisonRecord | None = None) -> GateResult:
    return judge(Gate.model_validate(gate), figures, {"accuracy": (0.9, 0.99)}, comparison)


@pytest.mark.parametrize(
    ("wanted", "got", "passed"),
    [
        ({"min": 0.97}, 0.97, True),
        ({"min": 0.97}, 0.98, True),
        ({"min": 0.97}, 0.9699, False),
        ({"max": 0.1}, 0.1, True),
        ({"max": 0.1}, 0.1001, False),
        ({"min": 0.2, "max": 0.4}, 0.3, True),
        ({"min": 0.2, "max": 0.4}, 0.1, False),
        ({"min": 0.2, "max": 0.4}, 0.5, False),
        # 0.9 on paper: (0.8 + 1.0 + 0.9) / 3 is 0.9 and a rounding below.
        ({"min": 0.9}, 0.8999999999999999, True),
        ({"min": 0.9}, math.nan, False),
        ({"max": 0.9}, math.inf, False),
    ],
    ids=str,
)
def test_a_figure_is_held_against_its_threshold(wanted: dict[str, float], got: float, passed: bool) -> None:
    result = judged({"accuracy": wanted}, {"accuracy": got})

    assert result.passed is passed
    (threshold,) = result.thresholds
    assert threshold.passed is passed
    assert threshold.got == (got if math.isfinite(got) else None)


def test_all_thresholds_must_be_reached_and_an_undefined_figure_is_not() -> None:
    gate = {"accuracy": {"min": 0.9}, "recall[cat]": {"min": 0.9}, "roc_auc_ovr": {"min": 0.5}}
    result = judged(gate, {"accuracy": 0.95, "recall[cat]": 0.8, "log_loss": 0.1})

    assert result.model_dump() == {
        "passed": False,
        "thresholds": [
            {
                "metric": "accuracy",
                "wanted": "at least 0.9",
                "got": 0.95,
                "interval": [0.9, 0.99],
                "passed": True,
                "reason": "",
            },
            {
                "metric": "recall[cat]",
                "wanted": "at least 0.9",
                "got": 0.8,
                "interval": None,
                "passed": False,
                "reason": "",
            },
            {
                "metric": "roc_auc_ovr",
                "wanted": "at least 0.5",
                "got": None,
                "interval": None,
                "passed": False,
                "reason": "cannot be computed of these images",
            },
        ],
    }
    assert [threshold.metric for threshold in result.failed] == ["recall[cat]", "roc_auc_ovr"]
    assert GateResult.model_validate_json(result.model_dump_json(), strict=True) == result


@pytest.mark.parametrize(
    ("verdict", "better", "not_worse"),
    [("better", True, True), ("not distinguishable", False, True), ("worse", False, False)],
)
def test_a_comparison_with_the_baseline(verdict: Verdict, better: bool, not_worse: bool) -> None:
    comparison = compared(verdict)

    assert judged({"vs_baseline": "better"}, {}, comparison).passed is better
    result = judged({"vs_baseline": "not_worse"}, {}, comparison)
    assert result.passed is not_worse
    assert str(result.thresholds[0]) == (
        f"vs_baseline 0.0100 (-0.0200 to 0.0400), {verdict}; wanted not worse than the baseline"
    )


def test_without_a_baseline_no_comparison_passes() -> None:
    result = judged({"vs_baseline": "not_worse"}, {})
    assert not result.passed
    assert result.thresholds[0].reason == "there is no baseline to compare to"


def test_the_log_has_a_line_for_each_threshold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shutterline")
    log_gate(judged({"accuracy": {"min": 0.9}, "log_loss": {"max": 0.1}}, {"accuracy": 0.95, "log_loss": 0.1000004}))
    log_gate(judged({"accuracy": {"min": 0.9}}, {"accuracy": 0.95}))

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "gate: accuracy 0.9500 (0.9000 to 0.9900); wanted at least 0.9: passed"),
        # With all its digits: rounded it would read as reached.
        ("WARNING", "gate: log_loss 0.1000004; wanted at most 0.1: not passed"),
        ("WARNING", "gate not passed: 1 of 2 thresholds not reached"),
        ("INFO", "gate: accuracy 0.9500 (0.9000 to 0.9900); wanted at least 0.9: passed"),
        ("INFO", "gate passed: 1 threshold"),
    ]


def test_an_event_carries_what_is_not_reached_first_and_no_more_than_a_hundred() -> None:
    few = judged({"accuracy": {"min": 0.9}, "log_loss": {"max": 0.1}}, {"accuracy": 0.95})
    assert few.outcome() == GateOutcome(
        False,
        [
            ThresholdOutcome("log_loss", "at most 0.1", False, None, "cannot be computed of these images"),
            ThresholdOutcome("accuracy", "at least 0.9", True, 0.95),
        ],
    )
    names = [f"recall[{index}]" for index in range(250)]
    many = judged({name: {"min": 0.5} for name in names}, dict.fromkeys(names, 0.9) | {"recall[249]": 0.1}).outcome()
    assert (len(many.thresholds), many.left_out) == (100, 150)
    assert [one.metric for one in many.thresholds[:2]] == ["recall[249]", "recall[0]"]
