"""What a local run asks of whatever starts its steps: processes of this installation, or containers."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from components.shared.errors import InputError
from components.shared.images import Image, ImageStep, images_named_by
from components.shared.locks import RUN_LOCK_VARIABLE
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, TERMINATING
from components.shared.step import RECORDS_VARIABLE, StepName

Gpus = Literal["none", "all", "auto"]
_SIZE = re.compile(r"[1-9][0-9]*[bkmg]?", re.IGNORECASE)

INTERRUPTED = "interrupted from the keyboard"
# Why a run ends that got a signal, and its exit code.
REASONS = {signal.SIGINT: INTERRUPTED} | {number: f"told to end by {number.name}" for number in TERMINATING}
STOPS = {reason: EXIT_INTERRUPTED if reason == INTERRUPTED else EXIT_TERMINATED for reason in REASONS.values()}


@dataclass(frozen=True)
class DockerOptions:
    """What the containers of a run get.

    Attributes:
        images: What each step runs in.
        network: Network of the engine, ``host`` or ``none``; None: the engine's default.
        gpus: ``auto``: all of them, if the engine offers any and the params do not say ``cpu``.
        shm_size: Size of ``/dev/shm``, as Docker writes sizes.
        memory: Limit of a step's memory, likewise; None: none.
        cpus: Limit of a step's processors; None: none.
    """

    images: dict[ImageStep, Image]
    network: str | None = None
    gpus: Gpus = "auto"
    shm_size: str = "1g"
    memory: str | None = None
    cpus: float | None = None


def docker_options(
    is_docker: bool,
    *,
    images: Path | None,
    network: str | None,
    gpus: Gpus | None,
    shm_size: str | None,
    memory: str | None,
    cpus: str | None,
) -> DockerOptions | None:
    """What the containers of a run get; None where steps run in processes.

    Raises:
        InputError: An option is wrong, or given to the other runner.
    """
    given = {"images": images, "network": network, "gpus": gpus, "shm-size": shm_size, "memory": memory, "cpus": cpus}
    if not is_docker:
        if name := next((name for name, value in given.items() if value is not None), None):
            raise InputError(f"--{name} belongs to --runner docker, which was not asked for")
        return None
    for name, size in (("shm-size", shm_size), ("memory", memory)):
        if size is not None and not _SIZE.fullmatch(size):
            raise InputError(f"--{name}: must be a size such as 512m or 8g, got {size!r}")
    if network is not None and not network.strip():
        raise InputError("--network: must name a network, such as host or none")
    return DockerOptions(
        images_named_by(images),
        network,
        gpus or "auto",
        shm_size or "1g",
        memory,
        _cpus(cpus) if cpus is not None else None,
    )


def _cpus(text: str) -> float:
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if not 0.01 <= cpus <= 65536:
        raise InputError(f"--cpus: must be a number of processors such as 2 or 1.5, got {text!r}")
    return cpus


@dataclass(frozen=True)
class LocalRunPaths:
    """The id of one run and its directories.

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
        """The environment variables of every step, whoever starts it."""
        return {
            RUN_VARIABLE: self.run,
            EVENTS_VARIABLE: str(self.out / "events"),
            RECORDS_VARIABLE: str(self.records),
            RUN_LOCK_VARIABLE: str(self.lock or ""),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.scratch),
        }


class Steps(Protocol):
    """The steps of one run, while it goes on.

    Attributes:
        pipeline: The pipeline as kfp runs it, images included.
        runner: One of kfp's local runners, configured.
    """

    pipeline: Any
    runner: Any

    def is_running(self) -> bool:
        """Whether a step is running."""
        ...

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on to the running step; returns at once."""
        ...

    def run_exit_step(self, state: str, message: str, write: Callable[[str], object]) -> None:
        """Run the exit step that kfp did not get to; its output goes to `write`."""
        ...

    def failure(self, step: StepName) -> str | None:
        """Why a step ended without a record of its own, where that is known."""
        ...


class Target(Protocol):
    """What starts a run's steps."""

    def steps(self, paths: LocalRunPaths) -> AbstractContextManager[Steps]:
        """Everything a run needs, for as long as it goes on."""
        ...

    def scratch(self, out: Path) -> TemporaryDirectory[str]:
        """A directory for temporary files of the steps of a run in `out`."""
        ...
