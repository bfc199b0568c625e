"""The gate and publishing as watchers see them."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from rich.console import Console

from components.shared.events.data import (
    GateOutcome,
    PipelineEnded,
    PipelineStarted,
    StepOutcome,
    StepStarted,
    Succeeded,
    ThresholdOutcome,
)
from components.shared.events.event import PIPELINE
from components.shared.events.runs import fold
from pipelines.watch_text import event_words
from pipelines.watch_view import run_lines
from tests.shared.events.sample_events import STEPS, EventSequence, parsed

PASSED = GateOutcome(True, [ThresholdOutcome("accuracy", "at least 0.9", True, 0.95)])


def missed(*metrics: str) -> GateOutcome:
    return GateOutcome(False, [ThresholdOutcome(metric, "at least 0.9", False, 0.8) for metric in metrics])


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (None, []),
        (PASSED, ["gate passed"]),
        (missed("accuracy"), ["gate not passed: accuracy"]),
        (missed(*"abcdef"), ["gate not passed: a b c d …"]),
        (missed("recall[\x1b[31mcat]"), ["gate not passed: recall[cat]"]),
    ],
)
def test_what_the_gate_decided_is_said(gate: GateOutcome | None, words: list[str]) -> None:
    assert event_words(Succeeded(2.0, {"accuracy": 0.95}, gate=gate)) == ["in 2 s", "accuracy 0.95", *words]


def test_where_a_model_is_published_is_said() -> None:
    data = Succeeded(1.0, artifacts={"published": "gs://bucket/models/0123456789abcdef"})
    assert event_words(data) == ["in 1 s", "gs://bucket/models/0123456789abcdef"]


def bodies(*, publishes: bool) -> list[bytes]:
    found = [EventSequence("run-1", PIPELINE).next("started", PipelineStarted("classifier", list(STEPS), "1", "pod-1"))]
    for step in STEPS:
        of_step = EventSequence("run-1", step)
        found.append(of_step.next("started", StepStarted("1", "pod-1", None, "classifier")))
        is_last = step == STEPS[-1]
        found.append(of_step.next("succeeded", Succeeded(1.0, publishes=publishes if is_last else None)))
    return found


def drawn(events: list[bytes]) -> str:
    read = parsed(events)
    now = max(event.time for event in read) + timedelta(seconds=3)
    lines = run_lines(Console(file=io.StringIO(), width=100), fold("run-1", read), read[0].time, now, is_followed=True)
    return "\n".join(line.plain for line in lines)


def test_publishing_is_awaited_where_it_follows_and_only_there() -> None:
    waiting = drawn(bodies(publishes=True))
    assert "· waiting     publish" in waiting
    assert "waiting for publish to start" in waiting
    assert "publish" not in drawn(bodies(publishes=False))


def test_a_pipeline_that_published_nothing_is_whole() -> None:
    end = PipelineEnded("classifier", "succeeded", "SUCCEEDED", "", [StepOutcome(step, "succeeded") for step in STEPS])
    event = EventSequence("run-1", PIPELINE, attempt=1).next("succeeded", end)
    text = drawn([*bodies(publishes=False), event])
    assert "run-1  ✔ succeeded" in text
    assert "publish" not in text
