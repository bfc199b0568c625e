"""The Pub/Sub peers do what they say, by the word of Google's own clients."""

from __future__ import annotations

import threading

import grpc
import pytest
from google.api_core.exceptions import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RetryError,
    ServiceUnavailable,
)
from google.cloud.pubsub_v1 import SubscriberClient  # type: ignore[import-untyped] # publishes no types
from google.cloud.pubsub_v1.subscriber.message import Message as Received  # type: ignore[import-untyped] # the same
from google.pubsub_v1 import types
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tests.peers.clients import publish, publish_in_batches
from tests.peers.emulator import PubSubEmulator
from tests.peers.pubsub_server import PubSubServer
from tests.peers.pubsub_topics import ExternalPubSub, Message, PubSubTopics
from tests.peers.tcp import Relay
from tests.peers.tls import Certificates, tls_relay

PROJECT = "test-project"
NUMBERS = tuple(str(number).encode() for number in range(30))


def test_the_emulator_keeps_a_keys_order(pubsub_emulator: PubSubTopics, topic: str) -> None:
    name = pubsub_emulator.create_topic(PROJECT, topic)
    subscription = pubsub_emulator.create_subscription(PROJECT, topic, name)
    publish_in_batches(pubsub_emulator.host, name, *NUMBERS)
    received = pubsub_emulator.pull_all(subscription, expected=len(NUMBERS))
    assert [message.data for message in received] == list(NUMBERS)
    assert {message.ordering_key for message in received} == {"run"}
    assert received[0].attributes == {"kind": "test"}
    assert pubsub_emulator.pull_all(subscription) == []


def test_the_emulator_knows_which_topics_exist(pubsub_emulator: PubSubTopics, topic: str) -> None:
    name = pubsub_emulator.create_topic(PROJECT, topic)
    with pytest.raises(AlreadyExists):
        pubsub_emulator.create_topic(PROJECT, topic)
    pubsub_emulator.delete_topic(name)
    with pytest.raises(NotFound):
        publish(pubsub_emulator.host, name, b"x")


def test_a_killed_emulator_comes_back_empty_on_its_port(own_pubsub_emulator: PubSubEmulator, topic: str) -> None:
    name = own_pubsub_emulator.create_topic(PROJECT, topic)
    publish(own_pubsub_emulator.host, name, b"lost")
    host = own_pubsub_emulator.host
    own_pubsub_emulator.kill()
    assert not own_pubsub_emulator.running
    own_pubsub_emulator.start()
    assert own_pubsub_emulator.host == host
    with pytest.raises(NotFound):
        publish(host, name, b"x")


def test_a_stopped_emulator_has_ended(own_pubsub_emulator: PubSubEmulator) -> None:
    own_pubsub_emulator.stop()
    assert not own_pubsub_emulator.running


def test_the_server_serves_the_official_clients_in_order(pubsub_server: PubSubServer, topic: str) -> None:
    clients = ExternalPubSub(pubsub_server.host)
    name = clients.create_topic(PROJECT, topic)
    subscription = clients.create_subscription(PROJECT, topic, name)
    publish_in_batches(pubsub_server.host, name, *NUMBERS)
    assert clients.pull_all(subscription, expected=len(NUMBERS)) == pubsub_server.published(name)
    assert [message.data for message in pubsub_server.published(name)] == list(NUMBERS)
    assert pubsub_server.published(name)[0] == Message(b"0", {"kind": "test"}, "run", "1")
    assert 1 <= pubsub_server.requests["Publish"] <= len(NUMBERS)


def test_a_streaming_subscriber_gets_everything_once(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    subscription = pubsub_server.create_subscription(PROJECT, topic, name)
    received: list[bytes] = []
    complete = threading.Event()

    def take(message: Received) -> None:
        received.append(message.data)
        message.ack()
        if len(received) == len(NUMBERS):
            complete.set()

    channel = grpc.insecure_channel(pubsub_server.host)
    subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
    with subscriber, channel:
        stream = subscriber.subscribe(subscription, callback=take, await_callbacks_on_shutdown=True)
        publish(pubsub_server.host, name, *NUMBERS)
        assert complete.wait(timeout=30)
        stream.cancel()
        stream.result(timeout=30)
    assert received == list(NUMBERS)


def test_unknown_and_wrong_requests_are_refused_in_the_services_words(pubsub_server: PubSubServer, topic: str) -> None:
    clients = ExternalPubSub(pubsub_server.host)
    with pytest.raises(NotFound, match=r"404 Resource not found \(resource=gone\)\."):
        publish(pubsub_server.host, f"projects/{PROJECT}/topics/gone", b"x")
    name = clients.create_topic(PROJECT, topic)
    with pytest.raises(AlreadyExists, match="Resource already exists in the project"):
        clients.create_topic(PROJECT, topic)
    with clients._publisher() as publisher, pytest.raises(InvalidArgument, match="is empty"):
        publisher.publish(types.PublishRequest(topic=name, messages=[types.PubsubMessage()]), timeout=20)
    clients.delete_topic(name)
    with pytest.raises(NotFound):
        publish(pubsub_server.host, name, b"x")


def test_an_error_that_passes_is_retried_by_the_client(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    pubsub_server.fail_next("Publish", grpc.StatusCode.UNAVAILABLE, times=2)
    publish(pubsub_server.host, name, b"x")
    assert [message.data for message in pubsub_server.published(name)] == [b"x"]
    assert pubsub_server.requests["Publish"] == 3


def test_an_error_that_stays_reaches_the_caller_until_healed(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    pubsub_server.fail_always("Publish", grpc.StatusCode.PERMISSION_DENIED, "User not authorized.")
    with pytest.raises(PermissionDenied, match="User not authorized"):
        publish(pubsub_server.host, name, b"x")
    assert pubsub_server.published(name) == []
    pubsub_server.heal()
    publish(pubsub_server.host, name, b"x")
    assert len(pubsub_server.published(name)) == 1


def test_an_answer_that_is_lost_makes_a_duplicate(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    pubsub_server.fail_after_commit_next("Publish", grpc.StatusCode.UNAVAILABLE)
    publish(pubsub_server.host, name, b"twice")
    assert [message.data for message in pubsub_server.published(name)] == [b"twice", b"twice"]


def test_a_hanging_server_answers_once_healed(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    pubsub_server.hang()
    with pytest.raises((DeadlineExceeded, ServiceUnavailable, RetryError)):
        publish(pubsub_server.host, name, b"x", timeout=0.5)
    pubsub_server.heal()
    publish(pubsub_server.host, name, b"y")
    assert pubsub_server.published(name)[-1].data == b"y"


def test_a_slow_server_answers_later(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    pubsub_server.delay(0.5)
    with ExternalPubSub(pubsub_server.host)._publisher() as publisher:
        with pytest.raises(DeadlineExceeded):
            publisher.get_topic(types.GetTopicRequest(topic=name), timeout=0.2, retry=None)
        assert publisher.get_topic(types.GetTopicRequest(topic=name), timeout=20).name == name


def test_a_stopped_server_comes_back_with_its_messages(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    publish(pubsub_server.host, name, b"kept")
    pubsub_server.stop()
    with ExternalPubSub(pubsub_server.host)._publisher() as publisher, pytest.raises(ServiceUnavailable):
        publisher.get_topic(types.GetTopicRequest(topic=name), timeout=20, retry=None)
    pubsub_server.start()
    publish(pubsub_server.host, name, b"more")
    assert [message.data for message in pubsub_server.published(name)] == [b"kept", b"more"]


def test_a_keys_next_message_waits_for_the_acknowledgement_of_the_one_before() -> None:
    with PubSubServer(ack_deadline=0.3) as server:
        name = server.create_topic(PROJECT, "ordered")
        subscription = server.create_subscription(PROJECT, "ordered", name)
        publish(server.host, name, b"first", b"second")
        request = types.PullRequest(subscription=subscription, max_messages=10)
        with ExternalPubSub(server.host)._subscriber() as client:
            once = client.pull(request, timeout=20).received_messages
            assert [each.message.data for each in once] == [b"first"]
            # Not acknowledged in time, it comes again; and the second still waits.
            again = client.pull(request, timeout=20).received_messages
            assert [each.message.data for each in again] == [b"first"]
            acknowledged = types.AcknowledgeRequest(subscription=subscription, ack_ids=[again[0].ack_id])
            client.acknowledge(acknowledged, timeout=20)
            last = client.pull(request, timeout=20).received_messages
            assert [each.message.data for each in last] == [b"second"]


def test_grpc_goes_through_a_relay_and_its_failures(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    with Relay(pubsub_server.port) as relay:
        publish(relay.address, name, b"through")
        assert relay.connections == 1
        relay.black_hole()
        with pytest.raises((DeadlineExceeded, ServiceUnavailable, RetryError)):
            publish(relay.address, name, b"swallowed", timeout=0.5)
        relay.refuse()
        with pytest.raises((ServiceUnavailable, RetryError)):
            publish(relay.address, name, b"refused", timeout=0.5)
        relay.pass_through()
        publish(relay.address, name, b"again")
    assert pubsub_server.published(name)[-1].data == b"again"


def test_grpc_goes_through_tls(pubsub_server: PubSubServer, topic: str, certificates: Certificates) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    with tls_relay(pubsub_server.port, certificates, kafka=False) as relay:
        trust = grpc.ssl_channel_credentials(root_certificates=certificates.ca_file.read_bytes())
        publish(relay.address, name, b"x", channel=grpc.secure_channel(relay.address, trust))
    assert len(pubsub_server.published(name)) == 1
