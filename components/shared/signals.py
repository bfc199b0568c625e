"""Signals as a step sees them: SIGTERM is an exception, the first signal counts, and last words are not interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """The process was told to end: SIGTERM. No `Exception`, so that nothing takes it for an error to handle."""


class Termination:
    """What SIGTERM does at the moment: it is kept, it raises `Terminated` once, or it is past caring for.

    A flag that the handler looks at, because changing handlers leaves moments in between.
    """

    def __init__(self) -> None:
        self._state: Literal["kept", "raises", "over"] = "kept"
        self._came = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._state == "raises":
            self._state = "over"
            raise Terminated
        self._came = True

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
        if self._came:
            self._state = "over"
            raise Terminated

    def disarm(self) -> None:
        """From now on it changes nothing: what is under way is the ending, and that is bounded."""
        self._state = "over"


@contextmanager
def sigterm_kept() -> Iterator[Termination]:
    """Within, SIGTERM does what the yielded object says; in another thread than the main one, nothing changes."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_IGN:  # whoever started us may have asked that it be ignored
        signal.signal(signal.SIGTERM, termination.handle)
    interrupting = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interrupting:
        signal.signal(signal.SIGINT, termination.interrupt)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)
        if interrupting:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated`, once."""
    with sigterm_kept() as termination:
        termination.arm()
        yield


@dataclass
class Deferred:
    """Whether the process was told to end while that was put off.

    Attributes:
        signal: SIGTERM or SIGINT once it came; None before.
    """

    signal: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler of SIGTERM."""
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
    """Within, SIGTERM and the first Ctrl-C are noted, for the work to end at a moment of its own; after it they act.

    In another thread than the main one, and of signals that somebody has asked to be ignored, nothing changes.
    """
    deferred = Deferred()
    if threading.current_thread() is not threading.main_thread():
        yield deferred
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handlers = {signal.SIGTERM: deferred.note, signal.SIGINT: deferred.interrupt}
    # A handler that is None was not set from Python, and could not be put back.
    changed = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in changed:
            signal.signal(number, handlers[number])
        yield deferred
    finally:
        for number in changed:
            signal.signal(number, before[number])
        if deferred.signal is not None:
            noted, deferred.signal = deferred.signal, None
            signal.raise_signal(noted)
