"""SIGTERM and Ctrl-C: whenever they come, a step that has begun emits exactly one terminal event."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.shared import status
from components.shared.errors import DataError
from components.shared.events.data import Emit
from components.shared.events.spool import events_in
from components.shared.params.params import Params
from components.shared.run import StepRun
from components.shared.signals import Terminated, ends_deferred, sigterm_raises
from components.shared.step import StepFailed, run_step
from tests.configs import small
from tests.shared.events.transports import WAIT_S, Gate, ScriptedTransport, until
from tests.shared.test_step import PARAMS, Result

ROOT = Path(__file__).parents[2]
Work = Callable[[Params, Emit], Result]
KAFKA = Params.from_dict(small(KAFKA_HOST="localhost", KAFKA_TOPIC="status", TIMEOUT=3600.0))
TERMINATING = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])


@pytest.fixture(autouse=True)
def outside() -> Iterator[list[int]]:
    """The SIGTERMs that reach whoever started the step; without this they would end the tests."""
    reached: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: reached.append(number))
    yield reached
    signal.signal(signal.SIGTERM, before)


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # where the main thread is here, the signal is handled before the next line


def states(directory: Path) -> list[str]:
    return [event.state for event in events_in(directory)]


def ended(directory: Path, work: Work, params: Params = PARAMS) -> int:
    """The exit code of a step."""
    try:
        run_step("train", params, work, lambda: StepRun("run-1", None, 0, directory, shared=True, host="pod-1"))
    except StepFailed as failed:
        return failed.record.exit_code
    return 0


@TERMINATING
def test_a_signal_during_the_work_cancels_the_step_and_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def work(params: Params, emit: Emit) -> Result:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        except Exception as error:  # a defect would be shown here
            raise AssertionError("was taken for an error") from error
        return Result()

    assert ended(tmp_path, work) == 143
    assert states(tmp_path) == ["started", "cancelled"]
    *_, last = events_in(tmp_path)
    assert (last.data.reason, last.data.exit_code) == (number.name, 143)
    err = capsys.readouterr().err
    assert f"ERROR cancelled: {number.name}" in err
    assert "Traceback" not in err
    assert signal.getsignal(number) is before


class AtLine(logging.Handler):
    """Sends SIGTERM when a log line begins so."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.beginning = beginning

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.beginning):
            send()


def works(params: Params, emit: Emit) -> Result:
    return Result()


def fails(params: Params, emit: Emit) -> Result:
    raise DataError("photo.png: is empty")


def is_cancelled(params: Params, emit: Emit) -> Result:
    send()
    return Result()


@pytest.mark.parametrize(
    ("line", "work", "code", "state"),
    [
        ("succeeded", works, 0, "succeeded"),
        ("failed", fails, 143, "cancelled"),
        ("cancelled", is_cancelled, 143, "cancelled"),
        ("started", works, 143, "cancelled"),
    ],
)
def test_whenever_sigterm_comes_the_step_ends_once(
    tmp_path: Path, outside: list[int], line: str, work: Work, code: int, state: str
) -> None:
    log, handler, before = logging.getLogger("shutterline.train"), AtLine(line), signal.getsignal(signal.SIGTERM)
    log.addHandler(handler)
    try:
        assert ended(tmp_path, work) == code
    finally:
        log.removeHandler(handler)
    assert states(tmp_path) == ["started", state]
    assert signal.getsignal(signal.SIGTERM) is before, "afterwards it is what it was"
    assert outside == []


@pytest.mark.parametrize(("is_interrupted", "code", "state"), [(False, 0, "succeeded"), (True, 130, "cancelled")])
def test_a_signal_while_the_last_events_are_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: list[int], is_interrupted: bool, code: int, state: str
) -> None:
    """SIGTERM is ignored; a second Ctrl-C ends the wait for the brokers."""
    gate = Gate()

    def interrupt() -> None:
        send(signal.SIGINT)
        gate()

    broker = ScriptedTransport("kafka", [lambda: None, interrupt if is_interrupted else send])
    monkeypatch.setattr(status, "transport_of", lambda name, target: broker)

    def work(params: Params, emit: Emit) -> Result:
        until(lambda: len(broker.events) == 1)
        if is_interrupted:
            raise KeyboardInterrupt
        return Result()

    assert ended(tmp_path, work, KAFKA) == code
    gate.open()
    assert states(tmp_path) == ["started", state]
    assert outside == []


def test_sigterm_while_ctrl_c_is_being_heeded_changes_nothing(tmp_path: Path, outside: list[int]) -> None:
    def work(params: Params, emit: Emit) -> Result:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        finally:
            send()
        return Result({})

    assert ended(tmp_path, work) == 130
    assert outside == []
    assert states(tmp_path) == ["started", "cancelled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@TERMINATING
def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:

        def work(params: Params, emit: Emit) -> Result:
            with ends_deferred() as deferred:
                send(number)
                assert deferred.signal is None
            return Result()

        assert ended(tmp_path, work) == 0
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_was_deferred_acts_as_what_it_was(number: signal.Signals) -> None:
    def defer() -> None:
        with ends_deferred() as deferred:
            send(number)
            assert deferred.signal is number

    with pytest.raises(KeyboardInterrupt if number is signal.SIGINT else Terminated) as ended_by, sigterm_raises():
        defer()
    assert getattr(ended_by.value, "signal", signal.SIGINT) is number


def test_in_another_thread_a_step_runs_and_leaves_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def work(params: Params, emit: Emit) -> Result:
        handlers.append(signal.getsignal(signal.SIGTERM))
        return Result()

    thread = threading.Thread(target=ended, args=[tmp_path, work])
    thread.start()
    thread.join(WAIT_S)
    assert states(tmp_path) == ["started", "succeeded"]
    assert handlers == [before]


MANY = """
import json, os, random, signal, sys, threading, time
from pathlib import Path
from components.shared.step import StepFailed
from tests.shared.test_signals import Result, ended

signal.signal(signal.SIGTERM, lambda number, frame: None)  # too early or too late for the step
chosen = random.Random(1)

def work(params, emit):
    time.sleep(0.001)
    return Result()

def one(number):
    def send():
        time.sleep(delay)
        for _ in range(number % 2 * 5 + 1):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.0003)
    delay = chosen.random() * 0.005
    sender = threading.Thread(target=send)
    sender.start()
    code = ended(Path(sys.argv[1]) / str(number), work)
    sender.join()
    return code

print(json.dumps([one(number) for number in range(300)]))
"""


def test_whenever_sigterm_comes_a_step_ends_once_and_its_exit_code_says_how(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MANY, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    codes = json.loads(done.stdout)
    ends = [
        [event.state for event in events_in(tmp_path / str(number)) if event.is_terminal]
        for number in range(len(codes))
    ]
    assert set(codes) == {0, 143}
    assert ends == [["succeeded"] if code == 0 else ["cancelled"] for code in codes]


WAITING = """
import sys, threading
from pathlib import Path
from tests.shared.test_signals import ended

def work(params, emit):
    print("at work", flush=True)
    threading.Event().wait()

sys.exit(ended(Path(sys.argv[1]), work))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_process_that_is_told_to_stop_ends_with_the_signals_code(tmp_path: Path, number: int, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == code
    assert "Traceback" not in err
    assert states(tmp_path) == ["started", "cancelled"]
