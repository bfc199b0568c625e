"""The Pub/Sub peers, as Google's own clients find them."""

from __future__ import annotations

import grpc
import pytest
from google.api_core.exceptions import (
    AlreadyExists,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    RetryError,
    ServiceUnavailable,
)
from google.pubsub_v1 import types

from tests.peers.clients import publish, publish_in_batches
from tests.peers.emulator import PubSubEmulator
from tests.peers.pubsub_server import PubSubServer
from tests.peers.pubsub_topics import ExternalPubSub, Message, PubSubTopics
from tests.peers.tcp import Relay

PROJECT = "test-project"
NUMBERS = tuple(str(number).encode() for number in range(30))


@pytest.fixture(params=["emulator", "server"])
def topics(request: pytest.FixtureRequest) -> PubSubTopics:
    if request.param == "server":
        return ExternalPubSub(request.getfixturevalue("pubsub_server").host)
    found: PubSubTopics = request.getfixturevalue("pubsub_emulator")
    return found


def test_a_keys_messages_come_in_order_and_once(topics: PubSubTopics, topic: str) -> None:
    name = topics.create_topic(PROJECT, topic)
    subscription = topics.create_subscription(PROJECT, topic, name)
    publish_in_batches(topics.host, name, *NUMBERS)
    received = topics.pull_all(subscription, expected=len(NUMBERS))
    assert [message.data for message in received] == list(NUMBERS)
    assert (received[0].ordering_key, received[0].attributes) == ("run", {"kind": "test"})
    assert topics.pull_all(subscription) == []


def test_topics_are_known_until_they_are_deleted(topics: PubSubTopics, topic: str) -> None:
    name = topics.create_topic(PROJECT, topic)
    with pytest.raises(AlreadyExists):
        topics.create_topic(PROJECT, topic)
    topics.delete_topic(name)
    with pytest.raises(NotFound):
        publish(topics.host, name, b"x")


def test_a_killed_emulator_comes_back_empty_on_its_port(own_pubsub_emulator: PubSubEmulator, topic: str) -> None:
    name = own_pubsub_emulator.create_topic(PROJECT, topic)
    host = own_pubsub_emulator.host
    own_pubsub_emulator.kill()
    assert not own_pubsub_emulator.running
    own_pubsub_emulator.start()
    assert own_pubsub_emulator.host == host
    with pytest.raises(NotFound):
        publish(host, name, b"x")


def test_errors_come_as_they_were_asked_for(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    pubsub_server.fail_next("Publish", grpc.StatusCode.UNAVAILABLE, times=2)
    publish(pubsub_server.host, name, b"retried")
    pubsub_server.fail_after_commit_next("Publish", grpc.StatusCode.UNAVAILABLE)
    publish(pubsub_server.host, name, b"twice")
    pubsub_server.fail_always("Publish", grpc.StatusCode.PERMISSION_DENIED, "User not authorized.")
    with pytest.raises(PermissionDenied, match="User not authorized"):
        publish(pubsub_server.host, name, b"x")
    pubsub_server.heal()
    pubsub_server.stop()
    with pytest.raises((ServiceUnavailable, RetryError)):
        publish(pubsub_server.host, name, b"x", timeout=0.5)
    pubsub_server.start()
    assert [message.data for message in pubsub_server.published(name)] == [b"retried", b"twice", b"twice"]
    assert pubsub_server.published(name)[0] == Message(b"retried", {"kind": "test"}, "run", "1")


def test_a_hanging_server_and_relay_answer_once_healed(pubsub_server: PubSubServer, topic: str) -> None:
    name = pubsub_server.create_topic(PROJECT, topic)
    with Relay(pubsub_server.port) as relay:
        for hang, heal in ((pubsub_server.hang, pubsub_server.heal), (relay.black_hole, relay.pass_through)):
            hang()
            with pytest.raises((DeadlineExceeded, ServiceUnavailable, RetryError)):
                publish(relay.address, name, b"x", timeout=0.5)
            heal()
            publish(relay.address, name, b"y")
            assert pubsub_server.published(name)[-1].data == b"y"


def test_a_keys_next_message_waits_for_the_acknowledgement_of_the_one_before() -> None:
    with PubSubServer(ack_deadline=0.3) as server:
        name = server.create_topic(PROJECT, "ordered")
        subscription = server.create_subscription(PROJECT, "ordered", name)
        publish(server.host, name, b"first", b"second")
        request = types.PullRequest(subscription=subscription, max_messages=10)
        with ExternalPubSub(server.host).subscriber() as client:
            for _ in range(2):  # not acknowledged in time, it comes again; and the second still waits
                received = client.pull(request, timeout=20).received_messages
                assert [each.message.data for each in received] == [b"first"]
            acknowledged = types.AcknowledgeRequest(subscription=subscription, ack_ids=[received[0].ack_id])
            client.acknowledge(acknowledged, timeout=20)
            last = client.pull(request, timeout=20).received_messages
            assert [each.message.data for each in last] == [b"second"]
