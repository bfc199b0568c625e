from __future__ import annotations

from tests.faults.training import without_status
from tests.peers.fixtures import leaky_kafka_client, own_kafka_broker, own_pubsub_emulator, pubsub_server, topic

__all__ = ["leaky_kafka_client", "own_kafka_broker", "own_pubsub_emulator", "pubsub_server", "topic", "without_status"]
