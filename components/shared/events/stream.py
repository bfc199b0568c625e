"""The stream of one step's events: emitting costs its caller microseconds, everything else happens behind.

``emit`` puts the event into a bounded queue. One thread makes events of what is in it and spools them; one courier per
broker delivers from the spool (:mod:`components.shared.events.delivery`). If the queue fills, because the disk hangs,
the oldest progress goes first, the beginning and the end of a step never.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    EventData,
    Failed,
    PipelineEnded,
    PipelineStarted,
    Progress,
    State,
    StepStarted,
    Succeeded,
)
from components.shared.events.delivery import Courier, Signal
from components.shared.events.event import PIPELINE, EventSource, encode
from components.shared.events.redaction import Redactor
from components.shared.events.spool import Spool
from components.shared.events.transport import DeliveryError, Transport

# A run has a few hundred events; this many only wait where nothing moves any more.
QUEUE_LIMIT = 10_000

# How long progress may wait to be spooled.
_LOOK_S = 0.1
# What the last word may take to be spooled on a busy machine.
_LAST_WORD_S = 0.5
# A call that was cut short needs a moment to let go.
_LAST_CALL_S = 0.4

_STATES: dict[type[Any], State] = {
    StepStarted: "started",
    PipelineStarted: "started",
    Progress: "progress",
    Checkpoint: "checkpoint",
    Succeeded: "succeeded",
    Failed: "failed",
    Cancelled: "cancelled",
}


@dataclass(frozen=True)
class BrokerReport:
    """What became of a step's events at one broker.

    Attributes:
        place: Which broker and topic.
        delivered: Events that it has taken.
        undelivered: Events that are in the spool alone.
        trouble: Why, if there are any.
        set_aside: Those of them that it refuses for their size.
    """

    place: str
    delivered: int
    undelivered: int
    trouble: str | None = None
    set_aside: int = 0


@dataclass(frozen=True)
class DeliveryReport:
    """What became of a step's events.

    Attributes:
        run: The run's id.
        events: Events in all.
        spool: The file that has them; None if none could be made.
        unspooled: Events that the disk did not take.
        dropped: Progress that was let go because the queue was full.
        brokers: By name.
    """

    run: str
    events: int
    spool: str | None
    unspooled: int
    dropped: int
    brokers: dict[str, BrokerReport]

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Queued:
    state: State
    nanoseconds: int
    data: EventData


class StatusStream:
    """Takes a step's events and sees to their delivery.

    Args:
        event_source: Who the events are from.
        spool: Where they are kept.
        transports: The brokers they go to.
        earlier: Spools of the same run that an earlier step could not deliver; theirs go first.
        log: Gets a line when a broker's state changes.
        first_sequence: Number of the first event.
    """

    def __init__(
        self,
        event_source: EventSource,
        spool: Spool,
        transports: Sequence[Transport],
        *,
        earlier: Sequence[Spool] = (),
        log: logging.Logger,
        first_sequence: int = 0,
    ) -> None:
        self.event_source = event_source
        self._spool = spool
        self._earlier = earlier
        self._log = log
        self._process = os.getpid()
        self._queue: deque[_Queued] = deque()
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._closing = False
        self._sequence = first_sequence
        self._events = 0
        self._dropped = 0
        self._disk_trouble_told = False
        self._signal = Signal()
        self._writer = threading.Thread(target=self._write, name="status-spool", daemon=True)
        self._couriers = [
            Courier(transport, [*_meant_for(transport, earlier, spool), spool], self._signal, log, self._release)
            for transport in transports
        ]
        self._users = len(self._couriers) + 1  # of the spools' files: the couriers, and this stream until it is closed
        self._writer.start()
        for courier in self._couriers:
            courier.start()

    def emit(self, data: EventData) -> None:
        """Tell that something happened. Never raises, never waits; silent in a forked worker and once closed."""
        if self._closing or os.getpid() != self._process:
            return
        state = data.outcome if isinstance(data, PipelineEnded) else _STATES[type(data)]
        queued = _Queued(state, time.time_ns(), data)
        with self._lock:
            if len(self._queue) >= QUEUE_LIMIT:
                self._shed()
            self._queue.append(queued)
        # Waking a thread is a system call of some 10 µs; progress can wait until the thread looks by itself.
        if state != "progress":
            self._wake.put(None)

    def _shed(self) -> None:
        """Let the oldest progress in the queue go; nothing if there is none."""
        for index, queued in enumerate(self._queue):
            if queued.state == "progress":
                del self._queue[index]
                self._dropped += 1
                return

    def first_answers(self, timeout_s: float) -> dict[str, DeliveryError | None]:
        """What each broker said to the first events, by its place; only those that have answered in time.

        Args:
            timeout_s: How long to wait for all of them together.
        """
        deadline = time.monotonic() + timeout_s
        return {
            courier.transport.address: courier.trouble
            for courier in self._couriers
            if courier.answered.wait(max(0.0, deadline - time.monotonic()))
        }

    @property
    def places(self) -> list[str]:
        """The brokers, for people."""
        return [courier.transport.address for courier in self._couriers]

    def close(self, timeout_s: float) -> DeliveryReport:
        """Deliver what is left, within a bound, and say what became of everything.

        Args:
            timeout_s: How long to wait for all brokers together.
        """
        deadline = time.monotonic() + timeout_s
        self._closing = True
        self._wake.put(None)
        self._signal.end_by(deadline)
        # It has the last word to write, whatever the bound; a disk that hangs is not waited for.
        self._writer.join(max(_LAST_WORD_S, timeout_s / 2))
        self._signal.no_more()
        for courier in self._couriers:
            courier.join(max(0.0, deadline - time.monotonic()) + _LAST_CALL_S)
        report = self._report()
        if not self._writer.is_alive():
            self._release()
        return report

    def _release(self) -> None:
        """Close the spools once nobody uses them: a courier that still waits may yet write to its ledger."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            for spool in (*self._earlier, self._spool):
                spool.close()

    def _report(self) -> DeliveryReport:
        brokers = {}
        queued = len(self._queue)  # the disk hangs, and they are not even sealed
        for courier in self._couriers:
            delivered = self._delivered(courier.transport.name)
            undelivered = self._events + queued - delivered
            brokers[courier.transport.name] = BrokerReport(
                courier.transport.address,
                delivered,
                undelivered,
                courier.why_not(self._spool, undelivered),
                len(self._spool.ledger.aside(courier.transport.name)),
            )
        return DeliveryReport(
            run=self.event_source.run,
            events=self._events + queued,
            spool=str(self._spool.path) if self._spool.path else None,
            unspooled=(self._spool.log.waiting if self._spool.path else self._events) + queued,
            dropped=self._dropped,
            brokers=brokers,
        )

    def _delivered(self, name: str) -> int:
        """Events that a broker has taken, for all we know."""
        try:
            return self._events - self._spool.undelivered(name)
        except OSError:  # the spool cannot be read
            return 0

    def _write(self) -> None:
        """The spooling thread: from the queue to the spool."""
        redact = Redactor()
        while True:
            with suppress(Empty):
                self._wake.get(timeout=_LOOK_S)
            with self._lock:
                batch, self._queue = self._queue, deque()
            if batch or self._closing:
                self._spool_batch(batch, redact)
            if self._closing and not self._queue:
                return

    def _spool_batch(self, batch: Sequence[_Queued], redact: Redactor) -> None:
        lines: list[bytes] = []
        names = [courier.transport.name for courier in self._couriers]
        if names:
            self._spool.log.forget(min(map(self._spool.ledger.delivered, names)))
        for queued in batch:
            if queued.state == "progress" and self._spool.log.waiting >= QUEUE_LIMIT:
                self._dropped += 1  # the disk has taken nothing for a long time, and memory has an end
                continue
            try:
                lines.append(self._seal(queued, redact) + b"\n")
            except Exception:  # an event that cannot be written is a defect, and no reason to end a training
                self._log.exception("a status event could not be made")
        self._spool.log.append(lines, durable=any(queued.state != "progress" for queued in batch))
        trouble = self._spool.log.trouble
        if trouble is not None and not self._disk_trouble_told:
            self._disk_trouble_told = True
            self._log.warning("the spool %s takes nothing (%s); status is kept in memory", self._spool.path, trouble)
        self._signal.more()

    def _seal(self, queued: _Queued, redact: Redactor) -> bytes:
        event_source, data = self.event_source, queued.data
        starts = isinstance(data, PipelineStarted)
        if starts or (isinstance(data, PipelineEnded) and event_source.step != PIPELINE):
            # The pipeline's own: the first step publishes its start, and after a retry the last step its new end.
            pipeline = EventSource(event_source.run, PIPELINE, event_source.attempt, event_source.process)
            line = encode(pipeline, 0 if starts else 1, queued.state, queued.nanoseconds, data, redact)
        else:
            line = encode(self.event_source, self._sequence, queued.state, queued.nanoseconds, queued.data, redact)
            self._sequence += 1
        self._events += 1
        return line.body


def _meant_for(transport: Transport, earlier: Sequence[Spool], own: Spool) -> list[Spool]:
    """The earlier spools whose events were to go to the same topic."""
    name = transport.name
    topic = own.ledger.targets[name].get("topic")
    return [spool for spool in earlier if spool.ledger.targets.get(name, {}).get("topic") == topic]


def make_spool(
    directory: Path | None, event_source: EventSource, targets: dict[str, dict[str, Any]]
) -> tuple[EventSource, Spool, OSError | None]:
    """A spool in a directory or, where there is none to write, in memory.

    Returns:
        The speaker with the attempt that it got; the spool; and why it is in memory, where it should not be.
    """
    if directory is None:
        return event_source, Spool.in_memory(event_source.attempt, targets), None
    try:
        spool = Spool.create(directory, event_source.run, event_source.step, event_source.attempt, targets)
    except OSError as error:
        return event_source, Spool.in_memory(event_source.attempt, targets), error
    return replace(event_source, attempt=spool.attempt), spool, None
