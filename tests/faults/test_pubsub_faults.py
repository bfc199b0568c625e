"""The fault table, Pub/Sub: whatever the service answers, the training is the same and no event is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.faults.training import Row, Trained, judged, once_epoch_arrived, replayed, trained
from tests.peers.emulator import PubSubEmulator
from tests.peers.pubsub_server import PubSubServer
from tests.peers.tcp import Relay

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together

PROJECT = "vision-1"
CODES = grpc.StatusCode


@pytest.fixture
def server(pubsub_server: PubSubServer, topic: str, monkeypatch: pytest.MonkeyPatch) -> PubSubServer:
    pubsub_server.create_topic(PROJECT, topic)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server.host)
    return pubsub_server


PubSub = Callable[..., Trained]
Judge = Callable[..., Row]


@pytest.fixture
def pubsub(tmp_path: Path, topic: str) -> PubSub:
    """Train with status to the topic."""
    return lambda happenings=None: trained(tmp_path, happenings, PUB_SUB_PROJECT=PROJECT, PUB_SUB_TOPIC=topic)


@pytest.fixture
def judge(without_status: Trained, record_property: Any) -> Judge:
    """Hold a training and what was received of it against the training without status."""
    return lambda fault, done, received: judged(fault, "pubsub", done, received, without_status, record_property)


def published(server: PubSubServer, topic: str) -> list[bytes]:
    messages = server.published(f"projects/{PROJECT}/topics/{topic}")
    assert {message.ordering_key for message in messages} <= {"run-of-faults"}
    return [message.data for message in messages]


@pytest.mark.parametrize("code", [None, CODES.UNAVAILABLE, CODES.DEADLINE_EXCEEDED, CODES.INTERNAL], ids=str)
def test_errors_that_pass_cost_nothing(
    server: PubSubServer, pubsub: PubSub, topic: str, judge: Judge, code: grpc.StatusCode | None
) -> None:
    def fail() -> None:
        if code is not None:
            server.fail_next("Publish", code, 2)

    done = pubsub(dict.fromkeys((2, 3, 4, 7), fail))
    row = judge(f"{code.name} 8 times" if code else "none", done, published(server, topic))
    assert (row.at_exit, row.duplicates) == (row.events, 0)


def test_an_answer_lost_after_the_events_were_taken(
    server: PubSubServer, pubsub: PubSub, topic: str, judge: Judge
) -> None:
    done = pubsub({3: lambda: server.fail_after_commit_next("Publish", CODES.UNAVAILABLE, 2)})
    row = judge("answer lost twice", done, published(server, topic))
    assert row.at_exit == row.events
    assert row.duplicates > 0, "and equal ones"


def test_permission_lost_in_the_middle_and_granted_again(
    server: PubSubServer, pubsub: PubSub, topic: str, judge: Judge
) -> None:
    denied = "caller lacks pubsub.topics.publish"
    done = pubsub({4: lambda: server.fail_always("Publish", CODES.PERMISSION_DENIED, denied)})
    assert done.record.delivery is not None
    assert "roles/pubsub.publisher" in done.record.delivery["brokers"]["pubsub"]["trouble"]
    server.heal()
    replayed(done)
    judge("PERMISSION_DENIED, granted, replayed", done, published(server, topic))


def test_topic_deleted_in_the_middle(server: PubSubServer, pubsub: PubSub, topic: str, judge: Judge) -> None:
    before: list[bytes] = []

    def delete() -> None:
        before.extend(once_epoch_arrived(4, lambda: published(server, topic)))
        server.delete_topic(f"projects/{PROJECT}/topics/{topic}")

    done = pubsub({4: delete})
    server.create_topic(PROJECT, topic)
    replayed(done)
    judge("topic deleted, made again, replayed", done, before + published(server, topic))


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_service_that_never_answers(
    server: PubSubServer, pubsub: PubSub, topic: str, judge: Judge, from_the_start: bool
) -> None:
    if from_the_start:
        server.hang()
    done = pubsub({} if from_the_start else {4: server.hang, 9: server.heal})
    server.heal()
    replayed(done)
    row = judge("never answers, replayed", done, published(server, topic))
    assert not from_the_start or row.at_exit == 0


def test_round_trips_of_two_seconds(
    server: PubSubServer, pubsub: PubSub, topic: str, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Relay(server.port) as relay:
        relay.delay(1.0)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", relay.address)
        done = pubsub()
        relay.pass_through()
        replayed(done)
    judge("round trips of 2 s, replayed", done, published(server, topic))


def test_emulator_killed_and_back_with_an_empty_memory(
    own_pubsub_emulator: PubSubEmulator, pubsub: PubSub, topic: str, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = own_pubsub_emulator
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.host)
    subscription = f"projects/{PROJECT}/subscriptions/{topic}-sub"
    received: list[bytes] = []

    def prepare() -> None:
        name = emulator.create_topic(PROJECT, topic)
        emulator.create_subscription(PROJECT, f"{topic}-sub", name)

    def take() -> list[bytes]:
        received.extend(message.data for message in emulator.pull_all(subscription))
        return received

    def restart() -> None:
        once_epoch_arrived(5, take)  # what the emulator has would be gone with it
        emulator.kill()
        emulator.start()
        prepare()

    prepare()
    done = pubsub({5: restart})
    replayed(done)
    missing = len(set(done.spooled) - set(received))
    received += [message.data for message in emulator.pull_all(subscription, expected=missing)]
    judge("emulator killed -9 and back", done, received)
