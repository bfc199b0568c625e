"""Evaluation with a gate: what is written, reported and emitted, whether the model passes or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.evaluate.__main__ import main
from components.evaluate.evaluate import evaluate
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.params.gate import METRIC_RANGES
from tests.evaluate.conftest import Parts, params_of, write_dataset, write_model


@pytest.mark.parametrize("publish_uri", [None, "gs://bucket/models"])
@pytest.mark.parametrize("least", [0.0, 1.0])
def test_a_model_passes_or_does_not_and_the_step_succeeds(parts: Parts, least: float, publish_uri: str | None) -> None:
    gate = {"accuracy": {"min": least}, "recall[cat]": {"min": 0.0}}
    result = evaluate(**parts.arguments(params=params_of(gate=gate, publish_uri=publish_uri)))

    passes = least == 0.0
    written = open_evaluation(parts.evaluation).manifest.gate
    assert written is not None
    assert written == result.findings.gate
    assert [(one.metric, one.passed) for one in written.thresholds] == [("accuracy", passes), ("recall[cat]", True)]
    assert written.thresholds[0].got == result.findings.metrics["accuracy"]
    report: dict[str, Any] = json.loads(json.dumps(result.report()))
    assert (report["passed"], report["publish"]) == (passes, passes and publish_uri is not None)
    assert report["gate"] == written.model_dump()
    event = result.event(1.0)
    assert event.gate == written.outcome()
    assert event.publishes is report["publish"]


def test_without_a_gate_every_model_passes(parts: Parts) -> None:
    result = evaluate(**parts.arguments(params=params_of(publish_uri="models")))

    assert (result.findings.passed, result.publish, result.findings.gate) == (True, True, None)
    assert open_evaluation(parts.evaluation).manifest.gate is None
    assert result.event(1.0).gate is None


def test_the_command_logs_what_was_not_reached_and_ends_with_0(
    parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(parts.command("--set", "gate.accuracy.min=1", "--set", "gate.log_loss.max=100")) == 0

    log = capsys.readouterr().err
    assert "; wanted at least 1: not passed" in log
    assert "; wanted at most 100: passed" in log
    assert "WARNING gate not passed: 1 of 2 thresholds not reached" in log


def test_a_class_that_the_model_does_not_have_is_refused_before_anything_is_computed(
    parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(parts.command("--set", "gate.recall[kat].min=0.9")) == 2

    log = capsys.readouterr().err
    message = "gate.recall[kat]: there is no class 'kat' among cat, dog, eel; did you mean 'cat'?"
    assert message in log
    assert "test images" not in log
    assert not parts.evaluation.exists()


def test_a_gate_may_name_every_figure_that_evaluation_has_and_no_other(tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(7)]  # of five or fewer there is no top-5 accuracy
    params = params_of(n_classes=7)
    write_dataset(tmp_path / "dataset", classes=classes)
    write_model(tmp_path / "model", params, dataset=tmp_path / "dataset", classes=classes)
    found = evaluate(
        model=tmp_path / "model", dataset=tmp_path / "dataset", evaluation=tmp_path / "evaluation", params=params
    )
    assert found.findings.metrics.keys() == METRIC_RANGES.keys()
    for name, value in found.findings.metrics.items():
        least, most = METRIC_RANGES[name]
        assert least <= value <= (most if most is not None else value)
