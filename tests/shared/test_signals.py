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
KAFKA = Params.from_dict(small(KAFKA_HOST="localhost", KAFKA_TOPIC="status", TIMEOUT=60))


@pytest.fixture(autouse=True)
def outside() -> Iterator[list[int]]:
    """The SIGTERMs that reach whoever started the step; without this they would end the tests."""
    reached: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: reached.append(number))
    yield reached
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
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
            terminate()


@pytest.fixture
def at_line() -> Iterator[Callable[[str], None]]:
    """Ask for a SIGTERM at a log line of the step."""
    log, handlers = logging.getLogger("shutterline.train"), []

    def ask(beginning: str) -> None:
        handlers.append(AtLine(beginning))
        log.addHandler(handlers[-1])

    yield ask
    for handler in handlers:
        log.removeHandler(handler)


def works(params: Params, emit: Emit) -> Result:
    return Result()


def fails(params: Params, emit: Emit) -> Result:
    raise DataError("photo.png: is empty")


def is_cancelled(params: Params, emit: Emit) -> Result:
    terminate()
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
    tmp_path: Path, at_line: Callable[[str], None], line: str, work: Work, code: int, state: str
) -> None:
    at_line(line)
    assert ended(tmp_path, work) == code
    assert states(tmp_path) == ["started", state]


def test_sigterm_while_the_last_events_are_delivered_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: list[int]
) -> None:
    broker = ScriptedTransport("kafka", [lambda: None, terminate])
    monkeypatch.setattr(status, "transport_of", lambda name, target: broker)

    def work(params: Params, emit: Emit) -> Result:
        until(lambda: len(broker.taken) == 1)
        return Result()

    assert ended(tmp_path, work, KAFKA) == 0
    assert states(tmp_path) == ["started", "succeeded"]
    assert broker.ids == ["run-1/train/0/0", "run-1/train/0/1"]
    assert outside == []


def test_a_second_ctrl_c_ends_the_wait_for_the_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        gate()

    broker = ScriptedTransport("kafka", [lambda: None, hang])
    monkeypatch.setattr(status, "transport_of", lambda name, target: broker)

    def work(params: Params, emit: Emit) -> Result:
        until(lambda: len(broker.taken) == 1)
        raise KeyboardInterrupt

    assert ended(tmp_path, work, KAFKA.model_copy(update={"TIMEOUT": 3600.0})) == 130
    assert states(tmp_path) == ["started", "cancelled"]
    gate.open()


def test_sigterm_while_ctrl_c_is_being_heeded_changes_nothing(tmp_path: Path, outside: list[int]) -> None:
    cleared = []

    def work(params: Params, emit: Emit) -> Result:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        finally:
            terminate()
            cleared.append(True)
        return Result({})

    assert ended(tmp_path, work) == 130
    assert (cleared, outside) == ([True], [])
    assert states(tmp_path) == ["started", "cancelled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_afterwards_sigterm_is_what_it_was(tmp_path: Path, outside: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for work in (fails, is_cancelled, works):
        ended(tmp_path, work)
        assert signal.getsignal(signal.SIGTERM) is before
    terminate()
    assert outside == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:

        def work(params: Params, emit: Emit) -> Result:
            with ends_deferred() as deferred:
                os.kill(os.getpid(), number)
                time.sleep(0)
                assert deferred.signal is None
            return Result()

        assert ended(tmp_path, work) == 0
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_was_put_off_acts_as_what_it_was(number: signal.Signals) -> None:
    def put_off() -> None:
        with ends_deferred() as deferred:
            os.kill(os.getpid(), number)
            time.sleep(0)
            assert deferred.signal is number

    with pytest.raises(KeyboardInterrupt if number is signal.SIGINT else Terminated) as ended_by, sigterm_raises():
        put_off()
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
from components.shared.run import StepRun
from components.shared.step import StepFailed, run_step
from tests.shared.test_step import PARAMS, Result

signal.signal(signal.SIGTERM, lambda number, frame: None)  # too early or too late for the step
chosen = random.Random(int(sys.argv[2]))

def work(params, emit):
    time.sleep(0.001)
    return Result()

def one(name, count, delay):
    def send():
        time.sleep(delay)
        for _ in range(count):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.0003)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        run_step("train", PARAMS, work, lambda: StepRun(name, None, 0, Path(sys.argv[1]), True, "pod-1"))
        code = 0
    except StepFailed as failed:
        code = failed.code
    except BaseException as error:
        code = type(error).__name__
    sender.join()
    return code

print(json.dumps([one(f"run-{number}", number % 2 * 5 + 1, chosen.random() * 0.005) for number in range(300)]))
"""


def test_whenever_sigterm_comes_a_step_ends_once_and_its_exit_code_says_how(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY, tmp_path, "1"], cwd=ROOT, capture_output=True, text=True, timeout=2 * WAIT_S
    )
    codes = json.loads(done.stdout)
    ends: dict[str, list[str]] = {f"run-{number}": [] for number in range(len(codes))}
    for event in events_in(tmp_path):
        ends[event.run] += [event.state] if event.is_terminal else []
    assert set(codes) == {0, 143}
    assert list(ends.values()) == [["succeeded"] if code == 0 else ["cancelled"] for code in codes]


WAITING = """
import sys, threading
from pathlib import Path
from components.shared.run import StepRun
from components.shared.step import run_step
from tests.shared.test_step import PARAMS

def work(params, emit):
    print("at work", flush=True)
    threading.Event().wait()

run_step("train", PARAMS, work, lambda: StepRun("run-1", None, 0, Path(sys.argv[1]), True, "pod-1"))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
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
