"""Status as lines of a step's log: what is printed, what is read back, and what no broker or disk gets."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import DataError
from components.shared.events.data import Checkpoint, Emit, Error, EventData, Failed, StepStarted, Succeeded
from components.shared.events.data import PipelineEnded as Ended
from components.shared.events.event import EventError, StepEvent
from components.shared.events.status_lines import LINE_LIMIT, STATUS_LINE, event_of_line, status_line
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import StepFailed, run_step
from components.shared.version import __version__
from tests.configs import small
from tests.shared.events.sample_events import progress
from tests.shared.test_step import Result, failing

# Nobody answers there, and the client of the other is refused its credentials: neither is asked.
BROKERS = small(
    KAFKA_HOST="localhost:1", KAFKA_TOPIC="status", PUB_SUB_PROJECT="vision-1", PUB_SUB_TOPIC="status", TIMEOUT=60,
    on_status_error="fail",
)  # fmt: skip
PARAMS = Params.from_dict(BROKERS)
LINE = status_line(progress(1, 2))


@pytest.fixture(autouse=True)
def _logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHUTTERLINE_STATUS", "log")
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "run-1")
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def run(work: Any, params: Params | str = PARAMS) -> int:
    try:
        run_step("train", params, work, lambda: step_run())
    except StepFailed as failed:
        return int(str(failed.code))
    return 0


def printed(capfd: pytest.CaptureFixture[str]) -> tuple[list[EventData], list[str]]:
    """The events and the other lines of the log."""
    lines = capfd.readouterr().err.splitlines()
    found = [(event_of_line(line), line) for line in lines]
    return [event for event, _ in found if event is not None], [line for event, line in found if event is None]


def works(params: Params, emit: Emit) -> Result:
    emit(progress(1, 2))
    emit(Checkpoint(1, 2, "gs://bucket/épo\u2028que\nstatus: {}"))
    return Result()


def test_each_event_is_a_line_and_nothing_else_gets_it(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(works) == 0
    events, others = printed(capfd)
    started, *middle, ended = events
    assert isinstance(started, StepStarted)
    assert (started.version, started.host) == (__version__, os.uname().nodename)
    assert middle == [progress(1, 2), Checkpoint(1, 2, "gs://bucket/épo\u2028que\nstatus: {}")]
    assert isinstance(ended, Succeeded)
    assert others[0].endswith(" started")
    assert len(others) == 2
    assert not any("WARNING" in line for line in others)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(works) == 0
    assert printed(capfd) == ([], [])


@pytest.mark.parametrize("params", [PARAMS, "{}"], ids=["in its work", "in its params"])
def test_a_failure_is_a_line_too(capfd: pytest.CaptureFixture[str], params: Params | str) -> None:
    assert run(failing(DataError("/data: is empty; password=hunter2")), params) == 2
    events, _ = printed(capfd)
    assert isinstance(events[0], StepStarted)
    (failed,) = events[1:]
    assert isinstance(failed, Failed)
    assert failed.exit_code == 2
    assert failed.error.type == ("DataError" if params is PARAMS else "ParamsError")
    assert "hunter2" not in str(failed)


def test_another_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SHUTTERLINE_STATUS", "Log")
    assert run(works, Params.from_dict(small())) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(
        "ERROR failed: SHUTTERLINE_STATUS: must be log (status is printed as lines of the log, and sent to no broker), "
        "or not be set, got 'Log'"
    )
    assert len(list(tmp_path.rglob("*.jsonl"))) == 1  # status goes where it does otherwise


def test_an_event_that_is_too_long_is_passed_over_by_name(capfd: pytest.CaptureFixture[str]) -> None:
    def work(params: Params, emit: Emit) -> Result:
        emit(replace(progress(1, 2), metrics={f"accuracy of {number}": 0.5 for number in range(4000)}))
        return works(params, emit)

    assert run(work) == 0
    events, others = printed(capfd)
    assert [type(event).__name__ for event in events] == ["StepStarted", "Progress", "Checkpoint", "Succeeded"]
    (warning,) = (line for line in others if "run-1/train/0/1: as a line of the log it has" in line)
    assert "WARNING" in warning


@pytest.mark.parametrize(
    "line",
    [
        "",
        "status: ",
        "status: done",
        "status: {}",
        "status: []",
        "status: null",
        'status: {"type": "shutterline.step.progress"}',
        'status: {"type": "shutterline.step.progress", "data": []}',
        'status: {"type": "shutterline.step.progress", "data": {"step": -1, "steps": 2}}',
        'status: {"type": "shutterline.step.progress", "data": {"step": 1, "steps": 2}, "more": 1}',
        'status: {"type": "x.step.progress", "data": {"step": 1, "steps": 2}}',
        'status: {"type": "shutterline.pipeline.progress", "data": {"step": 1, "steps": 2}}',
        'status: {"type": 7, "data": {"step": 1, "steps": 2}}',
        'status: {"type": "shutterline.step.checkpoint", "data": {"epoch": NaN, "epochs": 2, "uri": ""}}',
        f"status: {'[' * 20_000}",
        f"{LINE}{' ' * LINE_LIMIT}",
        f" {LINE}",
        f"train INFO {LINE}",
        LINE[:-1],
        f"{LINE} and more",
        status_line(Ended("p", "failed", "", "", [])).replace("pipeline.failed", "pipeline.succeeded"),
    ],
)
def test_a_line_that_is_none_is_no_event(line: str) -> None:
    assert event_of_line(line) is None


@pytest.mark.parametrize(
    "data", [progress(3, 4), Failed(1.5, Error("DataError", "a: b\r\n\ud800"), 2), Ended("p", "failed", "", "why", [])]
)
def test_what_is_written_is_read_back(data: EventData) -> None:
    line = status_line(data)
    assert line.isascii()
    assert line.isprintable()
    assert line.startswith(STATUS_LINE)
    read = event_of_line(f"{line}\n")
    assert type(read) is type(data)
    assert status_line(read) == line
    assert json.loads(line.removeprefix(STATUS_LINE)).keys() == {"type", "data"}
    with pytest.raises(EventError):
        StepEvent.from_bytes(line.encode())  # and it is not one that a broker has
