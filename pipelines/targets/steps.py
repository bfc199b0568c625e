"""What a local run asks of whatever starts its steps: processes of this installation, or containers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from components.shared.run_lock import RUN_LOCK_VARIABLE
from components.shared.step import RECORDS_VARIABLE, StepName


@dataclass(frozen=True)
class RunPlace:
    """Where one run is.

    Attributes:
        run: The run's id.
        out: The run's directory, absolute.
        scratch: Directory for temporary files of the steps; gone after the run.
        lock: File of the lock that the run holds; None where there are no locks.
    """

    run: str
    out: Path
    scratch: Path
    lock: Path | None = None

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
        """What every step finds in its environment, whoever starts it."""
        return {
            RUN_VARIABLE: self.run,
            EVENTS_VARIABLE: str(self.out / "events"),
            RECORDS_VARIABLE: str(self.records),
            RUN_LOCK_VARIABLE: str(self.lock or ""),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.scratch),
        }


class Steps(Protocol):
    """The steps of one run, while it goes on."""

    @property
    def pipeline(self) -> Any:
        """The pipeline as kfp runs it, images included."""
        ...

    @property
    def runner(self) -> Any:
        """One of kfp's local runners, configured."""
        ...

    def under_way(self) -> bool:
        """Whether a step is running, so that there is something to end."""
        ...

    def end(self, number: signal.Signals) -> None:
        """Tell the running step to end, for the signal this process got; returns at once."""
        ...

    def say_the_end(self, state: str, message: str, write: Callable[[str], object]) -> None:
        """Run the exit step that kfp did not get to; what it prints is written."""
        ...

    def how_it_ended(self, step: StepName) -> str | None:
        """Why a step ended without a record of its own, where that is known."""
        ...


class Target(Protocol):
    """What a run's steps are started by."""

    def steps(self, place: RunPlace) -> AbstractContextManager[Steps]:
        """Everything a run needs, for as long as it goes on."""
        ...

    def scratch(self, out: Path) -> TemporaryDirectory[str]:
        """A place for temporary files of the steps of a run in `out`."""
        ...
