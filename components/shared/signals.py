"""Signals as a step sees them: SIGTERM is an exception, the first signal counts, and last words are not interrupted.

SIGHUP, which a terminal sends that is closed, is the same as SIGTERM. A signal that was ignored when the process began,
as ``nohup`` has SIGHUP ignored, stays so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
TERMINATING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """The process was told to end. No `Exception`, so that nothing takes it for an error to handle.

    Attributes:
        signal: SIGTERM or SIGHUP.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


class Termination:
    """What SIGTERM and SIGHUP do at the moment: the first is kept, or raises `Terminated`, or none counts any more.

    A flag that the handler looks at, because changing handlers leaves moments in between.
    """

    def __init__(self) -> None:
        self._state: Literal["kept", "raises", "over"] = "kept"
        self._came: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._state == "raises":
            self._state = "over"
            raise Terminated(number)
        self._came = self._came or number

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT: what comes after it, while the work is being left, does not change how the step ended.

        Raises:
            KeyboardInterrupt: As Python's own handler, each time.
        """
        if self._state == "raises":
            self._state = "over"
        raise KeyboardInterrupt

    def arm(self) -> None:
        """From now on it raises.

        Raises:
            Terminated: It has come already.
        """
        self._state = "raises"  # first: one that comes between the two lines must not be kept for good
        if self._came is not None:
            self._state = "over"
            raise Terminated(self._came)

    def disarm(self) -> None:
        """From now on it changes nothing: what is under way is the ending, and that is bounded."""
        self._state = "over"


@contextmanager
def sigterm_kept() -> Iterator[Termination]:
    """Within, SIGTERM and SIGHUP do what the yielded object says.

    Outside the main thread, and of signals that are ignored, nothing changes.
    """
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    before = not_ignored(*TERMINATING)
    for number in before:
        signal.signal(number, termination.handle)
    interrupting = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interrupting:
        signal.signal(signal.SIGINT, termination.interrupt)
    try:
        yield termination
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if interrupting:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def not_ignored(*numbers: signal.Signals) -> dict[signal.Signals, Any]:
    """The handlers of signals, without those that are ignored, and those that were not set from Python."""
    handlers = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise `Terminated`, once."""
    with sigterm_kept() as termination:
        termination.arm()
        yield


@dataclass
class Deferred:
    """Whether the process was told to end while that was put off.

    Attributes:
        signal: SIGTERM, SIGHUP or SIGINT once it came; None before.
    """

    signal: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler of SIGTERM and SIGHUP."""
        self.signal = self.signal or signal.Signals(number)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT: the first is put off; who presses Ctrl-C again wants to wait no longer.

        Raises:
            KeyboardInterrupt: The second time.
        """
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        self.note(number, frame)


@contextmanager
def ends_deferred() -> Iterator[Deferred]:
    """Within, SIGTERM, SIGHUP and the first Ctrl-C are noted, for the work to end at a moment of its own.

    After it they act.
    In another thread than the main one, and of signals that somebody has asked to be ignored, nothing changes.
    """
    deferred = Deferred()
    if threading.current_thread() is not threading.main_thread():
        yield deferred
        return
    handlers = dict.fromkeys(TERMINATING, deferred.note) | {signal.SIGINT: deferred.interrupt}
    before = not_ignored(*handlers)
    try:
        for number in before:
            signal.signal(number, handlers[number])
        yield deferred
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if deferred.signal is not None:
            noted, deferred.signal = deferred.signal, None
            signal.raise_signal(noted)
