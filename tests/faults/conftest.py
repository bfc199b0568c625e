from __future__ import annotations

from tests.faults.storage import earlier, impatient, large_source, large_written, location, source, sources
from tests.faults.training import without_status
from tests.peers.fixtures import (
    bucket,
    gcs_bucket,
    gcs_server,
    leaky_kafka_client,
    own_kafka_broker,
    own_pubsub_emulator,
    pubsub_server,
    s3_bucket,
    s3_server,
    seaweed,
    topic,
)

__all__ = [
    "bucket",
    "earlier",
    "gcs_bucket",
    "gcs_server",
    "impatient",
    "large_source",
    "large_written",
    "leaky_kafka_client",
    "location",
    "own_kafka_broker",
    "own_pubsub_emulator",
    "pubsub_server",
    "s3_bucket",
    "s3_server",
    "seaweed",
    "source",
    "sources",
    "topic",
    "without_status",
]
