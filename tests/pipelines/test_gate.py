"""A model that passes the gate is published, one that does not is not: by `shutterline run` and the compiled file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.evaluation import open_evaluation
from components.shared.artifacts.model import open_model
from components.shared.events.data import PipelineEnded, Succeeded
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE
from tests.examples import DIGITS, write_params
from tests.onnx_models import write_onnx_directory
from tests.pipelines.conftest import Environment, Refused, Shutterline
from tests.pipelines.test_executed import compile_for, ends, execute, outcomes

PUBLISHED = Path("published")
LOCALLY = ("--unchecked",)  # to a directory, which no pod on Kubeflow has
RAN = ["data-prep", "train", "evaluate"]


def evaluated(events: Iterable[StepEvent]) -> list[Succeeded]:
    found = [event for event in events if event.step == "evaluate" and event.state == "succeeded"]
    return [event.data for event in sorted(found, key=lambda event: event.time)]


def published(events: Iterable[StepEvent]) -> list[Succeeded]:
    return [event.data for event in events if event.step == "publish" and event.state == "succeeded"]


def end_of(events: Iterable[StepEvent]) -> PipelineEnded:
    (end,) = (event.data for event in events if isinstance(event.data, PipelineEnded))
    return end


def params(**changes: Any) -> str:
    return str(write_params(Path("params.json"), num_epochs=1, publish_uri=str(PUBLISHED), **changes))


@pytest.mark.slow
def test_a_run_that_does_not_pass_and_then_one_that_does(here: Path, shutterline: Shutterline) -> None:
    run = ["run", "--data", DIGITS, "--params", params(), "--out", "out"]
    failed = shutterline(*run, "--set", "gate.accuracy.min=1", "--require-gate")

    assert failed.code == 3, failed.err
    assert "gate not passed: 1 of 1 threshold not reached\n  accuracy 0." in failed.out
    assert "wanted at least 1: not passed" in failed.err
    result = json.loads(Path("out/result.json").read_text())
    assert (result["status"], result["gate"]["passed"], result["published"]) == ("succeeded", False, None)
    events = list(events_in(Path("out/events"), result["run"]))
    (event,) = evaluated(events)
    assert event.gate is not None
    assert (event.gate.passed, event.publishes) == (False, False)
    assert [(one.metric, one.passed) for one in event.gate.thresholds] == [("accuracy", False)]
    assert [(step.step, step.outcome) for step in end_of(events).steps] == [(step, "succeeded") for step in RAN]
    assert list(PUBLISHED.iterdir()) == []

    # Only the gate changes: the training is there already.
    passed = shutterline(*run, "--set", "gate.accuracy.min=0.1", "--require-gate")

    assert passed.code == 0, passed.err
    assert "going on from a checkpoint of its end" in passed.err
    result = json.loads(Path("out/result.json").read_text())
    (version,) = PUBLISHED.iterdir()
    assert result["published"] == str(version.absolute())
    assert f"published {version.absolute()}" in passed.out
    assert "gate passed: 1 threshold" in passed.out
    assert open_model(version).manifest == open_model(Path("out/model")).manifest
    assert open_evaluation(version / "evaluation").manifest == open_evaluation(Path("out/evaluation")).manifest
    events = list(events_in(Path("out/events"), result["run"]))
    assert evaluated(events)[0].publishes is True
    assert [data.artifacts for data in published(events)] == [{"published": str(version.absolute())}]
    assert [(step.step, step.outcome) for step in end_of(events).steps] == [
        (step, "succeeded") for step in (*RAN, "publish")
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("capfd")
def test_what_cannot_be_published_fails_the_pipeline(here: Path, monkeypatch: Environment) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, str(here / "events"))
    Path("file").write_text("")
    file = compile_for(
        "kubeflow",
        *LOCALLY, "--params", str(write_params(Path("params.json"), num_epochs=1, publish_uri="file")),
        **{"every-step": {"retry": {"times": 0}}},
    )  # fmt: skip

    assert execute(file) is not None

    (end,) = ends()
    assert end.outcome == "failed"
    assert end.reason.startswith("publish: publish_uri ")
    assert outcomes(end) == {**dict.fromkeys(RAN, "succeeded"), "publish": "failed"}


def test_a_gate_is_needed_to_be_required_and_places_are_looked_at_before_anything_starts(
    here: Path, refused: Refused
) -> None:
    run = ["run", "--data", DIGITS, "--params", params(), "--out", "out"]
    assert refused(*run, "--require-gate").startswith("--require-gate: the params have no gate; add one")
    assert "baseline: nowhere: there is no such model directory" in refused(*run, "--set", "baseline=nowhere")
    # What versions are published into is no model, and it is known before an hour of training.
    write_onnx_directory(Path("models/20261101-101500-0f3a"))
    message = "baseline: models: is no model directory; name one that is in it, such as models/20261101-101500-0f3a"
    assert message in refused(*run, "--set", "baseline=models")
    write_onnx_directory(Path("old"), onnx=None)
    assert "baseline: old: has no model.onnx, being of version 0.8" in refused(*run, "--set", "baseline=old")
    write_onnx_directory(Path("pets"))
    assert (
        "baseline: pets: is a model of 3 classes of 8 × 8 pixels in 3 channel(s), and the params are of 10 classes of "
    ) in refused(*run, "--set", "baseline=pets")
    write_onnx_directory(Path("padded"), image_fit="pad")
    assert "baseline: padded: is a model of image_fit pad, and the params say stretch" in refused(
        *run, "--set", "baseline=padded"
    )
    Path("file").write_text("")
    assert "publish_uri file: cannot be written by user" in refused(*run, "--set", "publish_uri=file")
    assert "is in the data" in refused(*run, "--set", f"publish_uri={DIGITS}/published")
    for place in ("out/model", "out/kfp/published", "./out/../out/evaluation"):
        assert "which the run writes; name another directory" in refused(*run, "--set", f"publish_uri={place}")
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("capfd")
def test_the_compiled_file_publishes_what_passes_and_the_same_version_from_the_cache(
    here: Path, monkeypatch: Environment
) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, str(here / "events"))
    passing = params(gate={"accuracy": {"min": 0.1}})
    file = compile_for("kubeflow", *LOCALLY, "--params", passing, **{"data-prep": {"cache": True}})

    assert execute(file, caching=True) is None
    (event,) = evaluated(events_in(Path("events")))
    assert (event.gate is not None and event.gate.passed, event.publishes) == (True, True)
    (version,) = PUBLISHED.iterdir()
    assert (version / "model.json").exists()
    assert len(published(events_in(Path("events")))) == 1
    before = {path: path.stat().st_mtime_ns for path in version.rglob("*")}
    assert execute(file, caching=True) is None

    first, second = ends()
    assert (first.outcome, second.outcome) == ("succeeded", "succeeded")
    assert outcomes(first) == dict.fromkeys([*RAN, "publish"], "succeeded")
    assert outcomes(second) == {**dict.fromkeys(RAN, "cached"), "publish": "succeeded"}
    assert len(list(Path("root").glob("*/train/model"))) == 1
    assert {path: path.stat().st_mtime_ns for path in PUBLISHED.rglob("*") if path != version} == before
