from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.exit_step.__main__ import main
from components.exit_step.step import report_end
from components.shared.events.data import Error, StepOutcome, Succeeded
from components.shared.events.event import StepEvent
from components.shared.events.targets import StatusTargets
from components.shared.pipeline_end import OUTCOMES
from components.shared.run import EVENTS_VARIABLE
from tests.examples import write_params
from tests.exit_step.ends import (
    CANCELLED,
    FAILED,
    RUN,
    STARTED,
    SUCCEEDED,
    Told,
    at,
    ended,
    outcomes,
    publish,
    spool,
)
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.ports import claim_port

SILENT = ["not started"] * 3
PUBLISHES: tuple[Told, ...] = (STARTED, ("succeeded", Succeeded(1.0, publishes=True)))
Steps = dict[str, tuple[Told, ...]]


@pytest.mark.parametrize(("state", "outcome"), [*OUTCOMES.items(), ("Succeeded", "succeeded")])
def test_every_platforms_state_has_one_meaning(state: str, outcome: str) -> None:
    end = report_end(state=state, run=at(None))
    assert (end.outcome, set(outcomes(end))) == (outcome, {"unknown"}), "without a directory silence means nothing"


@pytest.mark.parametrize("state", ["DONE", "RUNNING", "", None])
def test_what_nothing_tells_is_unknown(state: str | None) -> None:
    end = report_end(state=state, run=at(None))
    assert (end.outcome, end.reason) == ("unknown", "neither its events nor the platform say how it ended")
    assert set(outcomes(end)) == {"unknown"}


@pytest.mark.parametrize(
    ("state", "steps", "outcome", "reason", "expected"),
    [
        ("COMPLETE", {"evaluate": (STARTED, SUCCEEDED)}, "succeeded", "", ["cached", "cached", "succeeded"]),
        ("FAILED", {"train": (STARTED, FAILED)}, "failed", "train: no room", ["cached", "failed", "not started"]),
        ("FAILED", {"train": (STARTED, CANCELLED)}, "cancelled", "train was cancelled",
         ["cached", "cancelled", "not started"]),
        ("FAILED", {"train": (STARTED,)}, "failed", "train was killed", ["cached", "killed", "not started"]),
        # Before its first event it may have been started.
        ("FAILED", {"train": ()}, "failed", "Task failed.", ["unknown", "unknown", "unknown"]),
        ("FAILED", {}, "failed", "Task failed.", SILENT),
        # Publishing counts where it ran or should have: without it a pipeline is whole, too.
        ("COMPLETE", {"evaluate": PUBLISHES, "publish": (STARTED, SUCCEEDED)}, "succeeded", "",
         ["cached", "cached", "succeeded", "succeeded"]),
        ("COMPLETE", {"publish": (STARTED, SUCCEEDED)}, "succeeded", "", ["cached", "cached", "cached", "succeeded"]),
        ("FAILED", {"evaluate": PUBLISHES, "publish": (STARTED, FAILED)}, "failed", "publish: no room",
         ["cached", "cached", "succeeded", "failed"]),
        ("FAILED", {"evaluate": PUBLISHES, "publish": (STARTED,)}, "failed", "publish was killed",
         ["cached", "cached", "succeeded", "killed"]),
        ("FAILED", {"evaluate": PUBLISHES}, "failed", "Task failed.", ["cached", "cached", "succeeded", "not started"]),
        ("", {"evaluate": PUBLISHES, "publish": (STARTED, FAILED)}, "failed", "publish: no room",
         ["cached", "cached", "succeeded", "failed"]),
    ],
)  # fmt: skip
def test_steps_events_say_how_the_pipeline_ended(
    tmp_path: Path, state: str, steps: Steps, outcome: str, reason: str, expected: list[str]
) -> None:
    for step, told in steps.items():
        spool(tmp_path, step, *told)
    spool(tmp_path, "data-prep", STARTED, FAILED, run="run-70")  # another run's count for nothing
    (tmp_path / "notes.txt").write_text("not a spool")
    end = report_end(state=state, message="Task failed.", run=at(tmp_path))
    assert (end.outcome, end.reason, outcomes(end)) == (outcome, reason, expected)


def test_the_last_attempt_of_a_step_counts_and_its_process_is_named(tmp_path: Path) -> None:
    spool(tmp_path, "train", STARTED, SUCCEEDED)
    path = spool(tmp_path, "train", STARTED, FAILED, attempt=1)
    path.write_bytes(path.read_bytes().replace(b"/train/0/", b"/train/1/"))
    end = report_end(state="FAILED", run=at(tmp_path))
    assert end.steps[1] == StepOutcome(
        "train", "failed", 1, Error("X", "no room"), f"/shutterline/runs/{RUN}/train/pod"
    )


def test_a_step_that_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = spool(tmp_path, "train", STARTED, STARTED)
    path.write_bytes(path.read_bytes()[:-40])
    assert report_end(state="FAILED", run=at(tmp_path)).reason == "train was killed"


def test_a_reason_is_there_and_is_text() -> None:
    assert report_end(state="FAILED", run=at(None)).reason == "the platform gave no reason"
    # A command line's arguments may be no UTF-8, and the report is JSON.
    assert report_end(state="FAILED", message="caf\udce9", run=at(None)).reason == "caf\\udce9"


def test_a_folder_that_cannot_be_read_says_nothing_of_steps_without_events(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("not a directory")
    end = report_end(state="FAILED", run=at(tmp_path / "events"))
    assert (end.outcome, set(outcomes(end))) == ("failed", {"unknown"})


def test_what_kafka_has_and_the_folder_lacks_counts(kafka_broker: KafkaTopics, topic: str, tmp_path: Path) -> None:
    kafka_broker.create_topic(topic)
    targets = StatusTargets(kafka_servers=(kafka_broker.bootstrap,), kafka_topic=topic)
    publish(kafka_broker, topic, "train", STARTED, SUCCEEDED, run="another-run")
    spool(tmp_path, "data-prep", STARTED, SUCCEEDED)
    publish(kafka_broker, topic, "data-prep", STARTED, SUCCEEDED)
    end = report_end(state="FAILED", run=at(tmp_path), targets=targets)
    assert outcomes(end) == ["succeeded", "not started", "not started"]

    publish(kafka_broker, topic, "train", STARTED)
    # Of a silent step nothing follows: the broker may have been away while it ran.
    end = report_end(state="FAILED", run=at(tmp_path), targets=targets)
    assert outcomes(end) == ["succeeded", "unknown", "unknown"]
    # Kubeflow hands on RUNNING of a run that was terminated, and train had begun.
    end = report_end(state="RUNNING", run=at(tmp_path), targets=targets)
    assert (end.outcome, end.reason) == ("failed", "train was killed")

    publish(kafka_broker, topic, "train", STARTED, FAILED)
    end = report_end(state="FAILED", run=at(None), targets=targets)
    assert (outcomes(end), end.reason) == (["succeeded", "failed", "unknown"], "train: no room")


@pytest.mark.usefixtures("leaky_kafka_client")
def test_a_broker_that_cannot_be_read_leaves_it_unknown(kafka_broker: KafkaTopics, topic: str) -> None:
    for server in (f"127.0.0.1:{claim_port()}", kafka_broker.bootstrap):
        targets = StatusTargets(kafka_servers=(server,), kafka_topic=topic)
        end = report_end(state="FAILED", message="Task failed.", run=at(None), targets=targets)
        assert (end.reason, set(outcomes(end))) == ("Task failed.", {"unknown"})


def test_the_command_line_says_it_as_json_and_as_the_pipelines_last_event(
    tmp_path: Path, events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json")
    spool(events, "train", STARTED, SUCCEEDED)
    assert main(["--state", "COMPLETE", "--params", str(params), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["outcome"] == "succeeded"
    assert report["steps"] == {"data-prep": "cached", "train": "succeeded", "evaluate": "cached"}
    event = ended(events)
    assert (event.id, event.state) == (f"{RUN}/pipeline/0/1", "succeeded")
    assert outcomes(event.data) == ["cached", "succeeded", "cached"]


def test_the_exit_step_succeeds_whatever_the_pipeline_did(tmp_path: Path, events: Path) -> None:
    params = write_params(tmp_path / "params.json")
    for state in ("FAILED", "DONE", "RUNNING"):
        assert main(["--state", state, "--params", str(params)]) == 0
    lines = [path.read_bytes().splitlines() for path in sorted(events.glob("*.jsonl"))]
    began, *ends = [StepEvent.from_bytes(line) for spooled in lines for line in spooled]
    assert began.state == "started", "no step came before it"
    assert [event.state for event in ends] == ["failed", "unknown", "unknown"]
    assert len({event.identity for event in ends}) == 3


@pytest.mark.usefixtures("leaky_kafka_client")
def test_an_exit_step_whose_event_is_nowhere_fails(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = f"127.0.0.1:{claim_port()}"
    params = write_params(alone / "params.json", KAFKA_HOST=server, KAFKA_TOPIC="status", TIMEOUT=0.5)
    assert main(["--state", "SUCCEEDED", "--params", str(params)]) == 1
    missing = f"failed: the pipeline's end is not at Kafka {server} topic status, and is kept nowhere else"
    assert missing in capsys.readouterr().err
    monkeypatch.setenv(EVENTS_VARIABLE, str(alone / "events"))
    assert main(["--state", "SUCCEEDED", "--params", str(params)]) == 0
