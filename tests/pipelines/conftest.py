from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.fixtures import bucket as bucket
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.fixtures import kafka_broker as kafka_broker
from tests.peers.fixtures import leaky_kafka_client as leaky_kafka_client
from tests.peers.fixtures import own_kafka_broker as own_kafka_broker
from tests.peers.fixtures import pubsub_emulator as pubsub_emulator
from tests.peers.fixtures import s3_bucket as s3_bucket
from tests.peers.fixtures import s3_server as s3_server
from tests.peers.fixtures import seaweed as seaweed
from tests.peers.fixtures import topic as topic
from tests.peers.kafka_topics import KafkaTopics

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run one of our commands in a process of its own, in an empty directory."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def status(kafka_broker: KafkaTopics, topic: str) -> str:
    """A topic of three partitions, as `shutterline watch --kafka` wants it."""
    kafka_broker.create_topic(topic, partitions=3)
    return f"{kafka_broker.bootstrap}/{topic}"
