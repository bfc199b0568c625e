"""What a local run asks of whatever starts its steps: processes of this installation, or containers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.locks import RUN_LOCK_VARIABLE
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, TERMINATING
from components.shared.step import RECORDS_VARIABLE, StepName
from components.shared.storage.location import FOLLOW_LINKS_VARIABLE

INTERRUPTED = "interrupted from the keyboard"
# Why a run ends that got a signal, and its exit code.
REASONS = {signal.SIGINT: INTERRUPTED} | {number: f"asked to end by {number.name}" for number in TERMINATING}
STOPS = {reason: EXIT_INTERRUPTED if reason == INTERRUPTED else EXIT_TERMINATED for reason in REASONS.values()}


@dataclass(frozen=True)
class LocalRunPaths:
    """The id of one run and its directories.

    Attributes:
        out: The run's directory, absolute.
        scratch: Directory for temporary files of the steps; gone after the run.
        lock: File of the lock that the run holds; None where there are no locks.
        follow_links: Whether data prep may follow links out of the data.
    """

    run: str
    out: Path
    scratch: Path
    lock: Path | None = None
    follow_links: bool = False

    @property
    def records(self) -> Path:
        """Directory of the step records."""
        return self.out / "steps"

    @property
    def log(self) -> Path:
        """Everything that kfp and the steps print."""
        return self.out / "kfp.log"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of every step, whatever starts it."""
        return {
            RUN_VARIABLE: self.run,
            EVENTS_VARIABLE: str(self.out / "events"),
            RECORDS_VARIABLE: str(self.records),
            RUN_LOCK_VARIABLE: str(self.lock or ""),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.scratch),
        } | ({FOLLOW_LINKS_VARIABLE: "1"} if self.follow_links else {})


class Steps:
    """The steps of one run, while it goes on.

    Attributes:
        pipeline: The pipeline as kfp runs it, images included.
        runner: One of kfp's local runners, configured.
    """

    pipeline: Any
    runner: Any

    def __init__(self, paths: LocalRunPaths) -> None:
        self.paths = paths

    def is_running(self) -> bool:
        """Whether a step is running."""
        raise NotImplementedError

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on to the running step; returns at once."""
        raise NotImplementedError

    def run_exit_step(self, command: list[str], write: Callable[[str], object]) -> None:
        """Run the exit step that kfp did not get to, by its command without the interpreter."""
        raise NotImplementedError

    def failure(self, step: StepName) -> str | None:
        """Why a step ended without a record of its own, where that is known."""
        return None


# Starts a run's steps: everything they need is there within.
Target = Callable[[LocalRunPaths], AbstractContextManager[Steps]]
