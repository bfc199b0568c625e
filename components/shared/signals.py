"""Signals as a step sees them: SIGTERM is deferred, raised once, or ignored.

SIGHUP, which a terminal sends that is closed, is the same as SIGTERM. A signal that was ignored when the process began,
as ``nohup`` has SIGHUP ignored, stays so. Outside the main thread nothing changes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
TERMINATING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """The process received `signal`, which asks it to end. No `Exception`, so that nothing handles it as an error.

    Of a process that another one's signal ends, `reason` says which.
    """

    def __init__(self, number: int = signal.SIGTERM, reason: str = "") -> None:
        super().__init__()
        self.signal = signal.Signals(number)
        self.reason = reason or self.signal.name


class Termination:
    """What SIGTERM and SIGHUP do at the moment; a state, because changing handlers leaves moments in between."""

    def __init__(self) -> None:
        self._state: Literal["deferred", "raises", "ignored"] = "deferred"
        self._came: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or SIGHUP."""
        if self._state == "raises":
            self._state = "ignored"
            raise Terminated(number)
        self._came = self._came or number

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT as Python does; a SIGTERM after it does not change how the step ended."""
        if self._state == "raises":
            self._state = "ignored"
        raise KeyboardInterrupt

    def arm(self) -> None:
        """From now on the first signal raises `Terminated`, at once where it has come already."""
        self._state = "raises"  # first: one that comes between the two lines must not be deferred for good
        if self._came is not None:
            self._state = "ignored"
            raise Terminated(self._came)

    def disarm(self) -> None:
        """From now on they are ignored: what is under way is the ending, and that is bounded."""
        self._state = "ignored"


@contextmanager
def sigterm_kept() -> Iterator[Termination]:
    """Within, SIGTERM and SIGHUP are handled by the yielded object."""
    termination = Termination()
    handlers: dict[signal.Signals, _Handler] = dict.fromkeys(TERMINATING, termination.handle)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = termination.interrupt
    with handled(handlers):
        yield termination


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise `Terminated`, once."""
    with sigterm_kept() as termination:
        termination.arm()
        yield


@dataclass
class Deferred:
    """The first of SIGTERM, SIGHUP and SIGINT that came while they were deferred; None before."""

    signal: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or SIGHUP."""
        self.signal = self.signal or signal.Signals(number)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT: who presses Ctrl-C again wants to wait no longer."""
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        self.note(number, frame)


@contextmanager
def ends_deferred() -> Iterator[Deferred]:
    """Within, SIGTERM, SIGHUP and the first Ctrl-C are noted, for the work to end when it can; after it they act."""
    deferred = Deferred()
    try:
        with handled(dict.fromkeys(TERMINATING, deferred.note) | {signal.SIGINT: deferred.interrupt}):
            yield deferred
    finally:
        if deferred.signal is not None:
            noted, deferred.signal = deferred.signal, None
            signal.raise_signal(noted)


def not_ignored(*numbers: signal.Signals) -> dict[signal.Signals, Any]:
    """The handlers of signals, without those that are ignored, and those that were not set from Python."""
    handlers = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}


def ignore_termination() -> None:
    """From now on SIGTERM and SIGHUP are ignored, to the end of the process: all is done."""
    if threading.current_thread() is threading.main_thread():
        for number in TERMINATING:
            signal.signal(number, signal.SIG_IGN)


def restore(handlers: Mapping[signal.Signals, Any]) -> None:
    """Give signals their handlers back, but not those that are ignored by now; None: one not set from Python."""
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    """Within, signals that are not ignored have these handlers; outside the main thread nothing changes.

    Those that are ignored in the end, as by :func:`ignore_termination`, stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = not_ignored(*handlers)
    try:
        for number in before:
            signal.signal(number, handlers[number])
        yield
    finally:
        restore(before)
