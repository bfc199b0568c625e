from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from components.exit_step.__main__ import main
from components.exit_step.step import report_end
from components.shared.events.data import (
    Cancelled,
    Error,
    EventData,
    Failed,
    State,
    StepOutcome,
    StepStarted,
    Succeeded,
)
from components.shared.events.event import EventSource, StepEvent, encode
from components.shared.pipeline_end import OUTCOMES
from components.shared.run import EVENTS_VARIABLE, PIPELINE_NAME, RUN_VARIABLE, StepRun
from tests.examples import write_params
from tests.peers.ports import claim_port

RUN = "run-7"
STARTED: tuple[State, EventData] = ("started", StepStarted("0", "pod", pipeline=PIPELINE_NAME))
SUCCEEDED: tuple[State, EventData] = ("succeeded", Succeeded(1.0))
FAILED: tuple[State, EventData] = ("failed", Failed(1.0, Error("X", "no room")))
CANCELLED: tuple[State, EventData] = ("cancelled", Cancelled(1.0, "SIGTERM", 143))


def at(events: Path | None, run: str = RUN) -> StepRun:
    return StepRun(run, PIPELINE_NAME, 0, events, shared=events is not None, host="pod")


def spool(events: Path, step: str, *told: tuple[State, EventData], attempt: int = 0, run: str = RUN) -> Path:
    path = events / f"{run}.{step}.{attempt}.jsonl"
    event_source = EventSource(run, step, attempt, "pod")
    lines = [
        encode(event_source, number, state, time.time_ns(), data).body for number, (state, data) in enumerate(told)
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(("state", "outcome"), [*OUTCOMES.items(), ("Succeeded", "succeeded")])
def test_every_platforms_word_has_one_meaning(state: str, outcome: str) -> None:
    assert report_end(state=state, run=at(None)).outcome == outcome


@pytest.mark.parametrize("state", ["DONE", "RUNNING", "", None])
def test_what_nothing_tells_is_unknown(state: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    end = report_end(state=state, run=at(None))
    assert end.outcome == "unknown"
    assert end.reason == "neither its events nor the platform say how it ended"
    assert {step.outcome for step in end.steps} == {"unknown"}


def test_a_steps_own_error_is_told_before_the_platforms(tmp_path: Path) -> None:
    spool(tmp_path, "data-prep", STARTED, SUCCEEDED)
    spool(tmp_path, "train", STARTED, FAILED)
    (tmp_path / "notes.txt").write_text("not a spool")

    end = report_end(state="FAILED", message="Task failed.", run=at(tmp_path))

    assert end.reason == "train: no room"
    assert end.steps == [
        StepOutcome("data-prep", "succeeded", 0, None, f"/shutterline/runs/{RUN}/data-prep/pod"),
        StepOutcome("train", "failed", 0, Error("X", "no room"), f"/shutterline/runs/{RUN}/train/pod"),
        StepOutcome("evaluate", "not started"),
    ]
    assert report_end(state="FAILED", message="Task failed.", run=at(None)).reason == "Task failed."
    assert report_end(state="FAILED", run=at(None)).reason == "the platform gave no reason"
    # A command line's words may be no UTF-8, and the report is JSON.
    assert report_end(state="FAILED", message="caf\udce9", run=at(None)).reason == "caf\\udce9"


def test_a_step_that_never_ended_was_killed_even_in_the_middle_of_a_line(tmp_path: Path) -> None:
    spool(tmp_path, "data-prep", STARTED, SUCCEEDED)
    path = spool(tmp_path, "train", STARTED, STARTED)
    path.write_bytes(path.read_bytes()[:-40])

    end = report_end(state="FAILED", run=at(tmp_path))

    assert [step.outcome for step in end.steps] == ["succeeded", "killed", "not started"]
    assert end.reason == "train was killed"


def test_silent_steps_of_a_pipeline_that_succeeded_were_cached(tmp_path: Path) -> None:
    spool(tmp_path, "evaluate", STARTED, SUCCEEDED)
    end = report_end(state="COMPLETE", run=at(tmp_path))
    assert [step.outcome for step in end.steps] == ["cached", "cached", "succeeded"]
    assert (end.outcome, end.reason) == ("succeeded", "")


def test_a_step_before_one_that_spoke_was_cached_though_the_pipeline_failed(tmp_path: Path) -> None:
    spool(tmp_path, "train", STARTED, FAILED)
    end = report_end(state="FAILED", run=at(tmp_path))
    assert [step.outcome for step in end.steps] == ["cached", "failed", "not started"]


def test_without_a_shared_directory_silence_means_nothing() -> None:
    for state in ("SUCCEEDED", "FAILED"):
        assert {step.outcome for step in report_end(state=state, run=at(None)).steps} == {"unknown"}


def test_the_last_attempt_counts(tmp_path: Path) -> None:
    spool(tmp_path, "train", STARTED, FAILED)
    spool(tmp_path, "train", STARTED, SUCCEEDED, attempt=1)
    steps = report_end(state="SUCCEEDED", run=at(tmp_path)).steps
    assert (steps[1].outcome, steps[1].attempt) == ("succeeded", 1)


def test_another_runs_events_in_the_same_directory_count_for_nothing(tmp_path: Path) -> None:
    spool(tmp_path, "train", STARTED, FAILED, run="run-70")
    assert [step.outcome for step in report_end(state="FAILED", run=at(tmp_path)).steps] == ["not started"] * 3


def test_a_platform_that_calls_it_failed_though_it_was_cancelled_is_corrected(tmp_path: Path) -> None:
    spool(tmp_path, "train", STARTED, CANCELLED)
    end = report_end(state="FAILED", run=at(tmp_path))
    assert (end.outcome, end.reason) == ("cancelled", "train was cancelled")


def test_the_command_line_says_it_as_json_and_as_the_pipelines_last_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = write_params(tmp_path / "params.json")
    events = tmp_path / "events"
    events.mkdir()
    spool(events, "train", STARTED, SUCCEEDED)
    monkeypatch.setenv(EVENTS_VARIABLE, str(events))
    monkeypatch.setenv(RUN_VARIABLE, RUN)

    assert main(["--state", "COMPLETE", "--params", str(params), "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["report"]["outcome"] == "succeeded"
    assert document["report"]["steps"] == {"data-prep": "cached", "train": "succeeded", "evaluate": "cached"}
    (line,) = (events / f"{RUN}.pipeline.0.jsonl").read_bytes().splitlines()
    event = StepEvent.from_bytes(line)
    assert (event.id, event.state) == (f"{RUN}/pipeline/0/1", "succeeded")
    assert [step.outcome for step in event.data.steps] == ["cached", "succeeded", "cached"]


def test_a_folder_that_cannot_be_read_says_nothing_of_steps_without_events(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("not a directory")
    end = report_end(state="FAILED", run=at(tmp_path / "events"))
    assert (end.outcome, {step.outcome for step in end.steps}) == ("failed", {"unknown"})


def test_a_step_that_was_killed_before_its_first_event_may_have_been_started(tmp_path: Path) -> None:
    spool(tmp_path, "data-prep", STARTED, SUCCEEDED)
    (tmp_path / f"{RUN}.train.0.jsonl").touch()
    end = report_end(state="FAILED", run=at(tmp_path))
    assert [step.outcome for step in end.steps] == ["succeeded", "unknown", "unknown"]


def test_the_exit_step_succeeds_whatever_the_pipeline_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = write_params(tmp_path / "params.json")
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events"))
    monkeypatch.setenv(RUN_VARIABLE, RUN)
    for state in ("FAILED", "DONE", "RUNNING"):
        assert main(["--state", state, "--params", str(params)]) == 0
    lines = [path.read_bytes().splitlines() for path in sorted((tmp_path / "events").glob("*.jsonl"))]
    began, *ends = [StepEvent.from_bytes(line) for spooled in lines for line in spooled]
    assert began.state == "started", "no step came before it"
    assert [event.state for event in ends] == ["failed", "unknown", "unknown"]
    assert len({event.identity for event in ends}) == 3


def test_an_exit_step_whose_event_is_nowhere_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], leaky_kafka_client: None
) -> None:
    server = f"127.0.0.1:{claim_port()}"
    params = write_params(tmp_path / "params.json", KAFKA_HOST=server, KAFKA_TOPIC="status", TIMEOUT=0.5)
    monkeypatch.setenv(RUN_VARIABLE, RUN)
    monkeypatch.delenv(EVENTS_VARIABLE, raising=False)
    assert main(["--state", "SUCCEEDED", "--params", str(params)]) == 1
    missing = f"failed: the pipeline's end is not at Kafka {server} topic status, and is kept nowhere else"
    assert missing in capsys.readouterr().err
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events"))
    assert main(["--state", "SUCCEEDED", "--params", str(params)]) == 0
