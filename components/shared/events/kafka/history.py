"""What a topic holds now, read to its end and no further: for steps that look back at their run's earlier events."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from components.shared.errors import StatusRefusedError
from components.shared.events.kafka.client import KafkaConnection, close_consumer
from components.shared.events.transport import DeliveryError, RetryableError, countdown

_WINDOW = 2_000
_CONTACT_S = 2.0  # a broker that has said nothing by then is away, however long the reading may take
_GLANCE_S = 0.2  # how often a wait looks whether it is to end


@dataclass(frozen=True)
class History:
    """What was read of a topic.

    Attributes:
        bodies: The records' values, in order within each partition.
        complete: Whether every partition was read up to the end that it had when the reading began.
        trouble: Why it is not complete, for people; empty if it is.
    """

    bodies: list[bytes]
    complete: bool
    trouble: str


def read_history(
    servers: Sequence[str],
    topic: str,
    *,
    since: datetime | Literal["beginning"],
    within_s: float,
    key: bytes | None = None,
) -> History:
    """Read a topic from a moment to its present end. Nothing is waited for that is not there yet.

    All partitions are read, whatever the key: who else writes to the topic may share keys out in another way.

    Args:
        servers: Brokers as ``host:port``.
        topic: Its name; it is never created from here.
        since: Where to begin, by the records' times.
        within_s: Seconds after which what was read so far is returned, whatever the brokers do; a broker that refuses
            or is down is reported at once, and not tried again.
        key: Only records of this key, such as a run's id; None: all.
    """
    reading = _Reading(servers, topic, since, key, within_s)
    # The client's calls cannot be cut short: its thread is left behind if they take longer.
    thread = threading.Thread(target=reading.run, name="status-history", daemon=True)
    thread.start()
    reading.done.wait(max(0.0, within_s))
    # Trouble before bodies: what is reported complete has all of them.
    trouble = reading.trouble if reading.done.is_set() else reading.late
    return History(list(reading.bodies), complete=not trouble, trouble=trouble)


class _Reading:
    """One reading of a topic, for a thread of its own."""

    def __init__(
        self,
        servers: Sequence[str],
        topic: str,
        since: datetime | Literal["beginning"],
        key: bytes | None,
        within_s: float,
    ) -> None:
        self.late = f"Kafka {','.join(servers)} topic {topic}: not read to its end in {within_s:g} s"
        self.bodies: list[bytes] = []
        self.trouble = ""
        self.done = threading.Event()
        self._servers = servers
        self._topic = topic
        self._since = since
        self._key = key
        self._patience = countdown(within_s)

    def run(self) -> None:
        """Read; what goes wrong is left in `trouble`."""
        consumers: list[Any] = []
        try:
            for values in self._read(consumers):
                self.bodies += values
        except (DeliveryError, StatusRefusedError) as error:
            self.trouble = str(error)
        except Exception as error:  # a client's defect must cost nobody a step
            self.trouble = f"Kafka topic {self._topic}: {type(error).__name__}: {error}"
        finally:
            self.done.set()
            for consumer in consumers:
                close_consumer(consumer)

    def _read(self, consumers: list[Any]) -> Iterator[list[bytes]]:
        """The values of the records that are wanted; a consumer that is made for them is added to a list."""
        connection = KafkaConnection(self._servers, self._topic)  # imports the client
        from kafka import TopicPartition
        from kafka.errors import KafkaError

        contact = countdown(_CONTACT_S)
        described = connection.check(lambda: min(self._patience(), contact()))
        partitions = [TopicPartition(self._topic, number) for number in described.partitions]
        try:
            consumer = connection.consumer(described.version)
            consumers.append(consumer)
            consumer.bootstrap(self._left_ms())
            left = self._assign(consumer, partitions)
            while left and self._patience() > 0:
                batches = consumer.poll(timeout_ms=min(self._left_ms(), _GLANCE_S * 1000), max_records=_WINDOW)
                for partition, records in batches.items():
                    yield [
                        record.value
                        for record in records
                        if record.offset < left[partition]
                        and record.value is not None
                        and self._key in (None, record.key)
                    ]
                    # Not the last record's offset: a transaction's marker has one, too.
                    if consumer.position(partition) >= left[partition]:
                        del left[partition]
                        consumer.pause(partition)
        except KafkaError as error:
            raise connection.trouble(error) from error
        if left:
            raise RetryableError(self.late)

    def _assign(self, consumer: Any, partitions: list[Any]) -> dict[Any, int]:
        """Begin where the time says; the ends of the partitions that have something to read from there."""
        ends = consumer.end_offsets(partitions, timeout_ms=self._left_ms())
        filled = [partition for partition in partitions if ends[partition] > 0]
        if not filled:
            return {}
        if self._since == "beginning":
            begins = consumer.beginning_offsets(filled, timeout_ms=self._left_ms())
        else:
            milliseconds = max(0, int(self._since.timestamp() * 1000))
            found = consumer.offsets_for_times(dict.fromkeys(filled, milliseconds), timeout_ms=self._left_ms())
            begins = {each: found[each].offset for each in filled if found[each] is not None}
        left = {each: ends[each] for each, begin in begins.items() if begin < ends[each]}
        if left:
            consumer.assign(list(left))
            for partition in left:
                consumer.seek(partition, begins[partition])
        return left

    def _left_ms(self) -> float:
        return max(50.0, self._patience() * 1000)
