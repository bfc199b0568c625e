"""The stream of one step's events: emitting costs its caller microseconds, everything else happens in threads.

``emit`` puts the data into a bounded queue. One thread encodes each event, once, and appends it to the spool's memory;
from there one thread for each broker delivers it and one writes it to disk (:mod:`components.shared.events.delivery`).
Where neither the disk nor a broker takes anything until memory is full, further progress is dropped, the beginning and
the end of a step never.
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
from components.shared.events.delivery import Delivery, DeliveryControl, SpoolWriter
from components.shared.events.event import PIPELINE, EncodedEvent, EventSource, encode
from components.shared.events.redaction import Redactor
from components.shared.events.spool import MEMORY_EVENTS, WINDOW_EVENTS, Spool
from components.shared.events.transport import DeliveryError, Transport

# How long progress may wait to be encoded.
_POLL_S = 0.1
# What the last event may take to be encoded and written on a busy machine, whatever the bound.
_LAST_EVENT_S = 0.5
# A call that was cut short needs a moment to return.
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
    """What became of a step's events at one broker and topic.

    Attributes:
        trouble: Why there are undelivered ones.
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
        spool: The file that has them; None if none could be made.
        unspooled: Events that the disk did not take.
        dropped: Progress that was dropped because memory was full.
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


class StatusStream:
    """Takes a step's events and sees to their delivery.

    Args:
        event_source: Where the events are from; its attempt is the spool's.
        spool: Where they are kept.
        transports: The brokers they go to.
        earlier: Spools of the same run that an earlier step could not deliver; theirs go first.
        log: Gets a line when a broker's state changes.
        first_sequence: Number of the first event.
        queue_events: How much progress may wait to be encoded.
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
        queue_events: int = MEMORY_EVENTS,
    ) -> None:
        self.event_source = replace(event_source, attempt=spool.attempt)
        self._spool = spool
        self._log = log
        self._process = os.getpid()
        self._queue: deque[tuple[EventData, State, int]] = deque()  # with the time
        self._queue_events = queue_events
        self.dropped = 0
        self._dropping = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_closing = False
        self._sequence = first_sequence
        self._control = DeliveryControl()
        self._encoder = threading.Thread(target=self._encode_all, name="status-encoder", daemon=True)
        self._deliveries = [
            Delivery(transport, [*_meant_for(transport, earlier, spool), spool], self._control, log)
            for transport in transports
        ]
        self._writer = SpoolWriter([*earlier, spool], self._deliveries, self._control, log)
        for thread in (self._encoder, *self._deliveries, self._writer):
            thread.start()

    def emit(self, data: EventData) -> None:
        """Report that something happened. Never raises, never waits; does nothing in a forked worker or once closed."""
        if self._is_closing or os.getpid() != self._process:
            return
        state = data.outcome if isinstance(data, PipelineEnded) else _STATES[type(data)]
        if state == "progress" and len(self._queue) >= self._queue_events:
            self._drop()
            return
        self._queue.append((data, state, time.time_ns()))
        # Waking a thread is a system call of some 10 µs; progress can wait until the thread polls.
        if state != "progress":
            self._wake.put(None)

    def _drop(self) -> None:
        with self._dropping:
            self.dropped += 1

    def first_answers(self, timeout_s: float) -> dict[str, DeliveryError | None]:
        """What each broker answered to the first events, by its address; only those that have answered in time."""
        deadline = time.monotonic() + timeout_s
        return {
            delivery.transport.address: delivery.trouble
            for delivery in self._deliveries
            if delivery.answered.wait(max(0.0, deadline - time.monotonic()))
        }

    @property
    def addresses(self) -> list[str]:
        """The brokers, for people."""
        return [delivery.transport.address for delivery in self._deliveries]

    def close(self, timeout_s: float) -> DeliveryReport:
        """Deliver what is left, within a bound for all brokers together, and report what became of everything."""
        self._is_closing = True
        self._wake.put(None)
        self._control.end_within(timeout_s)
        _join(self._encoder, max(_LAST_EVENT_S, timeout_s / 2))
        for delivery in self._deliveries:
            _join(delivery, self._control.remaining_s + _LAST_CALL_S)
        if all(delivery.is_done for delivery in self._deliveries):  # else the writer goes on
            _join(self._writer, max(_LAST_EVENT_S, self._control.remaining_s / 2))  # a hung disk is not waited for
        return self._report()

    def _report(self) -> DeliveryReport:
        brokers = {}
        for delivery in self._deliveries:
            name, address = delivery.transport.name, delivery.transport.address
            undelivered, set_aside = self._spool.undelivered(name), len(self._spool.set_aside(name))
            delivered = self._spool.count - undelivered
            brokers[name] = BrokerReport(address, delivered, undelivered, delivery.reason(self._spool), set_aside)
        return DeliveryReport(
            run=self.event_source.run,
            events=self._spool.count,
            spool=str(self._spool.path) if self._spool.path else None,
            unspooled=self._spool.unspooled,
            dropped=self.dropped,
            brokers=brokers,
        )

    def _encode_all(self) -> None:
        redact = Redactor()
        is_over = False
        while not is_over:
            with suppress(Empty):
                self._wake.get(timeout=_POLL_S)
            is_over = self._is_closing  # before the queue is emptied: what was emitted until then is taken
            while self._queue:
                for _ in range(min(len(self._queue), WINDOW_EVENTS)):
                    self._take(*self._queue.popleft(), redact)
                self._control.notify()
        self._control.notify(is_complete=True)

    def _take(self, data: EventData, state: State, nanoseconds: int, redact: Redactor) -> None:
        if state == "progress" and self._spool.is_full:
            self._drop()
            return
        try:
            self._spool.append(self._encode(data, state, nanoseconds, redact))
        except Exception:  # an event that cannot be encoded is a defect, and no reason to end a training
            self._log.exception("a status event could not be encoded")

    def _encode(self, data: EventData, state: State, nanoseconds: int, redact: Redactor) -> EncodedEvent:
        event_source, is_start = self.event_source, isinstance(data, PipelineStarted)
        if is_start or (isinstance(data, PipelineEnded) and event_source.step != PIPELINE):
            # The pipeline's own: the first step publishes its start, and after a retry the last step its new end.
            event_source = replace(event_source, step=PIPELINE)
            return encode(event_source, 0 if is_start else 1, state, nanoseconds, data, redact)
        event = encode(event_source, self._sequence, state, nanoseconds, data, redact)
        self._sequence += 1
        return event


def _join(thread: threading.Thread, timeout_s: float) -> None:
    """Wait for a thread; by turns, as a signal that comes just before a wait is noticed after it."""
    deadline = time.monotonic() + timeout_s
    while thread.is_alive() and (left_s := deadline - time.monotonic()) > 0:
        thread.join(min(left_s, _POLL_S))


def _meant_for(transport: Transport, earlier: Sequence[Spool], own: Spool) -> list[Spool]:
    """The earlier spools whose events were to go to the same topic."""
    name = transport.name
    topic = own.targets[name].get("topic")
    return [spool for spool in earlier if spool.targets.get(name, {}).get("topic") == topic]
