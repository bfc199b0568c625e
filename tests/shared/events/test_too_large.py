"""An event that a real broker refuses for its size is in no other's way, and delivered once it is taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from components.shared.events.delivery import Transport
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.events.pubsub.publisher import PubSubTransport
from components.shared.events.replay import Replayed, find_spools, replay
from components.shared.events.spool import WINDOW_EVENTS
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.pubsub_server import PubSubServer
from tests.shared.events.transports import LOG, WAIT_S, left_spool, lines_of

LIMIT = 4_000  # bytes; an ordinary event has some 800, as a record with its headers 1,300


def lines_with(large: Sequence[bool]) -> list[bytes]:
    """Lines of a spool, some of which are above the limit."""
    lines = lines_of(len(large))
    for number, is_large in enumerate(large):
        if is_large:
            document = json.loads(lines[number])
            document["data"]["device"] = "x" * 2 * LIMIT
            lines[number] = json.dumps(document).encode() + b"\n"
    return lines


def replayed(path: Path, transport: Transport) -> Replayed:
    (done,) = replay(find_spools([path], path.parent, LOG), lambda *_: transport, timeout_s=WAIT_S, log=LOG)
    return done


@dataclass
class Topic:
    """A topic of a real broker that takes events of up to LIMIT bytes, and what a test does with it."""

    transport: Callable[[], Transport]
    bodies: Callable[[], list[bytes]]
    raise_limit: Callable[[], object]
    reason: str


@pytest.fixture
def kafka_topic(kafka_broker: KafkaTopics, topic: str) -> Iterator[Topic]:
    kafka_broker.create_topic(topic)
    with closing(KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)) as admin:

        def limit(size: int) -> None:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(size)})])

        limit(LIMIT)
        yield Topic(
            lambda: KafkaTransport([kafka_broker.bootstrap], topic),
            lambda: [record.value for record in kafka_broker.records(topic)],
            lambda: limit(100_000),
            f"Kafka {kafka_broker.bootstrap} topic {topic}: an event of 8,",
        )


@pytest.fixture
def pubsub_topic(pubsub_server: PubSubServer, topic: str, monkeypatch: pytest.MonkeyPatch) -> Topic:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server.host)
    name = pubsub_server.create_topic("project", topic)
    pubsub_server.broker.largest_request = LIMIT

    def raise_limit() -> None:
        pubsub_server.broker.largest_request = 10_000_000

    return Topic(
        lambda: PubSubTransport(name),
        lambda: [message.data for message in pubsub_server.published(name)],
        raise_limit,
        f"Pub/Sub {name}: an event of 9,",
    )


@pytest.mark.parametrize("broker", ["kafka", "pubsub"])
@pytest.mark.parametrize(
    "large",
    [
        pytest.param([False] * 12, id="a window that is larger than the limit, of events that fit"),
        pytest.param([True], id="alone"),
        pytest.param([index in (0, 5, 6, 19) for index in range(20)], id="here and there"),
        pytest.param([index == WINDOW_EVENTS - 1 for index in range(WINDOW_EVENTS + 3)], id="at the end of a window"),
    ],
)
def test_a_real_broker_takes_all_that_fit_in_order_and_the_others_once_they_do(
    tmp_path: Path, request: pytest.FixtureRequest, broker: str, large: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    topic: Topic = request.getfixturevalue(f"{broker}_topic")
    lines = lines_with(large)
    fitting = [line.rstrip(b"\n") for line, is_large in zip(lines, large, strict=True) if not is_large]
    path = left_spool(tmp_path, lines, broker)
    first = replayed(path, topic.transport())
    assert topic.bodies() == fitting
    assert (first.delivered, first.undelivered, first.too_large) == (len(fitting), sum(large), sum(large))
    if any(large):
        assert topic.reason in str(first.trouble)
        (warning,) = [record.getMessage() for record in caplog.records if record.name == LOG.name]
        assert topic.reason in warning
    topic.raise_limit()
    second = replayed(path, topic.transport())
    assert (second.delivered, second.undelivered, second.trouble) == (sum(large), 0, None)
    assert set(topic.bodies()) == {line.rstrip(b"\n") for line in lines}


def test_an_event_that_is_above_the_clients_own_limit_is_in_nobodys_way(
    tmp_path: Path, kafka_broker: KafkaTopics, topic: str
) -> None:
    kafka_broker.create_topic(topic)
    lines = lines_with([False, False, True, False])
    path = left_spool(tmp_path, lines, "kafka")
    done = replayed(path, KafkaTransport([kafka_broker.bootstrap], topic, request_bytes=LIMIT))
    assert (done.delivered, done.too_large) == (3, 1)
    assert [record.value + b"\n" for record in kafka_broker.records(topic)] == [lines[0], lines[1], lines[3]]
