"""The Kafka peers do what they say, by the word of clients that know nothing of them."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
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

from tests.peers.clients import HOPELESS, Token, kafka_producer, produce
from tests.peers.fixtures import need
from tests.peers.kafka_relay import KafkaRelay
from tests.peers.kafka_topics import KafkaTopics, Record
from tests.peers.mock_kafka import PRODUCE, MockCluster
from tests.peers.noida import DurableKafkaBroker, KafkaBroker
from tests.peers.ports import HOST
from tests.peers.sasl import SaslRelay
from tests.peers.tls import Certificates, tls_relay

pytestmark = pytest.mark.usefixtures("leaky_kafka_client")


def values(broker: KafkaTopics, topic: str) -> list[bytes]:
    return [record.value for record in broker.records(topic)]


def port_of(broker: KafkaTopics) -> int:
    return int(broker.bootstrap.split(",")[0].rpartition(":")[2])


def test_records_come_back_whole_and_in_order(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic)
    produce(kafka_broker.bootstrap, topic, b"one", b"two")
    headers = [("kind", b"test")]
    assert kafka_broker.records(topic) == [
        Record(0, 0, b"run", b"one", headers),
        Record(0, 1, b"run", b"two", headers),
    ]


def test_kcat_reads_what_kafka_python_wrote(kafka_broker: KafkaTopics, topic: str) -> None:
    need(shutil.which("kcat"), "no kcat: apt-get install kcat")
    kafka_broker.create_topic(topic)
    produce(kafka_broker.bootstrap, topic, b"one", b"two")
    command = ["kcat", "-C", "-e", "-q", "-b", kafka_broker.bootstrap, "-t", topic, "-f", "%k=%s %h\n"]
    read = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert read.splitlines() == ["run=one kind=test", "run=two kind=test"]


def test_topics_are_made_found_and_deleted(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic, partitions=3)
    assert topic in kafka_broker.topics()
    with pytest.raises(TopicAlreadyExistsError):
        kafka_broker.create_topic(topic)
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


def test_what_a_durable_broker_acknowledged_survives_at_once(own_kafka_broker: DurableKafkaBroker, topic: str) -> None:
    own_kafka_broker.create_topic(topic)
    with kafka_producer(own_kafka_broker.bootstrap) as producer:
        producer.send(topic, b"before").get(timeout=30)
        own_kafka_broker.kill()
        meanwhile = producer.send(topic, b"meanwhile")
        own_kafka_broker.start()
        meanwhile.get(timeout=30)
    assert values(own_kafka_broker, topic) == [b"before", b"meanwhile"]


def test_a_paused_broker_answers_when_resumed(own_kafka_broker: DurableKafkaBroker, topic: str) -> None:
    own_kafka_broker.create_topic(topic)
    with kafka_producer(own_kafka_broker.bootstrap) as producer:
        producer.send(topic, b"before").get(timeout=30)
        own_kafka_broker.pause()
        held = producer.send(topic, b"held")
        with pytest.raises(KafkaTimeoutError):
            held.get(timeout=0.5)
        own_kafka_broker.resume()
        held.get(timeout=30)
    assert values(own_kafka_broker, topic) == [b"before", b"held"]


def test_a_broker_that_creates_no_topics_leaves_none_behind(topic: str) -> None:
    with DurableKafkaBroker(auto_create=False) as broker:
        with kafka_producer(broker.bootstrap, max_block_ms=500) as producer, pytest.raises(KafkaTimeoutError):
            producer.send(topic, b"x")
        assert broker.topics() == set()


def test_kafka_clients_stay_on_the_relay(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic)
    with KafkaRelay(port_of(kafka_broker)) as relay:
        with kafka_producer(relay.bootstrap) as producer:
            producer.send(topic, b"x").get(timeout=30)
            # One connection to ask, one to the broker it was told of.
            assert relay.connections >= 2
            assert relay.open_connections >= 1
        with KafkaRelay(relay.port) as second:
            produce(second.bootstrap, topic, b"through both")
            assert second.connections >= 2


def test_what_a_black_hole_holds_flows_on_afterwards(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic)
    with KafkaRelay(port_of(kafka_broker)) as relay, kafka_producer(relay.bootstrap) as producer:
        producer.send(topic, b"before").get(timeout=30)
        relay.black_hole()
        held = producer.send(topic, b"held")
        with pytest.raises(KafkaTimeoutError):
            held.get(timeout=0.5)
        relay.pass_through()
        held.get(timeout=30)
    assert values(kafka_broker, topic) == [b"before", b"held"]


def test_a_refusing_relay_resets_and_comes_back(kafka_broker: KafkaTopics) -> None:
    with KafkaRelay(port_of(kafka_broker)) as relay:
        with socket.create_connection((HOST, relay.port)) as client:
            client.sendall(b"\0\0\0\x0a\0\x12\0\0\0\0\0\0\xff\xff")
            assert client.recv(65536)
            relay.refuse()
            with pytest.raises(ConnectionResetError):
                client.recv(65536)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, relay.port))
        relay.pass_through()
        socket.create_connection((HOST, relay.port)).close()


def test_latency_delays_answers(kafka_broker: KafkaTopics) -> None:
    with KafkaRelay(port_of(kafka_broker)) as relay:
        relay.delay(0.5)
        with socket.create_connection((HOST, relay.port)) as client:
            client.sendall(b"\0\0\0\x0a\0\x12\0\0\0\0\0\0\xff\xff")
            client.settimeout(0.4)
            with pytest.raises(TimeoutError):
                client.recv(65536)
            client.settimeout(30)
            assert client.recv(65536)


def test_tls_is_verified(kafka_broker: KafkaTopics, topic: str, certificates: Certificates) -> None:
    kafka_broker.create_topic(topic)
    with tls_relay(port_of(kafka_broker), certificates) as relay:
        produce(relay.address, topic, b"x", security_protocol="SSL", ssl_cafile=str(certificates.ca_file))
        system_only = ssl.create_default_context()
        with socket.create_connection((HOST, relay.port)) as client, pytest.raises(ssl.SSLCertVerificationError):
            system_only.wrap_socket(client, server_hostname=HOST)
    assert values(kafka_broker, topic) == [b"x"]


def test_a_certificate_for_another_host_is_noticed(kafka_broker: KafkaTopics, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca_file))
    with (
        KafkaRelay(port_of(kafka_broker), tls=certificates.server_context("kafka.example.com")) as relay,
        socket.create_connection((HOST, relay.port)) as client,
        pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"),
    ):
        context.wrap_socket(client, server_hostname=HOST)


def test_a_client_certificate_may_be_required(
    kafka_broker: KafkaTopics, topic: str, certificates: Certificates
) -> None:
    kafka_broker.create_topic(topic)
    trust = {"security_protocol": "SSL", "ssl_cafile": str(certificates.ca_file)}
    show = {"ssl_certfile": str(certificates.client_cert_file), "ssl_keyfile": str(certificates.client_key_file)}
    with tls_relay(port_of(kafka_broker), certificates, require_client=True) as relay:
        with kafka_producer(relay.address, **trust, **HOPELESS) as producer, pytest.raises(KafkaTimeoutError):
            producer.partitions_for(topic)
        produce(relay.address, topic, b"x", **trust, **show)
    assert values(kafka_broker, topic) == [b"x"]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plaintext", "tls"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_with_the_password_comes_in_and_no_other(
    kafka_broker: KafkaTopics, topic: str, certificates: Certificates, mechanism: str, encrypted: bool
) -> None:
    kafka_broker.create_topic(topic)
    tls = certificates.server_context() if encrypted else None
    settings: dict[str, Any] = {"sasl_mechanism": mechanism, "sasl_plain_username": "alice"}
    settings |= {"security_protocol": "SASL_SSL" if encrypted else "SASL_PLAINTEXT"}
    settings |= {"ssl_cafile": str(certificates.ca_file)} if encrypted else {}
    with SaslRelay(port_of(kafka_broker), {"alice": "s3,cr=t"}, tls=tls) as relay:
        produce(relay.bootstrap, topic, b"x", sasl_plain_password="s3,cr=t", **settings)  # noqa: S106 # no secret
        assert set(relay.authenticated) == {(mechanism, "alice")}
        wrong = {**settings, **HOPELESS, "sasl_plain_password": "wrong"}
        with kafka_producer(relay.bootstrap, **wrong) as producer, pytest.raises(KafkaTimeoutError):
            producer.partitions_for(topic)
        assert {refused for refused, _ in relay.refused} == {mechanism}
    assert values(kafka_broker, topic) == [b"x"]


def test_a_bearer_token_comes_in_and_no_other(
    kafka_broker: KafkaTopics, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    kafka_broker.create_topic(topic)
    settings = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    with SaslRelay(port_of(kafka_broker), tokens=["good"]) as relay:
        produce(relay.bootstrap, topic, b"x", sasl_oauth_token_provider=Token("good"), **settings)
        assert set(relay.authenticated) == {("OAUTHBEARER", "good")}
        wrong: dict[str, Any] = {**settings, **HOPELESS, "sasl_oauth_token_provider": Token("bad")}
        with kafka_producer(relay.bootstrap, **wrong) as producer, pytest.raises(KafkaTimeoutError):
            producer.partitions_for(topic)
    assert 'SaslAuthenticationFailedError: {"status":"invalid_token"}' in caplog.text


def test_a_client_without_sasl_is_turned_away(kafka_broker: KafkaTopics, topic: str) -> None:
    with SaslRelay(port_of(kafka_broker), {"alice": "secret"}) as relay:
        with kafka_producer(relay.bootstrap, **HOPELESS) as producer, pytest.raises(KafkaTimeoutError):
            producer.partitions_for(topic)
        assert relay.refused[0] == ("none", "request 3 before authentication")
        assert relay.authenticated == []


def test_librdkafka_authenticates_and_is_told_what_is_wrong(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic)
    with SaslRelay(port_of(kafka_broker), {"alice": "secret"}, mechanisms=("SCRAM-SHA-256",)) as relay:
        settings: dict[str, Any] = {"bootstrap.servers": relay.bootstrap, "security.protocol": "SASL_PLAINTEXT"}
        settings |= {"sasl.username": "alice", "sasl.password": "secret", "log_level": "0"}
        right = AdminClient({**settings, "sasl.mechanism": "SCRAM-SHA-256"})
        assert topic in right.list_topics(timeout=30).topics
        told: list[str] = []
        for wrong in ({"sasl.mechanism": "PLAIN"}, {"sasl.mechanism": "SCRAM-SHA-256", "sasl.password": "wrong"}):
            errors: list[Any] = []
            refused: dict[str, Any] = {**settings, **wrong, "error_cb": errors.append}
            client = AdminClient(refused)
            for _ in range(100):
                client.poll(0.1)
                if errors:
                    break
            told.append(errors[0].str())
    assert "Broker: Unsupported SASL mechanism" in told[0]
    assert "invalid credentials with SASL mechanism SCRAM-SHA-256" in told[1]


def test_error_codes_reach_the_producer(mock_cluster: MockCluster, topic: str) -> None:
    mock_cluster.create_topic(topic)
    # An idempotent producer takes its first final error for the end of everything.
    settings = {**mock_cluster.client_settings, "enable_idempotence": False}
    with kafka_producer(mock_cluster.bootstrap, **settings) as producer:
        mock_cluster.push_errors(PRODUCE, MessageSizeTooLargeError.errno)
        with pytest.raises(MessageSizeTooLargeError):
            producer.send(topic, b"refused").get(timeout=30)
        # NOT_LEADER_FOR_PARTITION and NOT_ENOUGH_REPLICAS: the client tries again by itself.
        mock_cluster.push_errors(PRODUCE, 6, 19)
        producer.send(topic, b"retried").get(timeout=30)
    assert values(mock_cluster, topic) == [b"retried"]


def test_a_topic_may_have_an_error(mock_cluster: MockCluster, topic: str) -> None:
    mock_cluster.create_topic(topic)
    mock_cluster.topic_error(topic, TopicAuthorizationFailedError.errno)
    with kafka_producer(mock_cluster.bootstrap, **mock_cluster.client_settings) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            producer.send(topic, b"x").get(timeout=30)
        mock_cluster.topic_error(topic, 0)
        producer.send(topic, b"x").get(timeout=30)


def test_a_partition_follows_its_leader(mock_cluster: MockCluster, topic: str) -> None:
    mock_cluster.create_topic(topic, replication=3)
    mock_cluster.set_leader(topic, 0, 3)
    with kafka_producer(mock_cluster.bootstrap, **mock_cluster.client_settings) as producer:
        producer.send(topic, b"to 3").get(timeout=30)
        mock_cluster.set_leader(topic, 0, 1)
        mock_cluster.broker_down(3)
        producer.send(topic, b"to 1").get(timeout=30)
        mock_cluster.broker_up(3)
        mock_cluster.set_leader(topic, 0, 3)
        producer.send(topic, b"to 3 again").get(timeout=30)
    assert values(mock_cluster, topic) == [b"to 3", b"to 1", b"to 3 again"]


def test_a_broker_may_be_slow(mock_cluster: MockCluster, topic: str) -> None:
    mock_cluster.create_topic(topic)
    mock_cluster.set_leader(topic, 0, 1)
    with kafka_producer(mock_cluster.bootstrap, **mock_cluster.client_settings) as producer:
        producer.send(topic, b"fast").get(timeout=30)
        mock_cluster.set_rtt(1, 800)
        slow = producer.send(topic, b"slow")
        with pytest.raises(KafkaTimeoutError):
            slow.get(timeout=0.4)
        slow.get(timeout=30)
