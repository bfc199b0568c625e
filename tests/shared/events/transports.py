"""A broker in memory that follows a script, and what tests of the delivery share."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest

from components.shared.events.delivery import TooLargeError, Transport
from components.shared.events.event import EncodedEvent, EventSource
from components.shared.events.spool import MEMORY_EVENTS, Spool
from components.shared.events.stream import StatusStream
from components.shared.retry import TimeLeft
from tests.shared.events.sample_events import EventSequence, progress

LOG = logging.getLogger("tests.delivery")

# Far above what anything here takes.
WAIT_S = 60.0


@dataclass(frozen=True)
class Takes:
    """Take so many events of a window; without an answer, as if it were lost on its way."""

    events: int
    answers: bool = True


# What a broker does with one window: take a part, fail, or run something before it takes all of it.
Act = Exception | Takes | Callable[[], object]


class ScriptedTransport:
    """Does one act for each window, and takes every window when there are no more.

    Attributes:
        limit: The most bytes that it takes of an event.
        events: In the order they were taken.
        windows: How many events it was given at a time.
        closed: How often it was closed.
    """

    def __init__(
        self, name: str = "kafka", acts: Iterable[Act] = (), *, address: str = "", limit: int = 1_000_000
    ) -> None:
        self.name = name
        self.address = address or f"{name} in memory"
        self.limit = limit
        self.events: list[EncodedEvent] = []
        self.windows: list[int] = []
        self.closed = 0
        self._acts = iter(acts)

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> int:
        self.windows.append(len(events))
        fitting = list(takewhile(lambda event: len(event.body) <= self.limit, events))
        if not fitting:
            raise TooLargeError(f"{self.address}: {len(events[0].body):,} bytes are too many")
        act = next(self._acts, None)
        if isinstance(act, Exception):
            raise act
        if isinstance(act, Takes):
            fitting = fitting[: act.events]
        elif act is not None:
            act()
        self.events += fitting
        if isinstance(act, Takes) and not act.answers:
            raise ConnectionResetError("the answer was lost")
        return len(fitting)

    def close(self) -> None:
        self.closed += 1

    @property
    def taken(self) -> list[bytes]:
        """The events' bytes."""
        return [event.body for event in self.events]

    @property
    def ids(self) -> list[str]:
        """Of the events it took."""
        return [json.loads(body)["id"] for body in self.taken]


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


class Gate:
    """What a broker or a disk hangs at until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        """Pass, or wait for the gate to be opened."""
        self.reached.set()
        self._open.wait()

    def open(self) -> None:
        """Let everybody pass from now on."""
        self._open.set()


class FullDisk:
    """A disk that takes so many bytes of each write, or none (a negative number); everything when nothing is said."""

    def __init__(self, takes: Sequence[int]) -> None:
        self._takes = iter(takes)
        self._write = os.pwrite

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        size = next(self._takes, len(data))
        if size < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data[:size], offset)


class HangingDisk:
    """Every write waits at the gate."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gate = Gate()
        self._write = os.pwrite
        patch.setattr(os, "pwrite", self._pwrite)

    def _pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        self.gate()
        return self._write(descriptor, data, offset)


def targets(*names: str, topic: str = "status") -> dict[str, dict[str, object]]:
    """What a ledger says of brokers."""
    return {name: {"topic": topic} for name in names}


def stream_to(
    directory: Path | None,
    *transports: Transport,
    run: str = "run-1",
    step: str = "train",
    earlier: Sequence[Spool] = (),
    topic: str = "status",
    memory_events: int = MEMORY_EVENTS,
) -> StatusStream:
    """A step's stream to brokers."""
    names = targets(*(transport.name for transport in transports), topic=topic)
    if directory is None:
        spool = Spool(None, 0, names, memory_events=memory_events)
    else:
        spool = Spool.create(directory, run, step, 0, names, memory_events=memory_events)
    return StatusStream(EventSource(run, step, 0, "pod-1"), spool, transports, earlier=earlier, log=LOG)


def lines_of(count: int, run: str = "run-1", step: str = "train", attempt: int = 0) -> list[bytes]:
    """Whole lines of a spool."""
    voice = EventSequence(run, step, attempt)
    return [voice.next("progress", progress(epoch, count)) + b"\n" for epoch in range(1, count + 1)]


def add(spool: Spool, lines: Sequence[bytes]) -> None:
    """Append whole lines to a spool, and write them."""
    for line in lines:
        spool.append(EncodedEvent.from_body(line.rstrip(b"\n")))
    spool.write()


def advance(spool: Spool, count: int, broker: str = "kafka") -> None:
    """Note on disk that a broker has so many events."""
    spool.advance(broker, count)
    spool.write()


def left_spool(
    directory: Path, lines: Sequence[bytes], *names: str, step: str = "train", topic: str = "status"
) -> Path:
    """A spool of an earlier step that delivered nothing of it."""
    spool = Spool.create(directory, "run-1", step, 0, targets(*names, topic=topic))
    spool.close()
    assert spool.path is not None
    spool.path.write_bytes(b"".join(lines))
    return spool.path


def opened(path: Path) -> Spool:
    """A spool that nobody has."""
    spool = Spool.open(path)
    assert spool is not None
    return spool
