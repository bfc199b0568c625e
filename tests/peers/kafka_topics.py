"""Topics and what is in them, on any broker."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import for_code


@dataclass(frozen=True)
class Record:
    """One record as a consumer sees it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


class KafkaTopics:
    """What tests ask of a broker, whichever it is.

    Attributes:
        client_settings: What clients of this broker must pass to kafka-python beside the addresses.
    """

    client_settings: dict[str, Any] = {}  # noqa: RUF012 # replaced, never changed

    @property
    def bootstrap(self) -> str:
        """The brokers as ``host:port``, comma-separated."""
        raise NotImplementedError

    @property
    def broker_port(self) -> int:
        """Of the first broker."""
        return int(self.bootstrap.split(",")[0].rpartition(":")[2])

    def create_topic(self, name: str, partitions: int = 1, replication: int = 1) -> None:
        with closing(self._admin()) as admin:
            admin.create_topics([NewTopic(name, partitions, replication)])

    def delete_topic(self, name: str) -> None:
        with closing(self._admin()) as admin:
            admin.delete_topics([name])

    def topics(self) -> set[str]:
        """The names of all topics, without the broker's own."""
        with closing(self._admin()) as admin:
            return {name for name in admin.list_topics() if not name.startswith("__")}

    def records(self, topic: str, timeout: float = 300.0) -> list[Record]:
        """Everything in the topic now, in order within each partition.

        Raises:
            kafka.errors.KafkaError: The topic does not exist (and asking does not create it).
            TimeoutError: The broker did not hand out everything in time.
        """
        deadline = time.monotonic() + timeout
        partitions = self._partitions(topic)
        # Auto-commit off and no group: reading leaves no trace on the broker.
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap.split(","),
            bootstrap_timeout_ms=int(timeout * 1000),
            group_id=None,
            enable_auto_commit=False,
            **self.client_settings,
        )
        try:
            consumer.assign(partitions)
            ends: dict[Any, int] = consumer.end_offsets(partitions)
            consumer.seek_to_beginning(*partitions)
            found: list[Record] = []
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"read {len(found)} of {sum(ends.values())} records of {topic} in {timeout:g} s")
                for batch in consumer.poll(timeout_ms=200).values():
                    found += [Record(each.partition, each.offset, each.key, each.value, each.headers) for each in batch]
        finally:
            consumer.close()
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def values(self, topic: str) -> list[bytes]:
        """The values of all records of a topic."""
        return [record.value for record in self.records(topic)]

    def _partitions(self, topic: str) -> list[Any]:
        with closing(self._admin()) as admin:
            (description,) = admin.describe_topics([topic])
        if description["error_code"]:
            raise for_code(description["error_code"])(topic)
        return [TopicPartition(topic, each["partition_index"]) for each in description["partitions"]]

    def _admin(self) -> Any:
        return KafkaAdminClient(
            bootstrap_servers=self.bootstrap.split(","),
            bootstrap_timeout_ms=10_000,
            request_timeout_ms=10_000,
            **self.client_settings,
        )


class ExternalKafka(KafkaTopics):
    """A broker that runs elsewhere: it may be used, not stopped."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    @property
    def bootstrap(self) -> str:
        return self._bootstrap
