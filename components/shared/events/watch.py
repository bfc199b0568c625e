"""Status read back: every event shown once, in the order it comes, whatever happens to the broker meanwhile.

A consumer of one's own is a callback::

    from components.shared.events.kafka.subscriber import KafkaSubscriber
    from components.shared.events.watch import follow

    follow(KafkaSubscriber(("localhost:9092",), "status"), lambda event: print(event.run, event.step, event.state))

Brokers deliver at least once. A message is acknowledged after the callback has returned for it, so what a watcher had
not shown when it was killed is shown by the next one; what is delivered again is dropped by the events' identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Protocol

from components.shared.backoff import pause_s
from components.shared.errors import StatusRefusedError
from components.shared.events.event import EventError, StepEvent
from components.shared.events.transport import DeliveryError, RefusedError, RetryableError

# Remembered events; at about 150 bytes each 15 MB. Duplicates come soon after their first delivery, or, when a broker
# lost its place, with everything of the last hours.
REMEMBERED = 100_000

# How long shown messages may wait for their acknowledgement when showing a whole window takes long.
SETTLE_EVERY_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_REASON_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Message:
    """What a broker delivered, whatever it is.

    Attributes:
        body: Its bytes.
        token: The source's own mark, by which it acknowledges the message.
    """

    body: bytes
    token: object


class Source(Protocol):
    """A subscription on one broker. Used by one thread; nothing is opened before the first call of `receive`."""

    @property
    def address(self) -> str:
        """What is subscribed to, for people."""
        ...

    def receive(self, timeout_s: float) -> Sequence[Message]:
        """Wait for the next messages, at most so long; nothing is an answer too.

        Raises:
            RetryableError: Not now; the next call tries again.
            RefusedError: Not until somebody changes a setting.
            StatusRefusedError: The settings made here cannot be used.
        """
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Have these, in the order they came, not delivered again.

        Raises:
            RetryableError: Not now; they may be given again, or will be delivered again.
            RefusedError: Not until somebody changes a setting.
        """
        ...

    def close(self) -> None:
        """Let go of the broker. What was not acknowledged is delivered again, to whoever asks."""
        ...


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the messages.

    Attributes:
        shown: Events the callback returned for.
        duplicates: Events that had been shown before.
        others: Events of other runs than the one asked for.
        foreign: Messages that are none of our events.
        last_foreign: What was wrong with the last of those; empty if there was none.
        acknowledged: Messages the broker was told it need not deliver again.
        troubles: How many times the broker could not be reached.
    """

    shown: int = 0
    duplicates: int = 0
    others: int = 0
    foreign: int = 0
    last_foreign: str = ""
    acknowledged: int = 0
    troubles: int = 0


def follow(
    source: Source,
    on_event: Callable[[StepEvent], object],
    *,
    run: str | None = None,
    until: Callable[[Counts], bool] | None = None,
    on_trouble: Callable[[str | None], object] | None = None,
    on_document: Callable[[bytes], object] | None = None,
    poll_s: float = 0.5,
) -> Counts:
    """Show events as they come, until told to stop.

    Foreign messages, duplicates and events of other runs are counted, passed over and acknowledged: a subscription of
    Pub/Sub belongs to one purpose, and what its consumer does not want would otherwise come back to it for ever.

    Args:
        source: Where messages come from; stays open.
        on_event: Called once for every event. If it raises, this event and those after it stay unacknowledged and the
            exception comes out of here.
        run: Only this run's events.
        until: Asked before every wait, after every event and during an outage, at least every `poll_s`; true ends it.
            The rest of what was received stays unacknowledged.
        on_trouble: Told once when the broker cannot be reached, and why; and None once it can be again.
        on_document: Called before `on_event` with the event's CloudEvents JSON as it was received.
        poll_s: The longest single wait.

    Returns:
        What became of the messages.

    Raises:
        StatusRefusedError: The broker refuses: topic, subscription, permission, credentials, security settings.
    """
    return _Following(source, on_event, run, until, on_trouble, on_document, poll_s).to_the_end()


class _Memory:
    """The newest identities, as digests: what senders choose to write into them takes no more room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[bytes, None] = {}  # oldest first

    def __contains__(self, event: StepEvent) -> bool:
        digest = self._digest(event)
        if digest not in self._known:
            return False
        self._known[digest] = self._known.pop(digest)  # seen again: young again
        return True

    def add(self, event: StepEvent) -> None:
        self._known[self._digest(event)] = None
        if len(self._known) > self._limit:
            del self._known[next(iter(self._known))]

    @staticmethod
    def _digest(event: StepEvent) -> bytes:
        return blake2b("\0".join(event.identity).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Following:
    def __init__(
        self,
        source: Source,
        on_event: Callable[[StepEvent], object],
        run: str | None,
        until: Callable[[Counts], bool] | None,
        on_trouble: Callable[[str | None], object] | None,
        on_document: Callable[[bytes], object] | None,
        poll_s: float,
    ) -> None:
        self._source = source
        self._on_event = on_event
        self._run = run
        self._until = until
        self._on_trouble = on_trouble
        self._on_document = on_document
        self._poll_s = poll_s
        self._counts = Counts()
        self._memory = _Memory(REMEMBERED)
        self._done: list[Message] = []  # shown or passed over, not acknowledged yet
        self._settled_at = time.monotonic()
        self._failures = 0  # attempts in a row

    def to_the_end(self) -> Counts:
        try:
            while not self._is_over():
                self._once()
            with suppress(RetryableError):  # what it cannot be told now is delivered again
                self._settle()
        except RefusedError as error:
            raise StatusRefusedError(str(error)) from error
        except BaseException:  # also a key press: what was shown is acknowledged in any case
            with suppress(DeliveryError):
                self._settle()
            raise
        return self._counts

    def _once(self) -> None:
        try:
            self._settle()
            messages = self._source.receive(self._poll_s)
        except RetryableError as error:
            self._pause(str(error))
            return
        if self._failures:
            self._failures = 0
            if self._on_trouble is not None:
                self._on_trouble(None)
        for message in messages:
            self._take(message)
            self._done.append(message)
            if self._is_over():
                return
            if time.monotonic() - self._settled_at > SETTLE_EVERY_S:
                with suppress(RetryableError):  # the next round says so
                    self._settle()

    def _is_over(self) -> bool:
        return self._until is not None and self._until(self._counts)

    def _take(self, message: Message) -> None:
        counts = self._counts
        try:
            event = StepEvent.from_bytes(message.body)
        except EventError as error:
            self._counts = replace(counts, foreign=counts.foreign + 1, last_foreign=str(error)[:_REASON_LIMIT])
            return
        if self._run is not None and event.run != self._run:
            self._counts = replace(counts, others=counts.others + 1)
        elif event in self._memory:
            self._counts = replace(counts, duplicates=counts.duplicates + 1)
        else:
            if self._on_document is not None:
                self._on_document(message.body)
            self._on_event(event)
            self._memory.add(event)
            self._counts = replace(counts, shown=counts.shown + 1)

    def _settle(self) -> None:
        """Acknowledge what was shown or passed over."""
        self._settled_at = time.monotonic()
        if self._done:
            self._source.acknowledge(self._done)
            self._counts = replace(self._counts, acknowledged=self._counts.acknowledged + len(self._done))
            self._done = []

    def _pause(self, reason: str) -> None:
        """Tell of an outage and wait, longer each time; many watchers must not come back at the same moment."""
        if not self._failures:
            self._counts = replace(self._counts, troubles=self._counts.troubles + 1)
            if self._on_trouble is not None:
                self._on_trouble(reason)
        end = time.monotonic() + pause_s(self._failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._failures += 1
        while (left := end - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(left, self._poll_s))
