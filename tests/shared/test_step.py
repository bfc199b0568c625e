"""The frame around every step: exit codes, one line for what a user can mend, a record of how it ended."""

from __future__ import annotations

import errno
import json
import logging
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
from components.shared.events.data import Emit, Succeeded
from components.shared.params.params import Params
from components.shared.step import RECORDS_VARIABLE, StepFailed, StepRecord, read_records, run_step
from tests.configs import schedule, small


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


def failed(error: BaseException) -> StepFailed:
    """How a step ends whose work raises `error`."""
    with pytest.raises(SystemExit) as caught:
        run_step("train", PARAMS, failing(error))
    assert isinstance(caught.value, StepFailed)
    assert caught.value.code == caught.value.record.exit_code
    return caught.value


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of step records that does not exist yet."""
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "run" / "records"))
    return tmp_path / "run" / "records"


def test_a_step_that_succeeds_gives_its_result_and_a_record(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def work(params: Params, emit: Emit) -> Result:
        seen.append(params)
        return Result()

    result, record = run_step("evaluate", PARAMS.to_json(), work)

    assert seen == [PARAMS]
    assert result == Result()
    assert (record.step, record.status, record.exit_code, record.error) == ("evaluate", "succeeded", 0, None)
    assert record.report == result.report()
    assert 0 <= record.seconds < 10
    document = json.loads((records / "evaluate.json").read_text())
    assert document["report"] == {"accuracy": 0.5, "model": "/out"}
    assert document["status"] == "succeeded"
    assert read_records(records)["evaluate"].seconds == record.seconds

    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [logs.LINE.fullmatch(line) is not None for line in lines] == [True, True]
    assert re.fullmatch(r"\d\d:\d\d:\d\d evaluate  started", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d evaluate  succeeded in \d+\.\d s", lines[1])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("cannot be used"), 2),
        (DataError("photo.png: is empty"), 2),
        (ArtifactError("model.json: is missing"), 2),
        (DeviceError("there is no GPU"), 2),
        (ParamsError([Problem("batch_size", "must be at least 1, got 0")], "run.json"), 2),
        (DivergedError("the loss became nan"), 1),
        (ShutterlineError("something of ours"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "/out/model"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_we_raise_on_purpose_is_one_line_without_a_traceback(
    records: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    record = failed(error).record

    assert (record.status, record.exit_code) == ("failed", code)
    assert record.error is not None
    assert record.error.type == type(error).__name__
    assert read_records(records) == {"train": record}
    out, err = capsys.readouterr()
    assert out == ""
    started, message = err.splitlines()
    assert started.endswith("train     started")
    assert message.endswith(f"train     ERROR failed: {record.error.message}")
    assert "Traceback" not in err
    if not isinstance(error, OSError):
        assert record.error.message == str(error)


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), RuntimeError(""), OSError(errno.EIO, "I/O error")])
def test_a_defect_shows_its_traceback(records: Path, capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    record = failed(error).record

    assert (record.status, record.exit_code) == ("failed", 1)
    err = capsys.readouterr().err
    assert f"ERROR failed: {type(error).__name__}" in err
    assert "Traceback (most recent call last)" in err
    assert "raise error" in err
    assert read_records(records) == {"train": record}


def test_an_interrupted_step_is_cancelled(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = failed(KeyboardInterrupt()).record
    assert (record.status, record.exit_code) == ("cancelled", 130)
    assert read_records(records) == {"train": record}
    err = capsys.readouterr().err
    assert "ERROR cancelled" in err
    assert "Traceback" not in err


def test_params_that_cannot_be_used_fail_the_step_before_its_work(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StepFailed) as caught:
        run_step("train", '{"batch_size": 0}', failing(AssertionError("worked")))
    assert caught.value.code == 2
    assert caught.value.record.error is not None
    assert caught.value.record.error.type == "ParamsError"
    assert "batch_size: must be at least 1, got 0" in capsys.readouterr().err


def test_what_has_no_effect_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    decay = schedule("ExponentialLR", gamma=0.9, verbose=True)
    run_step("train", json.dumps(small(learning_rate_schedule=[decay])), lambda params, emit: Result())
    assert "train     WARNING learning_rate_schedule[0].kwargs.verbose: torch has dropped" in capsys.readouterr().err


def test_a_result_that_cannot_tell_itself_fails_the_step(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Mute(Result):
        def report(self) -> dict[str, Any]:
            raise LookupError("no figures")

    with pytest.raises(StepFailed):
        run_step("train", PARAMS, lambda params, emit: Mute())
    assert read_records(records)["train"].status == "failed"
    assert "LookupError" in capsys.readouterr().err


NO_TEXT = """
from components.shared.errors import DataError
from components.shared.step import run_step
from tests.shared.test_step import PARAMS, failing

run_step("train", PARAMS, failing(DataError("photo-\\udcff.png: is empty")))
"""


def test_a_message_with_bytes_that_are_no_text_is_told_and_recorded(records: Path) -> None:
    # In a process of its own: what pytest captures of such a line, pytest-xdist cannot pass on.
    done = subprocess.run([sys.executable, "-c", NO_TEXT], cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.splitlines()[-1].endswith(b"train     ERROR failed: photo-\\udcff.png: is empty")
    record = read_records(records)["train"]
    assert record.error is not None
    assert record.error.message == "photo-\\udcff.png: is empty"


def test_a_record_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "file" / "records"))
    assert run_step("train", PARAMS, lambda params, emit: Result())[1].status == "succeeded"
    assert failed(DataError("x")).code == 2


def test_without_the_variable_no_record_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RECORDS_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    run_step("train", PARAMS, lambda params, emit: Result())
    assert list(tmp_path.iterdir()) == []


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


def test_log_lines_are_printed_once_however_often_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        logs.log_to_stderr()
    logs.step_logger("data-prep").info("%d images", 3)
    logs.step_logger("train").debug("not shown")
    logging.getLogger("elsewhere").info("not ours")
    (line,) = capsys.readouterr().err.splitlines()
    match = logs.LINE.fullmatch(line)
    assert match is not None
    assert (match["step"], match["level"]) == ("data-prep", None)
    assert line.endswith("data-prep 3 images")
