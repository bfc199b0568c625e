"""Where no broker answers, or not as a broker does: what is reported, and that nothing is changed by asking."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from kafka.errors import TopicAuthorizationFailedError

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.retry import countdown
from tests.peers.kafka_relay import KafkaRelay
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.mock_kafka import INIT_PRODUCER_ID, PRODUCE, MockCluster
from tests.peers.noida import DurableKafkaBroker
from tests.peers.ports import HOST, claim_port
from tests.peers.pubsub_server import PubSubServer
from tests.peers.tcp import Relay
from tests.shared.events.security_fixtures import BRIEF_S, LONG_S, Step, an_event, deliver, failure, states
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import a_step as a_step

pytestmark = pytest.mark.usefixtures("leaky_kafka_client")


def nobody() -> str:
    return f"{HOST}:{claim_port()}"


def test_servers_that_are_not_there_are_named() -> None:
    servers = [nobody(), nobody()]
    message = failure(RetryableError, servers, "status")
    assert message == f"Kafka does not answer: {servers[0]}: Connection refused; {servers[1]}: Connection refused"
    message = failure(RetryableError, ["kafka.nowhere.invalid:9092"], "status")
    assert message.startswith("Kafka does not answer: kafka.nowhere.invalid:9092: the name cannot be resolved")


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_port_that_is_silent_is_waited_for_and_named(
    kafka_broker: KafkaTopics, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", protocol)
    with Relay(kafka_broker.broker_port) as relay:
        relay.black_hole()
        message = failure(RetryableError, [relay.address], "status", BRIEF_S)
    assert f"{relay.address} does not answer within" in message


def test_one_server_of_several_is_enough(kafka_broker: KafkaTopics, status: str) -> None:
    event = deliver([nobody(), "kafka.nowhere.invalid:9092", kafka_broker.bootstrap], status)
    assert kafka_broker.values(status) == [event.body]


def test_a_server_that_comes_back_gets_what_it_could_not_take(kafka_broker: KafkaTopics, status: str) -> None:
    event = an_event()
    with KafkaRelay(kafka_broker.broker_port) as relay, closing(KafkaTransport([relay.address], status)) as transport:
        relay.refuse()
        with pytest.raises(RetryableError, match="Connection refused"):
            transport.send([event], countdown(BRIEF_S))
        relay.pass_through()
        transport.send([event], countdown(LONG_S))
    assert kafka_broker.values(status) == [event.body]


def test_a_broker_that_is_at_another_address_than_clients_are_sent_to_is_named(
    kafka_broker: KafkaTopics, status: str
) -> None:
    with KafkaRelay(kafka_broker.broker_port) as relay:
        lost = claim_port()
        relay.advertise = {kafka_broker.broker_port: lost}
        message = failure(RetryableError, [relay.address], status, 3.0)
    assert message == f"Kafka {relay.address} topic {status} does not answer as {HOST}:{lost}"


@pytest.mark.parametrize("auto_create", [True, False], ids=["a broker that makes topics", "a broker that makes none"])
def test_a_missing_topic_is_refused_and_not_made(topic: str, auto_create: bool) -> None:
    with DurableKafkaBroker(auto_create=auto_create) as broker:
        broker.create_topic("another")
        message = failure(StatusRefusedError, [broker.bootstrap], topic)
        assert broker.topics() == {"another"}
    assert message == (
        f"Kafka {broker.bootstrap} topic {topic}: there is no such topic; create it, it is not made by itself"
    )


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A port that answers everything alike and hangs up."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # it is closed
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{HOST}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
SSH = b"SSH-2.0-OpenSSH_9.2p1\r\n"


@pytest.mark.parametrize("answer", [HTTP, SSH], ids=["HTTP", "SSH"])
def test_a_port_of_something_else_is_refused(answer: bytes) -> None:
    with answering(answer) as server:
        message = failure(StatusRefusedError, [server], "status")
    assert message == f"Kafka {server}: what answers there is not a Kafka broker; check KAFKA_HOST"


@pytest.mark.parametrize("answer", [b"", struct.pack(">ii", 400, 1)], ids=["none", "cut short"])
def test_an_answer_that_is_cut_short_is_no_answer(answer: bytes) -> None:
    with answering(answer) as server:
        message = failure(RetryableError, [server], "status")
    assert message == f"Kafka does not answer: {server}: it closes the connection"


def test_the_clients_name_is_on_what_it_sends(
    kafka_broker: KafkaTopics, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[int, set[str]] = {}

    class Listening(KafkaRelay):
        def _request(self, data: bytes) -> bytes:
            api, _, _, length = struct.unpack_from(">hhih", data, 4)
            named.setdefault(api, set()).add(data[14 : 14 + length].decode())
            return super()._request(data)

    monkeypatch.setenv("KAFKA_CLIENT_ID", "night-run")
    with Listening(kafka_broker.broker_port) as relay:
        deliver([relay.address], status)
    assert named[PRODUCE] == named[INIT_PRODUCER_ID] == {"night-run"}


def test_an_old_cluster_needs_its_version_set(
    mock_cluster: MockCluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_cluster.create_topic(topic)
    servers = mock_cluster.bootstrap.split(",")
    with pytest.raises((RetryableError, StatusRefusedError)):
        deliver(servers, topic, BRIEF_S)
    monkeypatch.setenv("KAFKA_API_VERSION", "2.3")
    event = deliver(servers, topic)
    assert mock_cluster.values(topic)[-1] == event.body


TOPIC_FORBIDDEN = "its user may not use the topic; grant Describe and Write to publish, Describe and Read to watch"


@pytest.mark.parametrize(
    ("request_", "code", "expected"),
    [
        (None, TopicAuthorizationFailedError.errno, TOPIC_FORBIDDEN),
        (PRODUCE, 29, TOPIC_FORBIDDEN),
        (PRODUCE, 31, "its user lacks IdempotentWrite on the cluster"),
        (INIT_PRODUCER_ID, 31, "its user lacks IdempotentWrite on the cluster"),
    ],
    ids=["see the topic", "write to the topic", "write without duplicates", "begin to write without duplicates"],
)
def test_a_missing_permission_is_refused_with_what_to_grant(
    mock_cluster: MockCluster,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    request_: int | None,
    code: int,
    expected: str,
) -> None:
    monkeypatch.setenv("KAFKA_API_VERSION", "2.3")
    mock_cluster.create_topic(topic)
    if request_ is None:
        mock_cluster.topic_error(topic, code)
    else:
        mock_cluster.push_errors(request_, *[code] * 100)
    message = failure(StatusRefusedError, mock_cluster.bootstrap.split(","), topic)
    assert message.endswith(f"topic {topic}: {expected}")


@pytest.fixture
def pubsub(pubsub_server: PubSubServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Params that name a Pub/Sub topic which works."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server.host)
    pubsub_server.create_topic("project", "status")
    return {"PUB_SUB_PROJECT": "project", "PUB_SUB_TOPIC": "status", "TIMEOUT": 1.5}


def published(server: PubSubServer) -> list[str]:
    return states([message.data for message in server.published("projects/project/topics/status")])


@pytest.mark.parametrize("kind", ["misspelt setting", "port of something else", "missing topic"])
def test_a_refusal_ends_the_step_before_its_work_and_is_reported_to_the_other_broker(
    kafka_broker: KafkaTopics,
    pubsub_server: PubSubServer,
    pubsub: dict[str, Any],
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    a_step: Step,
    kind: str,
) -> None:
    expected = "there is no such topic; create it"
    with answering(HTTP) as other:
        if kind == "misspelt setting":
            monkeypatch.setenv("KAFKA_SASL_PASWORD", "hunter2")
            expected = "KAFKA_SASL_PASWORD: no such setting; did you mean KAFKA_SASL_PASSWORD?"
        elif kind == "port of something else":
            expected = "is not a Kafka broker; check KAFKA_HOST"
        server = other if kind == "port of something else" else kafka_broker.bootstrap
        ended = a_step(KAFKA_HOST=server, KAFKA_TOPIC=topic, **pubsub)
    assert (ended.code, ended.worked, ended.error_type) == (2, False, "StatusRefusedError")
    assert expected in ended.message
    assert "Traceback" not in ended.told
    assert "hunter2" not in ended.told
    assert ended.spooled == published(pubsub_server) == ["started", "failed"]


def test_an_unreachable_broker_is_a_warning_or_fails_the_step(
    pubsub_server: PubSubServer, pubsub: dict[str, Any], topic: str, a_step: Step
) -> None:
    server = nobody()
    message = f"Kafka does not answer: {server}: Connection refused"
    ended = a_step(KAFKA_HOST=server, KAFKA_TOPIC=topic, on_status_error="warn", **pubsub)
    assert (ended.code, ended.worked) == (0, True)
    assert f"WARNING {message}; going on, status waits in the spool" in ended.told
    assert ended.spooled == published(pubsub_server) == ["started", "progress", "succeeded"]
    assert ended.record.delivery is not None
    report = ended.record.delivery["brokers"]
    assert (report["kafka"]["delivered"], report["kafka"]["undelivered"]) == (0, 3)
    assert "Connection refused" in report["kafka"]["trouble"]
    assert (report["pubsub"]["delivered"], report["pubsub"]["undelivered"]) == (3, 0)
    assert f"3 of 3 status events are not at Kafka {server} topic {topic}" in ended.told
    assert f"shutterline events replay {ended.record.delivery['spool']}" in ended.told
    ended = a_step(KAFKA_HOST=server, KAFKA_TOPIC=topic, on_status_error="fail", **pubsub)
    assert (ended.code, ended.worked, ended.error_type) == (1, False, "StatusUnavailableError")
    assert message in ended.message
    assert "on_status_error" in ended.message
    assert ended.spooled[3:] == ["started", "failed"]


@pytest.mark.parametrize("on_status_error", ["warn", "fail"])
def test_a_silent_broker_is_waited_for_no_longer_than_the_params_say(
    kafka_broker: KafkaTopics, topic: str, a_step: Step, on_status_error: str
) -> None:
    with Relay(kafka_broker.broker_port) as relay:
        relay.black_hole()
        ended = a_step(KAFKA_HOST=relay.address, KAFKA_TOPIC=topic, TIMEOUT=0.5, on_status_error=on_status_error)
    assert (ended.code, ended.worked) == ((0, True) if on_status_error == "warn" else (1, False))
    assert f"Kafka {relay.address} topic {topic} does not answer within 0.5 s" in ended.told


def test_a_refusal_outweighs_a_silence(
    kafka_broker: KafkaTopics, pubsub: dict[str, Any], monkeypatch: pytest.MonkeyPatch, a_step: Step
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", nobody())
    ended = a_step(KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC="missing", on_status_error="fail", **pubsub)
    assert (ended.code, ended.worked) == (2, False)
    assert "there is no such topic" in ended.message
