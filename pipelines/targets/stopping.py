"""Ctrl-C and SIGTERM while a local run is under way: its step ends in good order, and so does the pipeline.

kfp reads a step's output until the step ends, and runs the exit step after one that failed. So the first signal is only
passed on to the step; kfp does the rest. A second one ends everything at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from components.shared.signals import Terminated

# A terminal sends Ctrl-C to the step too; one that was sent to us alone is passed on after this.
_GRACE_S = 1.0


class Stop:
    """Whether a run was told to stop.

    Attributes:
        signal: The first signal, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        steps = descendants(os.getpid())
        if self.signal is not None or not steps:
            self.signal = self.signal or signal.Signals(number)
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        self.signal = signal.Signals(number)
        if number == signal.SIGTERM:
            _terminate(steps)
        else:
            timer = threading.Timer(_GRACE_S, _terminate, [steps])
            timer.daemon = True
            timer.start()


@contextmanager
def stopped_with_its_steps() -> Iterator[Stop]:
    """Within, signals to this process end the step that is running; in another thread, nothing changes."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def descendants(process: int) -> list[int]:
    """Every process below one, where the system tells (``/proc``); shells included."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError, ValueError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _terminate(processes: list[int]) -> None:
    for process in processes:
        with suppress(OSError):
            # A shell that only waits for its step would die of it, and the step's exit code with it.
            if Path(f"/proc/{process}/comm").read_text().strip() not in ("sh", "dash", "bash"):
                os.kill(process, signal.SIGTERM)
