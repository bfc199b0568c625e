"""Steps as processes of this installation, through kfp's SubprocessRunner."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.shared.pipeline_end import CANCELLED_VARIABLE
from pipelines.targets.steps import REASONS, LocalRunPaths, Steps

# A terminal sends Ctrl-C to the step too; one that was sent to us alone is passed on after this.
_GRACE_S = 1.0


@contextmanager
def subprocess_steps(paths: LocalRunPaths) -> Iterator[Steps]:
    """Within, the environment of this process is the steps'."""
    interpreter, before = sys.executable, dict(os.environ)
    os.environ |= paths.variables
    os.environ["PYTHONSAFEPATH"] = "1"  # a file torch.py in the user's directory is not torch
    _provide_python3(paths.scratch, interpreter)
    try:
        yield _SubprocessSteps(paths, interpreter)
    finally:
        sys.executable = interpreter
        os.environ.clear()
        os.environ.update(before)


def _provide_python3(scratch: Path, interpreter: str) -> None:
    """Make ``python3`` this interpreter, and its name.

    kfp's SubprocessRunner replaces the text ``python3`` everywhere in a task's command by the interpreter's path, paths
    of data and of artifacts included, and unquoted in a shell's line. Replaced by itself, it changes nothing.
    """
    script = scratch / "bin" / "python3"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(interpreter)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    if os.access(script, os.X_OK):  # else temporary files may not be executed, and a path with that text goes wrong
        os.environ["PATH"] = f"{script.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        sys.executable = "python3"


class _SubprocessSteps(Steps):
    def __init__(self, paths: LocalRunPaths, interpreter: str) -> None:
        from kfp import local

        from pipelines.image_classifier import image_classifier

        super().__init__(paths)
        self._interpreter = interpreter
        self.pipeline = image_classifier
        self.runner = local.SubprocessRunner(use_venv=False)

    def is_running(self) -> bool:
        return bool(_descendants(os.getpid()))

    def stop(self, number: signal.Signals) -> None:
        os.environ[CANCELLED_VARIABLE] = REASONS[number]  # for the exit step, which kfp starts next
        steps = _descendants(os.getpid())
        if number != signal.SIGINT:
            _send(number, steps)
        if number != signal.SIGTERM:
            timer = threading.Timer(_GRACE_S, _send, [signal.SIGTERM, steps])
            timer.daemon = True
            timer.start()

    def run_exit_step(self, command: list[str], write: Callable[[str], object]) -> None:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [self._interpreter, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
        )
        write(done.stdout)


def _descendants(process: int) -> list[int]:
    """Every process below one, where the system has ``/proc``; shells included."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError, ValueError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _send(number: signal.Signals, processes: list[int]) -> None:
    for process in processes:
        with suppress(OSError):
            # A shell that only waits for its step would die of it, and the step's exit code with it.
            if Path(f"/proc/{process}/comm").read_text().strip() not in ("sh", "dash", "bash"):
                os.kill(process, number)
