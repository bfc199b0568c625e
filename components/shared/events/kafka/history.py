"""What a topic holds now, read to its end and no further: for steps that look back at their run's earlier events."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.kafka.subscriber import KafkaSubscriber
from components.shared.retry import countdown


class TopicHistory(NamedTuple):
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
    """Read a topic from a moment to its present end: all partitions, as others may share keys out in another way.

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
