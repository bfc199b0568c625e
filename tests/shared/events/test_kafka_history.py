"""A topic is read to its end, quickly where there is little, and never for longer than was asked for."""

from __future__ import annotations

import gc
import random
import struct
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal

import pytest
from kafka import KafkaProducer
from kafka.protocol.consumer import FetchResponse

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.events.kafka.subscriber import TopicHistory, read_topic
from components.shared.retry import countdown, pause_s
from tests.peers.kafka_relay import KafkaRelay
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.mock_kafka import MockCluster
from tests.peers.noida import DurableKafkaBroker
from tests.peers.ports import claim_port
from tests.shared.events.security_fixtures import an_event

LONG_S = 60.0
FETCH = 1
TOPIC_AUTHORIZATION_FAILED = 29
AGO = datetime.now(UTC) - timedelta(days=7)

# kafka-python leaves the sockets of failed connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What is left behind here is not found in another test."""
    gc.freeze()  # what is there is kept, and to go through it again takes a third of a second
    yield
    for thread in threading.enumerate():
        if thread.name == "status-history":
            thread.join(2.0)  # kafka-python gives up on its own time, which is minutes
    gc.collect()


@pytest.fixture
def status(kafka_broker: KafkaTopics, topic: str) -> str:
    """A topic of three partitions."""
    kafka_broker.create_topic(topic, partitions=3)
    return topic


def publish(broker: KafkaTopics, topic: str, bodies: Sequence[bytes | None], *keys: str) -> None:
    """Publish each body under each key, with the key before it."""
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", **broker.client_settings)) as producer:
        sent = [producer.send(topic, body and key.encode() + body, key=key.encode()) for body in bodies for key in keys]
        for each in sent:
            each.get(timeout=30)


def read(
    broker: KafkaTopics,
    topic: str,
    key: str | None = None,
    *,
    since: datetime | Literal["beginning"] = AGO,
    within_s: float = LONG_S,
) -> TopicHistory:
    return read_topic(
        broker.bootstrap.split(","), topic, since=since, within_s=within_s, key=key.encode() if key else None
    )


def test_an_empty_topic_is_read_to_its_end(kafka_broker: KafkaTopics, status: str) -> None:
    assert read(kafka_broker, status) == TopicHistory([], "")


def test_everything_of_a_run_is_read_in_order(kafka_broker: KafkaTopics, status: str) -> None:
    runs = [f"run-{number}" for number in range(8)]
    bodies = [b"/%d" % number for number in range(600)]
    publish(kafka_broker, status, [*bodies, None], *runs)
    assert read(kafka_broker, status, "run-3") == TopicHistory([b"run-3" + body for body in bodies], "")
    everything = read(kafka_broker, status)
    assert not everything.trouble
    assert sorted(everything.bodies) == sorted(run.encode() + body for run in runs for body in bodies)
    assert [body for body in everything.bodies if body.startswith(b"run-5")] == [b"run-5" + body for body in bodies]
    assert read(kafka_broker, status, "run-9") == TopicHistory([], "")


def test_older_records_are_left_out(kafka_broker: KafkaTopics, status: str) -> None:
    publish(kafka_broker, status, [b"/old"], "a", "b", "c", "d")
    time.sleep(0.05)
    moment = datetime.now(UTC)
    publish(kafka_broker, status, [b"/new"], "a")
    assert read(kafka_broker, status, since=moment) == TopicHistory([b"a/new"], "")
    assert read(kafka_broker, status, since=moment + timedelta(days=1)) == TopicHistory([], "")


def test_a_missing_topic_is_trouble_and_not_made(kafka_broker: KafkaTopics) -> None:
    name = f"missing-{uuid.uuid4().hex}"
    found = read(kafka_broker, name)
    assert found.bodies == []
    assert found.trouble.endswith(f"topic {name}: there is no such topic; create it, it is not made by itself")
    assert name not in kafka_broker.topics()


def test_settings_that_are_wrong_are_trouble(monkeypatch: pytest.MonkeyPatch, kafka_broker: KafkaTopics) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    found = read(kafka_broker, "status")
    assert found.bodies == []
    assert "KAFKA_SASL_MECHANISM is missing" in found.trouble


def test_brokers_that_are_away_cost_no_more_than_was_asked_for(
    own_kafka_broker: DurableKafkaBroker, topic: str, capfd: pytest.CaptureFixture[str]
) -> None:
    own_kafka_broker.create_topic(topic)
    publish(own_kafka_broker, topic, [b"/1"], "run")
    own_kafka_broker.relay.black_hole()
    silent = read(own_kafka_broker, topic, within_s=0.4)
    own_kafka_broker.relay.refuse()
    down = read(own_kafka_broker, topic)
    own_kafka_broker.relay.pass_through()
    assert silent.bodies == down.bodies == []
    assert silent.trouble
    assert "Connection refused" in down.trouble
    assert read(own_kafka_broker, topic) == TopicHistory([b"run/1"], "")
    assert read(own_kafka_broker, topic, within_s=0.0).trouble
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def cluster(topic: str, monkeypatch: pytest.MonkeyPatch, leaky_kafka_client: None) -> Iterator[MockCluster]:
    monkeypatch.setenv("KAFKA_API_VERSION", "2.3")
    with MockCluster() as cluster:
        cluster.create_topic(topic, partitions=3)
        for partition in range(3):
            cluster.set_leader(topic, partition, partition + 1)
        yield cluster


class WithoutRead(KafkaRelay):
    """Answers each Fetch as a broker does whose ACLs give the user Describe and Write alone."""

    _fetches: ClassVar[dict[int, int]] = {}  # the versions, by correlation id

    def _request(self, data: bytes) -> bytes:
        api_key, version, correlation = struct.unpack_from(">hhi", data, 4)
        if api_key == FETCH:
            self._fetches[correlation] = version
        return super()._request(data)

    def _response(self, data: bytes) -> bytes:
        (correlation,) = struct.unpack_from(">i", data, 4)
        if correlation not in self._fetches:
            return super()._response(data)
        version = self._fetches.pop(correlation)
        answer = FetchResponse.decode(data, version=version, header=True, framed=True)
        for topic in answer.responses:
            for partition in topic.partitions:
                partition.error_code, partition.records = TOPIC_AUTHORIZATION_FAILED, None
        changed: bytes = answer.encode(header=True, framed=True)
        return changed


def test_a_user_who_may_not_read_is_trouble(own_kafka_broker: DurableKafkaBroker, topic: str) -> None:
    own_kafka_broker.create_topic(topic)
    publish(own_kafka_broker, topic, [b"/1"], "run")
    with WithoutRead(own_kafka_broker.relay.target) as relay:
        found = read_topic([relay.bootstrap], topic, since=AGO, within_s=LONG_S)
    assert found.bodies == []
    assert "may not use the topic; grant Describe and Write to publish, Describe and Read to watch" in found.trouble


def test_a_partition_that_does_not_answer_leaves_the_others(
    cluster: MockCluster, topic: str, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(cluster, topic, [b"/1"], *"abcdefgh")
    assert len(read(cluster, topic, since="beginning").bodies) == 8
    cluster.set_rtt(3, 30_000)  # its leader
    found = read(cluster, topic, since="beginning", within_s=1.0)
    cluster.set_rtt(3, 0)
    assert topic in found.trouble
    assert capfd.readouterr() == ("", "")


def test_no_broker_whatever_it_does_changes_the_state_of_pythons_generator(
    kafka_broker: KafkaTopics, topic: str, leaky_kafka_client: None
) -> None:
    """It is part of a training's: an outage must not make another model."""
    kafka_broker.create_topic(topic)
    before = random.getstate()
    for server in (kafka_broker.bootstrap, f"127.0.0.1:{claim_port()}"):
        transport = KafkaTransport([server], topic)
        with suppress(RetryableError, StatusRefusedError):
            transport.send([an_event()], countdown(2))
        transport.close()
        read_topic([server], topic, since="beginning", within_s=2)
        pause_s(3, 0.1, 1.0)
    assert random.getstate() == before
