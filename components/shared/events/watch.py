"""Status read back: every event once, in the order it comes, whatever happens to the broker meanwhile.

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
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.event import EventError, StepEvent
from components.shared.retry import pause_s

# Remembered events; at about 150 bytes each 15 MB. Duplicates come soon after their first delivery, or, when a broker
# lost its offsets, with everything of the last hours.
REMEMBERED = 100_000
# How long shown messages may wait for their acknowledgement when showing a whole window takes long.
SETTLE_EVERY_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
_REASON_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Message:
    """What a broker delivered, whatever it is, with the subscriber's own token to acknowledge it by."""

    body: bytes
    token: object


class Subscriber(Protocol):
    """A subscription on one broker. Used by one thread; nothing is opened before the first call of `receive`.

    `receive` and `acknowledge` raise RetryableError where the next call may succeed, and StatusRefusedError where none
    will until somebody changes a setting.

    Attributes:
        address: What is subscribed to, for people.
        remembers: Whether acknowledged messages are kept from the watchers to come.
    """

    address: str
    remembers: bool

    def receive(self, timeout_s: float) -> Sequence[Message]:
        """Wait for the next messages, at most so long; none is an answer too."""
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Have these, in the order they came, not delivered again; those that are, are given again."""
        ...

    def close(self) -> None:
        """Close the connection. What was not acknowledged is delivered again, to the next watcher."""
        ...


@dataclass(slots=True)
class Counts:
    """What became of the messages.

    Attributes:
        shown: Events the callback returned for.
        duplicates: Events that had been shown before.
        others: Events of other runs than the one asked for.
        foreign: Messages that are none of our events; `last_foreign` is what was wrong with the last of those.
        acknowledged: Messages the broker need not deliver again.
        troubles: How many times the broker could not be reached.
    """

    shown: int = 0
    duplicates: int = 0
    others: int = 0
    foreign: int = 0
    last_foreign: str = ""
    acknowledged: int = 0
    troubles: int = 0

    @property
    def seen(self) -> int:
        """All messages that were looked at."""
        return self.shown + self.duplicates + self.others + self.foreign


def follow(
    subscriber: Subscriber,
    on_event: Callable[[StepEvent], object],
    *,
    run: str | None = None,
    until: Callable[[Counts], bool] = lambda _: False,
    on_trouble: Callable[[str | None], object] = lambda _: None,
    on_document: Callable[[bytes], object] = lambda _: None,
    poll_s: float = 0.5,
) -> Counts:
    """Show events as they come.

    Foreign messages, duplicates and events of other runs are counted, passed over and acknowledged: a subscription of
    Pub/Sub belongs to one purpose, and what its consumer does not want would otherwise come back to it for ever.

    Args:
        subscriber: Stays open.
        on_event: Called once for every event. If it raises, this event and those after it stay unacknowledged and the
            exception comes out of here.
        run: Only this run's events.
        until: Asked before every wait, after every event and during an outage, at least every `poll_s`; true ends it.
            The rest of what was received stays unacknowledged.
        on_trouble: Called once when the broker cannot be reached, with why; and with None once it can be again.
        on_document: Called before `on_event` with the event's CloudEvents JSON as it was received.
        poll_s: The longest single wait.

    Raises:
        StatusRefusedError: The broker refuses: topic, subscription, permission, credentials, security settings.
    """
    counts = Counts()
    known: dict[bytes, None] = {}  # identities of the newest events, oldest first
    unsettled: list[Message] = []  # shown or passed over, not acknowledged yet
    settled_at = time.monotonic()
    failures = 0  # attempts in a row

    def settle() -> None:
        nonlocal settled_at
        settled_at = time.monotonic()
        if unsettled:
            subscriber.acknowledge(unsettled)
            counts.acknowledged += len(unsettled)
            unsettled.clear()

    def take(body: bytes) -> None:
        try:
            event = StepEvent.from_bytes(body)
        except EventError as error:
            counts.foreign += 1
            counts.last_foreign = str(error)[:_REASON_LIMIT]
            return
        # A digest: what senders choose to write into an identity takes no more room.
        digest = blake2b("\0".join(event.identity).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if run is not None and event.run != run:
            counts.others += 1
            return
        if digest in known:
            del known[digest]  # seen again: young again
            counts.duplicates += 1
        else:
            on_document(body)
            on_event(event)
            counts.shown += 1
        known[digest] = None
        if len(known) > REMEMBERED:
            del known[next(iter(known))]

    def show(messages: Sequence[Message]) -> None:
        for message in messages:
            take(message.body)
            unsettled.append(message)
            if until(counts):
                return
            if time.monotonic() - settled_at > SETTLE_EVERY_S:
                with suppress(RetryableError):  # the next round reports it
                    settle()

    try:
        while not until(counts):
            try:
                settle()
                messages = subscriber.receive(poll_s)
            except RetryableError as error:
                if not failures:
                    counts.troubles += 1
                    on_trouble(str(error))
                # Longer each time; many watchers must not come back at the same moment.
                end = time.monotonic() + pause_s(failures, FIRST_PAUSE_S, LONGEST_PAUSE_S)
                failures += 1
                while (left := end - time.monotonic()) > 0 and not until(counts):
                    time.sleep(min(left, poll_s))
                continue
            if failures:
                failures = 0
                on_trouble(None)
            show(messages)
        with suppress(RetryableError):  # what cannot be acknowledged now is delivered again
            settle()
    except StatusRefusedError:
        raise
    except BaseException:  # also a key press: what was shown is acknowledged in any case
        with suppress(RetryableError, StatusRefusedError):
            settle()
        raise
    return counts
