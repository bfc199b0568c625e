"""What a topic holds now, read to its end and no further: for steps that look back at their run's earlier events."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from components.shared.errors import StatusRefusedError
from components.shared.events.kafka.client import KafkaTopic, close_consumer
from components.shared.events.transport import DeliveryError, TimeLeft, countdown

_WINDOW = 2_000
_CONTACT_S = 2.0  # a broker that does not answer by then is away, however long the reading may take
_POLL_S = 0.2  # how often a wait asks whether it is to end


@dataclass(frozen=True)
class TopicHistory:
    """What was read of a topic.

    Attributes:
        bodies: The records' values, in order within each partition.
        trouble: Why it was not read to the end that it had when the reading began; empty if it was.
    """

    bodies: list[bytes]
    trouble: str


def read_history(
    servers: Sequence[str],
    topic: str,
    *,
    since: datetime | Literal["beginning"],
    within_s: float,
    key: bytes | None = None,
) -> TopicHistory:
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
    bodies: list[bytes] = []
    trouble = f"Kafka {','.join(servers)} topic {topic}: not read to its end in {within_s:g} s"
    time_left = countdown(within_s)

    def read() -> None:
        nonlocal trouble
        try:
            for values in _values(KafkaTopic(servers, topic), since, key, time_left):
                bodies.extend(values)
            trouble = ""
        except TimeoutError:
            pass
        except (DeliveryError, StatusRefusedError) as error:
            trouble = str(error)
        except Exception as error:  # a client's defect must cost nobody a step
            trouble = f"Kafka topic {topic}: {type(error).__name__}: {error}"

    # The client's calls cannot be cut short: its thread is left behind if they take longer.
    thread = threading.Thread(target=read, name="status-history", daemon=True)
    thread.start()
    thread.join(max(0.0, within_s))
    reason = trouble  # before the bodies: what has no trouble has all of them
    return TopicHistory(list(bodies), reason)


def _values(
    topic: KafkaTopic, since: datetime | Literal["beginning"], key: bytes | None, time_left: TimeLeft
) -> Iterator[list[bytes]]:
    from kafka import TopicPartition
    from kafka.errors import KafkaError

    def left_ms() -> float:
        return max(50.0, time_left() * 1000)

    contact = countdown(_CONTACT_S)
    described = topic.describe(lambda: min(time_left(), contact()))
    consumer = topic.consumer(described.version)
    try:
        consumer.bootstrap(left_ms())
        partitions = [TopicPartition(topic.topic, number) for number in described.partitions]
        ends = _ends(consumer, partitions, since, left_ms())
        while ends:
            if time_left() <= 0:
                raise TimeoutError
            batches = consumer.poll(timeout_ms=min(left_ms(), _POLL_S * 1000), max_records=_WINDOW)
            for partition, records in batches.items():
                yield [
                    record.value
                    for record in records
                    if record.offset < ends[partition] and record.value is not None and key in (None, record.key)
                ]
                # Not the last record's offset: a transaction's marker has one, too.
                if consumer.position(partition) >= ends[partition]:
                    del ends[partition]
                    consumer.pause(partition)
    except KafkaError as error:
        raise topic.trouble(error) from error
    finally:
        close_consumer(consumer)


def _ends(
    consumer: Any, partitions: list[Any], since: datetime | Literal["beginning"], timeout_ms: float
) -> dict[Any, int]:
    """Seek where the time says; the ends of the partitions that have something to read from there."""
    ends = consumer.end_offsets(partitions, timeout_ms=timeout_ms)
    if not (filled := [partition for partition in partitions if ends[partition] > 0]):
        return {}
    if since == "beginning":
        begins = consumer.beginning_offsets(filled, timeout_ms=timeout_ms)
    else:
        milliseconds = max(0, int(since.timestamp() * 1000))
        found = consumer.offsets_for_times(dict.fromkeys(filled, milliseconds), timeout_ms=timeout_ms)
        begins = {each: found[each].offset for each in filled if found[each] is not None}
    begins = {each: begin for each, begin in begins.items() if begin < ends[each]}
    if begins:
        consumer.assign(list(begins))
    for partition, begin in begins.items():
        consumer.seek(partition, begin)
    return {each: ends[each] for each in begins}
