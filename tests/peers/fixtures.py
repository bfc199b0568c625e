"""Fixtures of the peers; import those you need in a conftest."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.peers.emulator import PubSubEmulator, emulator_jar
from tests.peers.kafka_topics import ExternalKafka, KafkaTopics
from tests.peers.mock_kafka import MockCluster
from tests.peers.noida import DurableKafkaBroker, KafkaBroker
from tests.peers.pubsub_server import PubSubServer
from tests.peers.pubsub_topics import ExternalPubSub, PubSubTopics
from tests.peers.tls import Certificates


def need(condition: object, reason: str) -> None:
    """Skip a test whose needs this machine does not meet; the reason says what to install."""
    if not condition:
        pytest.skip(reason)


@pytest.fixture
def topic() -> str:
    """A topic name no other test has."""
    return f"topic-{uuid4().hex[:12]}"


@pytest.fixture
def leaky_kafka_client(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests in which kafka-python fails to connect: it leaves those sockets open, for the garbage collector.

    They are collected here, so that no later test is blamed.
    """
    request.node.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unclosed <socket", category=ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def kafka_broker() -> Iterator[KafkaTopics]:
    """A broker that stays up: the one ``KAFKA_HOST`` names, or a process of our own."""
    if external := os.environ.get("KAFKA_HOST"):
        yield ExternalKafka(external)
        return
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture
def own_kafka_broker(leaky_kafka_client: None) -> Iterator[DurableKafkaBroker]:
    """A broker to kill, to pause, to cut off."""
    with DurableKafkaBroker() as broker:
        yield broker


@pytest.fixture
def mock_cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder: Path = tmp_path_factory.mktemp("certificates")
    return Certificates(folder)


@pytest.fixture(scope="module")
def pubsub_emulator() -> Iterator[PubSubTopics]:
    """An emulator that stays up: the one ``PUBSUB_EMULATOR_HOST`` names, or a process of our own."""
    if external := os.environ.get("PUBSUB_EMULATOR_HOST"):
        yield ExternalPubSub(external)
        return
    _need_emulator()
    with PubSubEmulator() as emulator:
        yield emulator


@pytest.fixture
def own_pubsub_emulator() -> Iterator[PubSubEmulator]:
    """An emulator to kill."""
    _need_emulator()
    with PubSubEmulator() as emulator:
        yield emulator


@pytest.fixture
def pubsub_server() -> Iterator[PubSubServer]:
    with PubSubServer() as server:
        yield server


def _need_emulator() -> None:
    need(emulator_jar(), "no Pub/Sub emulator: install java and `gcloud components install pubsub-emulator`")
