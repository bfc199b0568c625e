"""Fixtures of the peers; import those you need in a conftest."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.peers.emulator import PubSubEmulator, emulator_jar
from tests.peers.gcs import GcsBucket, GcsFaults, GcsServer
from tests.peers.kafka_topics import ExternalKafka, KafkaTopics
from tests.peers.mock_kafka import MockCluster
from tests.peers.noida import DurableKafkaBroker, KafkaBroker
from tests.peers.object_store import Bucket
from tests.peers.pubsub_server import PubSubServer
from tests.peers.pubsub_topics import ExternalPubSub, PubSubTopics
from tests.peers.s3 import MotoServer, S3Bucket, S3Faults, S3Server
from tests.peers.tls import Certificates
from tests.peers.trainer.api import TrainerApi

_collected_for: set[Path] = set()


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
    # To go through what all tests have imported and kept by now takes a third of a second: once for a module.
    if request.path not in _collected_for:
        _collected_for.add(request.path)
        gc.collect()
    gc.freeze()
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unclosed <socket", category=ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder: Path = tmp_path_factory.mktemp("certificates")
    return Certificates(folder)


@pytest.fixture
def trainer_api(tmp_path: Path, certificates: Certificates) -> Iterator[TrainerApi]:
    """A cluster's API with Trainer; import `certificates`, too.

    urllib3 leaves a socket whose TLS handshake is broken off to the garbage collector.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unclosed <ssl.SSLSocket", category=ResourceWarning)
        with TrainerApi(tmp_path / "cluster", certificates) as api:
            yield api
        if api.has_been_away:
            gc.collect()


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="module")
def gcs_server() -> Iterator[GcsFaults]:
    """A GCS server behind a relay: the one ``STORAGE_EMULATOR_HOST`` names, or a process of our own."""
    with ExitStack() as stack:
        server = os.environ.get("STORAGE_EMULATOR_HOST") or stack.enter_context(GcsServer()).url
        yield stack.enter_context(GcsFaults(server))


@pytest.fixture(scope="session")
def seaweed() -> Iterator[S3Server]:
    """The server's process; it takes seconds to start."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def s3_server(seaweed: S3Server) -> Iterator[S3Faults]:
    """An S3 server that checks signatures, behind a relay."""
    with S3Faults(seaweed) as faults:
        yield faults


@pytest.fixture(scope="module")
def moto_server() -> Iterator[S3Faults]:
    """Another S3 server behind a relay, of another hand."""
    with MotoServer() as server, S3Faults(server) as faults:
        yield faults


@pytest.fixture
def gcs_bucket(gcs_server: GcsFaults, monkeypatch: pytest.MonkeyPatch) -> GcsBucket:
    """A bucket of the test's own; clients find the server by their environment."""
    gcs_server.clear()
    bucket = GcsBucket(gcs_server)
    _into(bucket, monkeypatch)
    return bucket


@pytest.fixture
def s3_bucket(s3_server: S3Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """The same on SeaweedFS."""
    yield from _s3_bucket(s3_server, monkeypatch)


@pytest.fixture
def moto_bucket(moto_server: S3Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """The same on moto."""
    yield from _s3_bucket(moto_server, monkeypatch)


@pytest.fixture(params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """One of each store, in turn."""
    found: Bucket = request.getfixturevalue({"gs": "gcs_bucket", "s3": "s3_bucket"}[request.param])
    return found


def _s3_bucket(faults: S3Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    faults.clear()
    bucket = S3Bucket(faults)
    _into(bucket, monkeypatch)
    yield bucket
    faults.clear()
    bucket.close()


def _into(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a bucket's environment in the place of the user's."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "STORAGE_EMULATOR", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
