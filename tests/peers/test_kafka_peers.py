"""The Kafka peers, as clients that know nothing of them find them."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from kafka.errors import (
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from tests.peers.clients import HOPELESS, kafka_producer, produce
from tests.peers.kafka_relay import KafkaRelay
from tests.peers.kafka_topics import KafkaTopics, Record
from tests.peers.mock_kafka import PRODUCE, MockCluster
from tests.peers.noida import DurableKafkaBroker, KafkaBroker
from tests.peers.ports import HOST
from tests.peers.sasl import SaslRelay

pytestmark = pytest.mark.usefixtures("leaky_kafka_client")


def values(broker: KafkaTopics, topic: str) -> list[bytes]:
    return [record.value for record in broker.records(topic)]


def test_topics_are_made_and_deleted_and_records_come_back_whole(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic, partitions=1)
    with pytest.raises(TopicAlreadyExistsError):
        kafka_broker.create_topic(topic)
    produce(kafka_broker.bootstrap, topic, b"one", b"two")
    headers = [("kind", b"test")]
    assert kafka_broker.records(topic) == [Record(0, n, b"run", v, headers) for n, v in enumerate((b"one", b"two"))]
    kafka_broker.delete_topic(topic)
    with pytest.raises(UnknownTopicOrPartitionError):
        kafka_broker.records(topic)
    assert topic not in kafka_broker.topics()


def test_what_has_settled_survives_a_kill(topic: str) -> None:
    with KafkaBroker() as broker:
        broker.create_topic(topic)
        produce(broker.bootstrap, topic, b"kept")
        broker.settle()
        broker.kill()
        assert not broker.running
        broker.start()
        assert values(broker, topic) == [b"kept"]


@pytest.mark.parametrize("outage", ["killed", "black hole"])
def test_what_was_held_in_an_outage_arrives_after_it(
    own_kafka_broker: DurableKafkaBroker, topic: str, outage: str
) -> None:
    begin, end = {
        "killed": (own_kafka_broker.kill, own_kafka_broker.start),
        "black hole": (own_kafka_broker.relay.black_hole, own_kafka_broker.relay.pass_through),
    }[outage]
    own_kafka_broker.create_topic(topic)
    with kafka_producer(own_kafka_broker.bootstrap) as producer:
        producer.send(topic, b"before").get(timeout=30)
        begin()
        held = producer.send(topic, b"held")
        with pytest.raises(KafkaTimeoutError):
            held.get(timeout=0.5)
        end()
        held.get(timeout=30)
    assert values(own_kafka_broker, topic) == [b"before", b"held"]


def test_kafka_clients_stay_on_the_relay(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic)
    with KafkaRelay(kafka_broker.broker_port) as relay, KafkaRelay(relay.port) as second:
        produce(second.bootstrap, topic, b"through both")
        assert min(relay.connections, second.connections) >= 2  # one to ask, one to the broker it is sent to


def test_a_relay_delays_resets_and_comes_back(kafka_broker: KafkaTopics) -> None:
    request = b"\0\0\0\x0a\0\x12\0\0\0\0\0\0\xff\xff"
    with KafkaRelay(kafka_broker.broker_port) as relay:
        relay.delay(0.5)
        with socket.create_connection((HOST, relay.port)) as client:
            client.sendall(request)
            client.settimeout(0.4)
            with pytest.raises(TimeoutError):
                client.recv(65536)
            client.settimeout(30)
            assert client.recv(65536)
            relay.refuse()
            with pytest.raises(ConnectionResetError):
                client.recv(65536)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, relay.port))
        relay.pass_through()
        socket.create_connection((HOST, relay.port)).close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_librdkafka_comes_in_with_the_password_and_with_no_other(
    kafka_broker: KafkaTopics, topic: str, mechanism: str
) -> None:
    kafka_broker.create_topic(topic)
    with SaslRelay(kafka_broker.broker_port, {"alice": "s3,cr=t"}, mechanisms=(mechanism,)) as relay:
        settings: dict[str, Any] = {"bootstrap.servers": relay.bootstrap, "security.protocol": "SASL_PLAINTEXT"}
        settings |= {"sasl.username": "alice", "sasl.password": "s3,cr=t", "log_level": "0"}
        assert topic in AdminClient(settings | {"sasl.mechanism": mechanism}).list_topics(timeout=30).topics
        assert set(relay.authenticated) == {(mechanism, "alice")}
        other = "SCRAM-SHA-256" if mechanism == "PLAIN" else "PLAIN"
        for change, reason in (({"sasl.mechanism": other}, "Unsupported SASL"), ({"sasl.password": "x"}, "nvalid")):
            errors: list[Any] = []
            client = AdminClient(settings | {"sasl.mechanism": mechanism} | change | {"error_cb": errors.append})
            while not errors:
                client.poll(0.1)
            assert reason in errors[0].str()


def test_a_client_without_sasl_is_turned_away(kafka_broker: KafkaTopics, topic: str) -> None:
    with SaslRelay(kafka_broker.broker_port, {"alice": "secret"}) as relay:
        with kafka_producer(relay.bootstrap, **HOPELESS) as producer, pytest.raises(KafkaTimeoutError):
            producer.partitions_for(topic)
        assert relay.refused[0] == ("none", "request 3 before authentication")


def test_a_mock_cluster_has_errors_leaders_and_slow_brokers(mock_cluster: MockCluster, topic: str) -> None:
    mock_cluster.create_topic(topic, replication=3)
    # An idempotent producer takes its first final error for the end of everything.
    settings = mock_cluster.client_settings | {"enable_idempotence": False}
    with kafka_producer(mock_cluster.bootstrap, **settings) as producer:
        mock_cluster.push_errors(PRODUCE, MessageSizeTooLargeError.errno)
        with pytest.raises(MessageSizeTooLargeError):
            producer.send(topic, b"refused").get(timeout=30)
        mock_cluster.push_errors(PRODUCE, 6, 19)  # which the client repeats by itself
        producer.send(topic, b"retried").get(timeout=30)
        mock_cluster.set_leader(topic, 0, 1)
        producer.send(topic, b"to 1").get(timeout=30)
        mock_cluster.set_rtt(1, 800)
        slow = producer.send(topic, b"slow")
        with pytest.raises(KafkaTimeoutError):
            slow.get(timeout=0.4)
        slow.get(timeout=30)
        mock_cluster.topic_error(topic, TopicAuthorizationFailedError.errno)
    with kafka_producer(mock_cluster.bootstrap, **settings) as producer, pytest.raises(TopicAuthorizationFailedError):
        producer.send(topic, b"x").get(timeout=30)
    mock_cluster.topic_error(topic, 0)
    assert values(mock_cluster, topic) == [b"retried", b"to 1", b"slow"]
