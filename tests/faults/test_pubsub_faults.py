"""The fault table, Pub/Sub: whatever the service answers, the training is the same and no event is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.faults.training import Happenings, Trained, judged, replayed, trained
from tests.peers.emulator import PubSubEmulator
from tests.peers.pubsub_server import PubSubServer
from tests.peers.tcp import Relay

PROJECT = "vision-1"
UNAVAILABLE, DEADLINE, DENIED, INTERNAL = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INTERNAL,
)

PubSub = Callable[..., Trained]


@pytest.fixture
def server(pubsub_server: PubSubServer, topic: str, monkeypatch: pytest.MonkeyPatch) -> PubSubServer:
    pubsub_server.create_topic(PROJECT, topic)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server.host)
    return pubsub_server


@pytest.fixture
def pubsub(tmp_path: Path, topic: str) -> PubSub:
    """Train with status to the topic."""

    def train_with(happenings: Happenings | None = None) -> Trained:
        return trained(tmp_path, happenings, PUB_SUB_PROJECT=PROJECT, PUB_SUB_TOPIC=topic)

    return train_with


def published(server: PubSubServer, topic: str) -> list[bytes]:
    messages = server.published(f"projects/{PROJECT}/topics/{topic}")
    assert {message.ordering_key for message in messages} == {"run-of-faults"}
    return [message.data for message in messages]


def test_healthy(
    server: PubSubServer, pubsub: PubSub, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = pubsub()
    row = judged("none", "pubsub", done, published(server, topic), without_status, record_property)
    assert (row.at_exit, row.duplicates) == (row.events, 0)


@pytest.mark.parametrize("code", [UNAVAILABLE, DEADLINE, INTERNAL], ids=lambda code: code.name)
def test_errors_that_pass(
    server: PubSubServer,
    pubsub: PubSub,
    topic: str,
    without_status: Trained,
    record_property: Any,
    code: grpc.StatusCode,
) -> None:
    done = pubsub({3: lambda: server.fail_next("Publish", code, 3), 7: lambda: server.fail_next("Publish", code, 2)})
    row = judged(f"{code.name} 5 times", "pubsub", done, published(server, topic), without_status, record_property)
    assert (row.at_exit, row.duplicates) == (row.events, 0)


def test_an_answer_lost_after_the_events_were_taken(
    server: PubSubServer, pubsub: PubSub, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = pubsub({3: lambda: server.fail_after_commit_next("Publish", UNAVAILABLE, 2)})
    row = judged("answer lost twice", "pubsub", done, published(server, topic), without_status, record_property)
    assert row.at_exit == row.events
    assert row.duplicates > 0, "and equal ones"


def test_permission_lost_in_the_middle_and_granted_again(
    server: PubSubServer, pubsub: PubSub, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = pubsub({4: lambda: server.fail_always("Publish", DENIED, "caller lacks pubsub.topics.publish")})
    assert done.record.delivery is not None
    assert "roles/pubsub.publisher" in done.record.delivery["brokers"]["pubsub"]["trouble"]
    server.heal()
    replayed(done)
    judged("PERMISSION_DENIED, granted, replayed", "pubsub", done, published(server, topic), without_status,
           record_property)  # fmt: skip


def test_topic_deleted_in_the_middle(
    server: PubSubServer, pubsub: PubSub, topic: str, without_status: Trained, record_property: Any
) -> None:
    name = f"projects/{PROJECT}/topics/{topic}"
    before: list[bytes] = []

    def delete() -> None:
        before.extend(published(server, topic))
        server.delete_topic(name)

    done = pubsub({4: delete})
    server.create_topic(PROJECT, topic)
    replayed(done)
    after = published(server, topic)
    judged("topic deleted, made again, replayed", "pubsub", done, before + after, without_status, record_property)


def test_black_holed_from_the_start(
    server: PubSubServer, pubsub: PubSub, topic: str, without_status: Trained, record_property: Any
) -> None:
    server.hang()
    done = pubsub()
    server.heal()
    replayed(done)
    row = judged("accepts, never answers, replayed", "pubsub", done, published(server, topic), without_status,
                 record_property)  # fmt: skip
    assert row.at_exit == 0


def test_black_holed_in_the_middle_and_back(
    server: PubSubServer, pubsub: PubSub, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = pubsub({4: server.hang, 9: server.heal})
    replayed(done)
    judged("never answers mid-run, then healed", "pubsub", done, published(server, topic), without_status,
           record_property)  # fmt: skip


def test_round_trips_of_two_seconds(
    server: PubSubServer,
    pubsub: PubSub,
    topic: str,
    without_status: Trained,
    record_property: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Relay(int(server.host.rpartition(":")[2])) as relay:
        relay.delay(1.0)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", relay.address)
        done = pubsub()
        relay.pass_through()
        replayed(done)
    judged("round trips of 2 s, replayed", "pubsub", done, published(server, topic), without_status, record_property)


def test_an_ordering_key_that_other_publishers_have_paused(
    server: PubSubServer, pubsub: PubSub, topic: str, without_status: Trained, record_property: Any
) -> None:
    # What pauses a key in Google's publisher is a failed publish of that key; here the next window simply follows.
    done = pubsub({epoch: lambda: server.fail_next("Publish", INTERNAL) for epoch in (2, 4, 6, 8, 10)})
    row = judged("failed publish of the ordering key, 5 times", "pubsub", done, published(server, topic),
                 without_status, record_property)  # fmt: skip
    assert row.at_exit == row.events


def test_emulator_killed_and_back_with_an_empty_memory(
    own_pubsub_emulator: PubSubEmulator,
    pubsub: PubSub,
    topic: str,
    without_status: Trained,
    record_property: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulator = own_pubsub_emulator
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.host)
    subscription = ""
    received: list[bytes] = []

    def prepare() -> None:
        nonlocal subscription
        name = emulator.create_topic(PROJECT, topic)
        subscription = emulator.create_subscription(PROJECT, f"{topic}-sub", name)

    def taken() -> list[bytes]:
        return [message.data for message in emulator.pull_all(subscription)]

    def restart() -> None:
        received.extend(taken())
        emulator.kill()
        emulator.start()
        prepare()

    prepare()
    done = pubsub({5: restart})
    replayed(done)
    received += taken()
    judged("emulator killed -9 and back", "pubsub", done, received, without_status, record_property)
