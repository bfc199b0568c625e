"""The stream of one step's events: emitting costs its caller microseconds, everything else happens in threads.

``emit`` puts the data into a bounded queue: one atomic operation, which no signal's exception can leave half done. One
thread encodes each event, once, and appends it to the spool's memory; from there one thread for each broker delivers it
and one writes it to disk (:mod:`components.shared.events.delivery`). Where neither the disk nor a broker takes anything
until memory is full, further progress is dropped, the beginning and the end of a step never.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from components.shared.events.data import STATES, EventData, PipelineEnded, PipelineStarted, State
from components.shared.events.delivery import Delivery, DeliveryControl, SpoolWriter, Transport
from components.shared.events.event import PIPELINE, EventSource, encode
from components.shared.events.redaction import Redactor
from components.shared.events.spool import MEMORY_EVENTS, WINDOW_EVENTS, Spool

# How long progress may wait to be encoded.
_POLL_S = 0.1
# What the last event may take to be encoded and written on a busy machine, whatever the bound.
_LAST_EVENT_S = 0.5
# A call that was cut short needs a moment to return.
_LAST_CALL_S = 0.4


@dataclass(frozen=True)
class BrokerReport:
    """What became of a step's events at one broker and topic, and why there are undelivered ones."""

    place: str
    delivered: int
    undelivered: int
    trouble: str | None = None
    too_large: int = 0


@dataclass(frozen=True)
class DeliveryReport:
    """What became of a step's events: `unspooled` are not on disk, `dropped` had no room in memory."""

    run: str
    events: int
    spool: str | None
    unspooled: int
    dropped: int
    brokers: dict[str, BrokerReport]


class StatusStream:
    """Takes a step's events, keeps them in a spool whose attempt becomes theirs, and sees to their delivery.

    Events that an earlier step of the run could not deliver, in spools of their own, go first.
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
        self.event_source = replace(event_source, attempt=spool.attempt)
        self._spool = spool
        self._log = log
        self._process = os.getpid()
        self._queue: deque[tuple[EventData, State, int]] = deque()  # with the time
        self.dropped = 0
        self._dropping = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_closing = False
        self._sequence = first_sequence
        self._control = DeliveryControl()
        self._encoder = threading.Thread(target=self._encode_all, name="status-encoder", daemon=True)
        self._deliveries = []
        for transport in transports:
            topic = spool.targets[transport.name].get("topic")
            to_topic = [each for each in earlier if each.targets.get(transport.name, {}).get("topic") == topic]
            self._deliveries.append(Delivery(transport, [*to_topic, spool], self._control, log))
        self._writer = SpoolWriter([*earlier, spool], self._deliveries, self._control, log)
        for thread in (self._encoder, *self._deliveries, self._writer):
            thread.start()

    def emit(self, data: EventData) -> None:
        """Report that something happened. Never raises, never waits; does nothing in a forked worker or once closed."""
        if self._is_closing or os.getpid() != self._process:
            return
        state = data.outcome if isinstance(data, PipelineEnded) else STATES[type(data)]
        if state == "progress" and len(self._queue) >= MEMORY_EVENTS:
            self._drop()
            return
        self._queue.append((data, state, time.time_ns()))
        # Waking a thread is a system call of some 10 µs; progress can wait until the thread polls.
        if state != "progress":
            self._wake.put(None)

    def _drop(self) -> None:
        with self._dropping:
            self.dropped += 1

    def first_answers(self, timeout_s: float) -> dict[str, Exception | None]:
        """Each broker's trouble with the first events, by its address; TimeoutError of one that has not answered."""
        deadline = time.monotonic() + timeout_s
        answers = {}
        for delivery in self._deliveries:
            has_answered = delivery.answered.wait(max(0.0, deadline - time.monotonic()))
            answers[delivery.transport.address] = delivery.trouble if has_answered else TimeoutError()
        return answers

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
        spool, brokers = self._spool, {}
        for delivery in self._deliveries:
            name, address = delivery.transport.name, delivery.transport.address
            left, reason = spool.undelivered(name), delivery.reason(spool)
            brokers[name] = BrokerReport(address, spool.count - left, left, reason, spool.too_large(name))
        path = str(spool.path) if spool.path else None
        return DeliveryReport(self.event_source.run, spool.count, path, spool.unspooled, self.dropped, brokers)

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
        event_source, sequence, is_start = self.event_source, self._sequence, isinstance(data, PipelineStarted)
        # The pipeline's own: the first step publishes its start, and after a retry the last step its new end.
        is_other = is_start or (isinstance(data, PipelineEnded) and event_source.step != PIPELINE)
        if is_other:
            event_source, sequence = replace(event_source, step=PIPELINE), 0 if is_start else 1
        try:
            self._spool.append(encode(event_source, sequence, state, nanoseconds, data, redact))
            self._sequence += not is_other
        except Exception:  # an event that cannot be encoded is a defect, and no reason to end a training
            self._log.exception("a status event could not be encoded")


def _join(thread: threading.Thread, timeout_s: float) -> None:
    """Wait for a thread; by turns, as a signal that comes just before a wait is noticed after it."""
    deadline = time.monotonic() + timeout_s
    while thread.is_alive() and (left_s := deadline - time.monotonic()) > 0:
        thread.join(min(left_s, _POLL_S))
