"""Messages of a Kafka topic: for a watcher as they come, for a step that looks back at its run to the present end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, cast

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.kafka.topic import KafkaTopic, TopicDescription
from components.shared.events.watch import Message
from components.shared.retry import TimeLeft, countdown

Since = datetime | Literal["beginning", "now"]

_WINDOW, _LARGE_WINDOW = 200, 2_000
_ANSWER_S = 3.0
_ANSWER_MS = _ANSWER_S * 1000
_POLL_S = 0.2  # how often a wait asks whether it is to end
# kafka-python does not report a broker that is gone, it only delivers nothing: after so much silence it is asked.
SILENCE_S = 5.0
NEW_PARTITIONS_S = 60.0  # how often partitions that were added are asked for

ResultT = TypeVar("ResultT")


class KafkaSubscriber:
    """Reads one topic. What was handed out and not acknowledged is handed out again by the next `receive`.

    Args:
        servers: Brokers as ``host:port``.
        topic: Its name; it is never created from here. Raises as `KafkaTopic`.
        since: Where to begin: at a moment (by the records' times), at the oldest record, or with what comes from now
            on. Also where to go back to when the broker no longer has the offset that was read last.
        group: A consumer group to remember the offsets for; `since` then counts only where it remembers none. It is for
            one watcher at a time: partitions are not shared out among members. None: nothing is remembered.
    """

    def __init__(self, servers: Sequence[str], topic: str, *, since: Since = "now", group: str | None = None) -> None:
        self._topic = KafkaTopic(servers, topic)
        self.address = self._topic.address
        self.remembers = group is not None
        self._since = since
        self._group = group
        self._made = datetime.now(UTC)
        self._consumer: Any = None
        self._attempts = 0
        self._was_reached = self._is_lost = False
        # By partition: the first offset that is not acknowledged, and the first that was not handed out.
        self._unacknowledged: dict[Any, int] = {}
        self._next: dict[Any, int] = {}
        self._answered_at = self._described_at = 0.0

    def receive(self, timeout_s: float) -> list[Message]:
        """Wait for records."""
        return self._ask(lambda: self._receive(timeout_s))

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Go on behind these; with a group, also the next time."""
        for message in messages:
            partition, offset = cast("tuple[Any, int]", message.token)
            self._unacknowledged[partition] = offset + 1
        if self._group is not None and messages:
            self._ask(self._commit)

    def read_to_end(self, time_left: TimeLeft) -> Iterator[list[tuple[bytes | None, bytes]]]:
        """Keys and values of the records up to the present end, in parts; fewer where the time is over before."""
        try:
            ends = self._ask(self._ends)
            while ends and (left := time_left()) > 0:
                poll = partial(self._connected().poll, int(min(left, _POLL_S) * 1000), _LARGE_WINDOW)
                for partition, records in self._ask(poll).items():
                    end = ends.get(partition, 0)
                    yield [(one.key, one.value) for one in records if one.value is not None and one.offset < end]
                # Not the last record's offset: a transaction's marker has one, too.
                ends = {each: end for each, end in ends.items() if self._consumer.position(each) < end}
        finally:
            self.close()

    def _ends(self) -> dict[Any, int]:
        ends: dict[Any, int] = self._connected().end_offsets(list(self._next), timeout_ms=_ANSWER_MS)
        return {partition: end for partition, end in ends.items() if self._next[partition] < end}

    def close(self) -> None:
        """Close the connection; the offsets are kept for the next `receive`."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            _close(consumer)

    def _ask(self, question: Callable[[], ResultT]) -> ResultT:
        """Ask the broker; what the client raises comes out as ours."""
        from kafka import errors

        try:
            return question()
        except (errors.OffsetOutOfRangeError, errors.LogTruncationError) as error:
            # Retention, a topic made anew, or a broker that lost its last records. Reading again from where it all
            # began shows nothing twice, since the reader drops what it knows.
            self.close()
            self._unacknowledged.clear()
            self._is_lost = True
            raise RetryableError(
                f"{self.address} no longer has the offset that was read last; reading it again"
            ) from error
        except (errors.KafkaError, OSError, StatusRefusedError) as error:
            self.close()  # a connection that failed may be half dead; the next attempt makes its own
            trouble = error if isinstance(error, StatusRefusedError) else self._topic.trouble(error)
            if isinstance(error, errors.GroupAuthorizationFailedError):
                trouble = StatusRefusedError(
                    f"{self.address}: its user may not use the group {self._group}; grant Read on it"
                )
            # A topic that is being made anew, brokers that are only just starting.
            if self._was_reached and not isinstance(error, errors.AuthorizationError):
                trouble = RetryableError(str(trouble))
            raise trouble from error

    def _receive(self, timeout_s: float) -> list[Message]:
        consumer = self._connected()
        for partition, position in self._next.items():
            if (offset := self._unacknowledged[partition]) != position:
                consumer.seek(partition, offset)
                self._next[partition] = offset
        batches = consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=_WINDOW)
        if not batches and time.monotonic() - self._answered_at > SILENCE_S:
            consumer.end_offsets(list(self._next)[:1], timeout_ms=_ANSWER_MS)  # raises if nobody answers
            self._answered_at = time.monotonic()
        messages = []
        for partition, records in batches.items():
            self._answered_at = time.monotonic()
            self._next[partition] = records[-1].offset + 1
            messages += [Message(record.value or b"", (partition, record.offset)) for record in records]
        return messages

    def _commit(self) -> None:
        from kafka.structs import OffsetAndMetadata

        offsets = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in self._unacknowledged.items()}
        self._connected().commit(offsets, timeout_ms=_ANSWER_MS)

    def _connected(self) -> Any:
        if self._consumer is not None and time.monotonic() - self._described_at > NEW_PARTITIONS_S:
            self._described_at = time.monotonic()
            if set(self._partitions(self._topic.describe(countdown(_ANSWER_S)))) - set(self._next):
                self.close()  # opened again at the same offsets, with all of them
        if self._consumer is None:
            self._attempts += 1
            self._consumer = self._open(self._topic.describe(countdown(_ANSWER_S)))
            self._was_reached, self._is_lost = True, False
            self._answered_at = self._described_at = time.monotonic()
        return self._consumer

    def _open(self, topic: TopicDescription) -> Any:
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(
            # With a version the constructor waits for nobody; one that fails leaves its thread behind.
            **{"api_version": topic.version} | self._topic.arguments,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",  # where to go on is decided here
            allow_auto_create_topics=False,
            check_crcs=False,  # what comes damaged over TCP is no event either
            request_timeout_ms=10_000,
            reconnect_backoff_max_ms=1_000,
            metrics_enabled=False,
        )
        try:
            consumer.bootstrap(_ANSWER_MS)
            partitions = self._partitions(topic)
            offsets = self._offsets(consumer, partitions)
            consumer.assign(partitions)
            for partition, offset in offsets.items():
                consumer.seek(partition, offset)
        except BaseException:
            _close(consumer)
            raise
        self._unacknowledged, self._next = offsets, dict(offsets)
        return consumer

    def _partitions(self, described: TopicDescription) -> list[Any]:
        from kafka import TopicPartition

        return [TopicPartition(self._topic.topic, number) for number in described.partitions]

    def _offsets(self, consumer: Any, partitions: list[Any]) -> dict[Any, int]:
        """Where each partition is read from."""
        known = {each: self._unacknowledged[each] for each in partitions if each in self._unacknowledged}
        if self._group is not None and not self._is_lost:
            for partition in set(partitions) - set(known):
                if (committed := consumer.committed(partition, timeout_ms=_ANSWER_MS)) is not None:
                    known[partition] = committed
        missing = [partition for partition in partitions if partition not in known]
        return known | (self._first_offsets(consumer, missing) if missing else {})

    def _first_offsets(self, consumer: Any, partitions: list[Any]) -> dict[Any, int]:
        # Before the search by time: what comes in between is read then, not missed.
        ends: dict[Any, int] = consumer.end_offsets(partitions, timeout_ms=_ANSWER_MS)
        if self._since == "now" and self._attempts == 1:
            return ends
        # A partition that was added while watching is all new.
        if self._since == "beginning" or (self._was_reached and not self._is_lost):
            oldest: dict[Any, int] = consumer.beginning_offsets(partitions, timeout_ms=_ANSWER_MS)
            return oldest
        # Now was when the first attempt to connect was made, also if that failed.
        moment = self._made if self._since == "now" else self._since
        milliseconds = max(0, int(moment.timestamp() * 1000))
        found = consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds), timeout_ms=_ANSWER_MS)
        return {each: found[each].offset if found[each] is not None else ends[each] for each in partitions}


class TopicHistory(NamedTuple):
    """What was read of a topic.

    Attributes:
        bodies: The records' values, in order within each partition.
        trouble: Why it was not read to the end that it had when the reading began; empty if it was.
    """

    bodies: list[bytes]
    trouble: str


def read_topic(
    servers: Sequence[str],
    topic: str,
    *,
    since: datetime | Literal["beginning"],
    within_s: float,
    key: bytes | None = None,
) -> TopicHistory:
    """Read a topic from a moment to its present end.

    After `within_s` seconds what was read so far is returned, whatever the brokers do; a broker that refuses or is down
    is reported at once, and not tried again. With a `key`, such as a run's id, only its records are returned.
    """
    bodies: list[bytes] = []
    trouble = f"Kafka {','.join(servers)} topic {topic}: not read to its end in {within_s:g} s"
    time_left = countdown(within_s)

    def read() -> None:
        nonlocal trouble
        try:
            for records in KafkaSubscriber(servers, topic, since=since).read_to_end(time_left):
                bodies.extend(body for found, body in records if key in (None, found))
            if time_left() > 0:
                trouble = ""
        except (RetryableError, StatusRefusedError) as error:
            trouble = str(error)
        except Exception as error:  # a client's defect must cost nobody a step
            trouble = f"Kafka topic {topic}: {type(error).__name__}: {error}"

    # The client's calls cannot be cut short: its thread is left behind if they take longer.
    thread = threading.Thread(target=read, name="status-history", daemon=True)
    thread.start()
    thread.join(max(0.0, within_s))
    reason = trouble  # before the bodies: what has no trouble has all of them
    return TopicHistory(list(bodies), reason)


def _close(consumer: Any) -> None:
    """Close a consumer without waiting for its brokers."""
    from kafka.errors import KafkaError

    with suppress(KafkaError):
        consumer.close(autocommit=False, timeout_ms=500)
