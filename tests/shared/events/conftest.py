"""The peers that events are sent to and read from."""

from collections.abc import Iterator

import pytest

from components.shared.events import delivery
from tests.peers.fixtures import bucket as bucket
from tests.peers.fixtures import certificates as certificates
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.fixtures import kafka_broker as kafka_broker
from tests.peers.fixtures import leaky_kafka_client as leaky_kafka_client
from tests.peers.fixtures import mock_cluster as mock_cluster
from tests.peers.fixtures import own_kafka_broker as own_kafka_broker
from tests.peers.fixtures import own_pubsub_emulator as own_pubsub_emulator
from tests.peers.fixtures import pubsub_emulator as pubsub_emulator
from tests.peers.fixtures import pubsub_server as pubsub_server
from tests.peers.fixtures import s3_bucket as s3_bucket
from tests.peers.fixtures import s3_server as s3_server
from tests.peers.fixtures import seaweed as seaweed
from tests.peers.fixtures import topic as topic
from tests.peers.kafka_topics import KafkaTopics
from tests.shared.events.transports import Gate


@pytest.fixture
def status(kafka_broker: KafkaTopics, topic: str) -> str:
    """A topic of three partitions."""
    kafka_broker.create_topic(topic, partitions=3)
    return topic


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSES_S", (0.0001, 0.001))


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end, so that no thread of a test outlives it."""
    gate = Gate()
    yield gate
    gate.open()
