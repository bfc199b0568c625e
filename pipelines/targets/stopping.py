"""Ctrl-C, SIGTERM and SIGHUP while a local run is under way: its step ends in good order, and so does the pipeline.

kfp reads a step's output until the step ends, and runs the exit step after one that failed. So the first signal is only
passed on to the step; kfp does the rest. A second one ends everything at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from components.shared.signals import TERMINATING, Terminated, not_ignored
from pipelines.targets.steps import Steps


class Stop:
    """Whether a run was told to stop.

    Attributes:
        signal: The first signal, or None.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.signal: signal.Signals | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal is not None or not self._steps.under_way():
            self.signal = self.signal or signal.Signals(number)
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        self.signal = signal.Signals(number)
        self._steps.end(self.signal)


@contextmanager
def stopped_with(steps: Steps) -> Iterator[Stop]:
    """Within, signals to this process end the step that is running; in another thread, nothing changes."""
    stop = Stop(steps)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = not_ignored(signal.SIGINT, *TERMINATING)
    for number in before:
        signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
