"""A step's status from its start to its end: the pipeline's events, and what brokers answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.shared import status as module
from components.shared.errors import DataError, RetryableError, StatusRefusedError
from components.shared.events import delivery
from components.shared.events.data import (
    Emit,
    Error,
    EventData,
    PipelineEnded,
    PipelineStarted,
)
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in, spools_of
from components.shared.params.params import Params
from components.shared.run import PIPELINE_NAME, step_run
from components.shared.status import PIPELINE_STEPS
from components.shared.step import StepFailed, StepName, StepRecord, run_step
from components.shared.version import __version__
from tests.configs import small
from tests.shared.events.sample_events import progress
from tests.shared.events.transports import ScriptedTransport, left_spool, lines_of
from tests.shared.test_step import PARAMS, Result, failing

Work = Callable[[Params, Emit], Result]
BOTH = Params.from_dict(
    small(KAFKA_HOST="localhost", KAFKA_TOPIC="status", PUB_SUB_PROJECT="vision-1", PUB_SUB_TOPIC="status", TIMEOUT=60)
)
KAFKA = Params.from_dict(small(KAFKA_HOST="localhost", KAFKA_TOPIC="status", TIMEOUT=60))


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory that the environment names for the events of run-1."""
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "run-1")
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / "events"))
    for name in ("KFP_RETRY_INDEX", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(delivery, "PAUSES_S", (1e6, 1e6))  # a delivery that had trouble waits for the step's end
    return tmp_path / "events"


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> dict[str, ScriptedTransport]:
    """The brokers that a step finds, by name."""
    found = {name: ScriptedTransport(name) for name in ("kafka", "pubsub")}
    monkeypatch.setattr(module, "transport_of", lambda name, target: found[name])
    return found


def works(params: Params, emit: Emit) -> Result:
    emit(progress(1, 1))
    return Result()


def ended(step: StepName, work: Work, params: Params | str = PARAMS, *, in_pipeline: bool = False) -> StepRecord:
    """The record of a step, however it ended."""
    try:
        return run_step(step, params, work, lambda: step_run(in_pipeline=in_pipeline))[1]
    except StepFailed as failed:
        return failed.record


def emitted(events: Path) -> list[tuple[str, str]]:
    return [(event.id, event.state) for event in events_in(events)]


def last(events: Path) -> Any:
    return list(events_in(events))[-1].data


def test_what_became_of_the_events_is_in_the_record(events: Path) -> None:
    record = ended("train", works)
    assert emitted(events) == [
        ("run-1/train/0/0", "started"),
        ("run-1/train/0/1", "progress"),
        ("run-1/train/0/2", "succeeded"),
    ]
    (path,) = spools_of(events)
    assert record.delivery == {
        "run": "run-1", "events": 3, "spool": str(path), "unspooled": 0, "dropped": 0, "brokers": {}, "kept": True,
    }  # fmt: skip


def test_a_pipelines_start_is_emitted_once_by_the_first_step(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended("data-prep", failing(DataError("x")), in_pipeline=True)
    for step in PIPELINE_STEPS:  # the retry, and what comes after it
        ended(step, works, in_pipeline=True)  # type: ignore[arg-type] # its names are these
    begun = [event for event in events_in(events) if event.step == "pipeline"]
    assert [(event.id, event.data) for event in begun] == [
        (
            "run-1/pipeline/0/0",
            PipelineStarted(PIPELINE_NAME, list(PIPELINE_STEPS), __version__, step_run().host, PARAMS.digest()),
        )
    ]
    assert [event.id for event in events_in(events) if event.state == "started"] == [
        "run-1/pipeline/0/0",
        "run-1/data-prep/0/0",
        "run-1/data-prep/1/0",
        "run-1/train/0/0",
        "run-1/evaluate/0/0",
    ]


@pytest.mark.parametrize(("step", "retry", "tells"), [("data-prep", "0", 1), ("data-prep", "1", 0), ("train", "0", 0)])
def test_steps_that_do_not_see_each_other_leave_the_start_to_data_prep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: StepName, retry: str, tells: int
) -> None:
    monkeypatch.delenv("SHUTTERLINE_EVENTS")
    monkeypatch.setenv("KFP_RETRY_INDEX", retry)
    run_step(step, PARAMS, works, lambda: step_run(tmp_path / "pod" / "out", in_pipeline=True, platform_run="job-1"))
    assert [event.step for event in events_in(tmp_path / "pod" / "events")].count("pipeline") == tells


def test_the_exit_step_reports_for_the_pipeline_alone(events: Path) -> None:
    end = PipelineEnded(PIPELINE_NAME, "succeeded", "SUCCEEDED", "", [])

    class End(Result):
        def event(self, seconds: float) -> EventData:  # type: ignore[override] # the exit step's own
            return end

    run_step("exit", PARAMS, lambda params, emit: End(), lambda: step_run(in_pipeline=True))
    assert [(event.id, event.data) for event in events_in(events)][-1] == ("run-1/pipeline/0/1", end)
    assert [event.step for event in events_in(events) if event.step != "pipeline"] == []


@pytest.mark.parametrize("which", [("WORLD_SIZE", "RANK"), ("PET_NNODES", "PET_NODE_RANK")])
def test_of_a_group_only_the_first_process_has_a_status(
    events: Path, monkeypatch: pytest.MonkeyPatch, which: tuple[str, str]
) -> None:
    """Also where what starts a node's processes could not, and reports that itself."""
    for name, number in zip(which, ("2", "1"), strict=True):
        monkeypatch.setenv(name, number)
    assert ended("train", works).delivery is None
    assert ended("train", failing(DataError("x"))).delivery is None
    assert ended("train", works, '{"batch_size": 0}').delivery is None
    assert not events.exists()
    monkeypatch.setenv(which[1], "0")
    assert ended("train", failing(DataError("x"))).delivery is not None


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "File exists"),
        ("file/events", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("/proc/nowhere", "No such file or directory"),
    ],
)
def test_a_directory_that_cannot_be_written_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    brokers: dict[str, ScriptedTransport],
    place: str,
    reason: str,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / place))
    record = ended("train", works, BOTH, in_pipeline=True)
    assert record.status == "succeeded"
    assert record.delivery is not None
    assert (record.delivery["spool"], record.delivery["unspooled"]) == (None, 4)
    assert f"WARNING status has no spool: {tmp_path / place}: {reason}" in capsys.readouterr().err
    assert len(brokers["kafka"].taken) == len(brokers["pubsub"].taken) == 4


def test_brokers_get_everything_and_the_record_says_so(events: Path, brokers: dict[str, ScriptedTransport]) -> None:
    record = ended("train", works, BOTH)
    assert record.delivery is not None
    assert record.delivery["brokers"] == {
        name: {"place": f"{name} in memory", "delivered": 3, "undelivered": 0, "trouble": None, "too_large": 0}
        for name in brokers
    }
    for broker in brokers.values():
        assert [StepEvent.from_bytes(body) for body in broker.taken] == list(events_in(events))
        assert broker.closed == 1


def test_what_earlier_steps_left_is_delivered_by_the_next(events: Path, brokers: dict[str, ScriptedTransport]) -> None:
    left_spool(events, lines_of(2, step="data-prep"), "pubsub", step="data-prep",
               topic="projects/vision-1/topics/status")  # fmt: skip
    record = ended("train", works, BOTH)
    assert brokers["pubsub"].ids[:3] == ["run-1/data-prep/0/0", "run-1/data-prep/0/1", "run-1/train/0/0"]
    assert brokers["kafka"].ids[:1] == ["run-1/train/0/0"]
    assert record.delivery is not None
    assert record.delivery["events"] == 3


def test_a_broker_that_refuses_ends_the_step_before_its_work(
    events: Path, brokers: dict[str, ScriptedTransport]
) -> None:
    brokers["kafka"] = ScriptedTransport("kafka", [StatusRefusedError("kafka: no topic status; make it")])
    record = ended("train", failing(AssertionError("worked")), KAFKA)
    assert record.exit_code == 2
    assert emitted(events) == [("run-1/train/0/0", "started"), ("run-1/train/0/1", "failed")]
    assert last(events).error == Error("StatusRefusedError", "kafka: no topic status; make it")
    # Had somebody made it meanwhile, the step's last words would be there.
    assert len(brokers["kafka"].taken) == 2


def test_wrong_credentials_end_the_step_before_its_work(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, target: dict[str, Any]) -> ScriptedTransport:
        raise StatusRefusedError("KAFKA_SASL_PASSWORD is missing")

    monkeypatch.setattr(module, "transport_of", refuse)
    assert ended("train", failing(AssertionError("worked")), KAFKA).exit_code == 2
    assert last(events).error == Error("StatusRefusedError", "KAFKA_SASL_PASSWORD is missing")


def test_a_silent_broker_is_a_warning_or_an_error_as_params_say(
    events: Path, brokers: dict[str, ScriptedTransport], capsys: pytest.CaptureFixture[str]
) -> None:
    silent = RetryableError("kafka: does not answer")
    brokers["kafka"] = ScriptedTransport("kafka", [silent])
    assert ended("train", works, KAFKA).status == "succeeded"
    assert "WARNING kafka: does not answer; going on, status waits in the spool" in capsys.readouterr().err

    brokers["kafka"] = ScriptedTransport("kafka", [silent])
    strict = KAFKA.model_copy(update={"on_status_error": "fail"})
    record = ended("train", failing(AssertionError("worked")), strict)
    assert (record.status, record.exit_code) == ("failed", 1)
    assert last(events).error == Error(
        "StatusUnavailableError", "kafka: does not answer; on_status_error: warn would go on without it"
    )


def test_what_is_left_undelivered_is_told_with_the_command_that_delivers_it(
    events: Path, brokers: dict[str, ScriptedTransport], capsys: pytest.CaptureFixture[str]
) -> None:
    brokers["kafka"] = ScriptedTransport("kafka", [RetryableError("kafka: is away")] * 1_000_000)
    hasty = KAFKA.model_copy(update={"TIMEOUT": 0.1})
    record = ended("train", works, hasty)
    assert (record.status, record.exit_code) == ("succeeded", 0)
    assert record.delivery is not None
    assert record.delivery["brokers"]["kafka"]["undelivered"] == 3
    (path,) = spools_of(events)
    told = re.search(r"WARNING (3 of 3 .*)", capsys.readouterr().err)
    assert told is not None
    assert re.fullmatch(
        r"3 of 3 status events are not at kafka in memory: (kafka: is away|no answer in time); "
        rf"deliver them later: shutterline events replay {re.escape(str(path))}",
        told[1],
    )
