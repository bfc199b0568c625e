"""One writer of a directory: the second is refused with who the first is, and a lock ends with its process."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from components.data_prep.__main__ import main as data_prep
from components.shared.artifacts.artifact import WRITING_MARKER
from components.shared.errors import InputError
from components.shared.locks import (
    RUN_LOCK_VARIABLE,
    HeldError,
    end_with_run,
    locked,
    remove_held,
    run_locked,
    when_released,
)
from components.shared.params.params import Params
from pipelines.targets.local import run_local
from tests.examples import DIGITS, write_params
from tests.shared.events.transports import until

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0

HOLDING = """
import sys, time
from pathlib import Path
from components.shared.locks import locked

with locked(Path(sys.argv[1])) as is_locked:
    print(is_locked, flush=True)
    if "fork" in sys.argv:
        import os
        if os.fork() == 0:
            print("forked", flush=True)
    time.sleep(600)
"""


@contextmanager
def held_elsewhere(file: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", HOLDING, str(file), *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_the_second_is_told_who_the_first_is_until_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with held_elsewhere(file) as process:
        with pytest.raises(HeldError) as refused, locked(file):
            raise AssertionError
        holder = refused.value.holder
        assert holder is not None
        assert (holder.pid, holder.host) == (process.pid, os.uname().nodename)
        assert sys.executable in holder.command
        process.kill()
        process.wait()
        with locked(file) as is_locked, pytest.raises(HeldError, match=str(os.getpid())), locked(file):
            raise AssertionError
        assert is_locked


def test_a_forked_worker_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with held_elsewhere(file, "fork") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with locked(file) as is_locked:
            assert is_locked


def test_a_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    waited: list[object] = []
    with locked(file):

        def wait() -> None:
            with locked(file, timeout_s=WAIT_S, on_wait=waited.append):
                waited.append(file.exists())

        thread = threading.Thread(target=wait)
        thread.start()
        while not waited:
            time.sleep(0.01)
        file.unlink()  # as a writer does that ends
    thread.join(WAIT_S)
    assert waited[1:] == [True]


def test_where_a_file_system_has_no_locks_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(logging.getLogger("shutterline"), "propagate", True)
    with locked(tmp_path / "lock") as is_locked:
        assert not is_locked
    record = next(each for each in caplog.records if each.name == "shutterline.locks")
    assert record.levelno == logging.WARNING
    assert "a second writer there would not be noticed" in record.getMessage()


def test_a_release_is_noticed_however_the_holder_ends(tmp_path: Path) -> None:
    file, released = tmp_path / "lock", threading.Event()
    with held_elsewhere(file) as process:
        when_released(file, released.set)
        assert not released.wait(0.1)
        process.kill()
        assert released.wait(WAIT_S)
    with locked(file):
        pass
    released.clear()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kernel": "another"}) + "\n")
    when_released(file, released.set)
    assert not released.wait(0.1), "a lock of another kernel is not watched"


def test_a_second_writer_of_a_dataset_is_refused_with_who_the_first_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, dataset = str(write_params(tmp_path / "params.json")), tmp_path / "dataset"
    dataset.mkdir()
    with held_elsewhere(dataset / WRITING_MARKER) as process:
        assert data_prep(["--data", str(DIGITS), "--dataset", str(dataset), "--params", params]) == 2
        error = capsys.readouterr().err
    assert f"{dataset}: process {process.pid} on " in error
    assert "is writing a dataset there; wait for its end, end it, or name another directory" in error
    assert "Traceback" not in error


def _link(file: Path) -> None:
    (file.parent.parent / "precious").write_text("{}\n2\n")
    file.symlink_to(file.parent.parent / "precious")


def _sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 30 << 30)


NOT_OURS = [
    (_link, "there is a link, not a file; remove it"),
    (os.mkfifo, "there is a pipe, not a file; remove it"),
    (Path.mkdir, "there is a directory, not a file; remove it"),
    (_sparse, "there has 32,212,254,720 bytes, so it is no lock's; remove it"),
]


@pytest.mark.parametrize(("make", "message"), NOT_OURS)
def test_a_lock_file_that_is_not_ours_is_refused_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], message: str
) -> None:
    dataset, out = tmp_path / "dataset", tmp_path / "out"
    for directory, name in ((dataset, WRITING_MARKER), (out, ".shutterline-run")):
        directory.mkdir()
        make(directory / name)
    params = str(write_params(tmp_path / "params.json"))

    assert data_prep(["--data", str(DIGITS), "--dataset", str(dataset), "--params", params]) == 2
    error = capsys.readouterr().err
    assert f"{dataset}: cannot be written as a dataset: {WRITING_MARKER} {message}" in error
    assert "Traceback" not in error
    with pytest.raises(InputError, match=f"--out {out}: cannot be written: .shutterline-run {message}"):
        run_local(Params.load(params), DIGITS, out, None, None)  # type: ignore[arg-type] # refused before
    if make is _link:
        assert (tmp_path / "precious").read_text() == "{}\n2\n"


def test_a_run_removes_no_lock_of_another(tmp_path: Path) -> None:
    with run_locked(tmp_path) as file:
        assert file is not None
        file.unlink()
        with held_elsewhere(file):
            remove_held(file)
            assert file.exists()


def test_a_step_reports_that_its_run_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, ended = tmp_path / "lock", threading.Event()
    with locked(file):
        pass
    monkeypatch.setattr(logging.getLogger("shutterline"), "propagate", True)
    monkeypatch.setenv(RUN_LOCK_VARIABLE, str(file))
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    try:
        end_with_run()
        until(ended.is_set)  # not one long wait: a signal that comes just before it is noticed after it
    finally:
        signal.signal(signal.SIGTERM, before)
    assert f"the run that started this step is gone (its lock, {file}, is released)" in caplog.text
