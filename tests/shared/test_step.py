"""The frame around every step: exit codes, one line for what a user can mend, a record of how it ended."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.shared import logs
from components.shared.errors import (
    ArtifactError,
    DataError,
    DeviceError,
    DivergedError,
    InputError,
    ParamsError,
    Problem,
    ShutterlineError,
)
from components.shared.events.data import Cancelled, Emit, Error, Failed, StepStarted, Succeeded
from components.shared.events.spool import events_in
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import RECORDS_VARIABLE, StepFailed, StepRecord, read_records, run_step
from components.shared.version import __version__
from tests.configs import small


@dataclass(frozen=True)
class Result:
    """What a step gives, in short."""

    figures: dict[str, Any] = field(default_factory=lambda: {"accuracy": 0.5, "model": Path("/out")})

    def report(self) -> dict[str, Any]:
        return self.figures

    def event(self, seconds: float) -> Succeeded:
        return Succeeded(seconds, {"accuracy": 0.5}, {"model": "/out"})


PARAMS = Params.from_dict(small())


def failing(error: BaseException) -> Callable[[Params, Emit], Result]:
    def work(params: Params, emit: Emit) -> Result:
        raise error

    return work


@pytest.fixture(autouse=True)
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the events of run-1."""
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "run-1")
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / "run" / "events"))
    return tmp_path / "run" / "events"


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of step records that does not exist yet."""
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "run" / "records"))
    return tmp_path / "run" / "records"


def test_a_step_that_succeeds_gives_its_result_a_record_and_its_events(
    records: Path, events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def work(params: Params, emit: Emit) -> Result:
        seen.append(params)
        return Result()

    result, record = run_step("evaluate", PARAMS.to_json(), work)

    assert (seen, result) == ([PARAMS], Result())
    assert (record.step, record.status, record.exit_code, record.error) == ("evaluate", "succeeded", 0, None)
    assert (record.report, record.seconds >= 0) == (result.report(), True)
    document = json.loads((records / "evaluate.json").read_text())
    assert (document["status"], document["report"]) == ("succeeded", {"accuracy": 0.5, "model": "/out"})
    assert read_records(records)["evaluate"].seconds == record.seconds
    started, done = events_in(events)
    assert started.data == StepStarted(__version__, step_run().host, PARAMS.digest(), None)
    assert done.data == Succeeded(done.data.seconds, {"accuracy": 0.5}, {"model": "/out"})

    out, err = capsys.readouterr()
    logs.log_to_stderr()  # once more changes nothing
    logs.step_logger("train").warning("a tensor %s\nand more", "\x1b[2K\x07\r\x7f\u2066")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(r"a tensor \x1b[2K\x07\r\x7f\u2066")
    assert second.endswith("WARNING and more")

    lines = err.splitlines()
    assert (out, [logs.LINE.fullmatch(line) is not None for line in lines]) == ("", [True, True])
    assert re.fullmatch(r"\d\d:\d\d:\d\d evaluate  started", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d evaluate  succeeded in \d+\.\d s", lines[1])


EXPECTED: list[tuple[BaseException, str, int]] = [
    (InputError("cannot be used"), "cannot be used", 2),
    (DataError("photo.png: is empty"), "photo.png: is empty", 2),
    (DataError("photo.png: token=hunter22"), "photo.png: token=[redacted]", 2),
    (ArtifactError("model.json: is missing"), "model.json: is missing", 2),
    (DeviceError("there is no GPU"), "there is no GPU", 2),
    (ParamsError([Problem("size", "must be 1")], "run.json"), "run.json: size: must be 1", 2),
    (DivergedError("the loss became nan"), "the loss became nan", 1),
    (ShutterlineError("something of ours"), "something of ours", 1),
    (OSError(errno.ENOSPC, "No space left on device", "/out"),
     "No space left on device: /out; free some space and run the step again", 1),
]  # fmt: skip
DEFECTS: list[tuple[BaseException, str, int]] = [
    (ZeroDivisionError("by zero"), "by zero", 1),
    (RuntimeError(""), "", 1),
    (OSError(errno.EIO, "I/O error"), "[Errno 5] I/O error", 1),
    (MemoryError(), "", 1),
    (SystemExit(3), "3", 1),
    (SystemExit(0), "0", 1),
]


@pytest.mark.parametrize(("error", "message", "code"), EXPECTED + DEFECTS, ids=lambda value: type(value).__name__)
def test_a_step_that_fails_is_logged_recorded_and_emitted_once(
    records: Path, events: Path, capsys: pytest.CaptureFixture[str], error: BaseException, message: str, code: int
) -> None:
    with pytest.raises(StepFailed) as caught:
        run_step("train", PARAMS, failing(error))
    record, kind = caught.value.record, type(error).__name__
    assert (caught.value.code, record.exit_code, record.status) == (code, code, "failed")
    assert record.error == Error(kind, message)
    assert read_records(records) == {"train": record}
    _, last = events_in(events)
    assert last.data == Failed(last.data.seconds, Error(kind, message), code)
    out, err = capsys.readouterr()
    if (error, message, code) in EXPECTED:
        started, line = err.splitlines()
        assert started.endswith("train     started")
        assert line.endswith(f"train     ERROR failed: {message}")
    else:
        assert f"ERROR failed: {kind}" in err
        assert "Traceback (most recent call last)" in err
    assert out == ""


@pytest.mark.parametrize("method", ["report", "event"])
def test_a_result_that_cannot_report_fails_the_step(
    records: Path, events: Path, capsys: pytest.CaptureFixture[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Result()
    monkeypatch.setattr(Result, method, lambda *arguments: dict[str, Any]()["nothing"])
    with pytest.raises(StepFailed):
        run_step("train", PARAMS, lambda params, emit: result)
    assert read_records(records)["train"].status == "failed"
    assert [event.state for event in events_in(events)] == ["started", "failed"]
    assert "KeyError" in capsys.readouterr().err


def test_an_interrupted_step_is_cancelled(records: Path, events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StepFailed) as caught:
        run_step("train", PARAMS, failing(KeyboardInterrupt()))
    record = caught.value.record
    assert (record.status, record.exit_code) == ("cancelled", 130)
    assert read_records(records) == {"train": record}
    _, last = events_in(events)
    assert last.data == Cancelled(record.seconds, "interrupted from the keyboard", 130)
    err = capsys.readouterr().err
    assert "ERROR cancelled" in err
    assert "Traceback" not in err


def test_params_that_cannot_be_used_fail_the_step_before_its_work(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StepFailed) as caught:
        run_step("train", '{"batch_size": 0}', failing(AssertionError("worked")), lambda: step_run(in_pipeline=True))
    assert caught.value.code == 2
    assert "batch_size: must be at least 1, got 0" in capsys.readouterr().err
    *first, last = events_in(events)
    assert [event.id for event in first] == ["run-1/pipeline/0/0", "run-1/train/0/0"]
    assert (last.data.error.type, last.data.exit_code) == ("ParamsError", 2)
    assert "batch_size: must be at least 1" in last.data.error.message


NO_TEXT = """
from components.shared.errors import DataError
from components.shared.step import run_step
from tests.shared.test_step import PARAMS, failing

run_step("train", PARAMS, failing(DataError("photo-\\udcff.png: is empty")))
"""


def test_a_message_with_bytes_that_are_no_text_is_logged_and_recorded(records: Path) -> None:
    # In a process of its own: what pytest captures of such a line, pytest-xdist cannot pass on.
    done = subprocess.run([sys.executable, "-c", NO_TEXT], cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.splitlines()[-1].endswith(b"train     ERROR failed: photo-\\udcff.png: is empty")
    record = read_records(records)["train"]
    assert record.error is not None
    assert record.error.message == "photo-\\udcff.png: is empty"


@pytest.mark.parametrize("directory", ["", "file/records"], ids=["none is named", "it cannot be written"])
def test_without_a_directory_no_record_is_left_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / directory) if directory else "")
    monkeypatch.chdir(tmp_path)
    assert run_step("train", PARAMS, lambda params, emit: Result())[1].status == "succeeded"
    with pytest.raises(StepFailed):
        run_step("train", PARAMS, failing(DataError("x")))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "run"}


def test_records_are_read_and_other_files_passed_over(tmp_path: Path) -> None:
    good = StepRecord(step="train", status="succeeded", seconds=1.5, report={"a": [1]})
    (tmp_path / "train.json").write_text(good.model_dump_json())
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"step": "cook", "status": "succeeded", "seconds": 1}')
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "train.txt").write_text("x")
    assert read_records(tmp_path) == {"train": good}
    assert read_records(tmp_path / "nowhere") == {}
