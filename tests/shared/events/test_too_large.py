"""An event that a broker refuses for its size is set aside, and in the way of no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from components.shared.events.data import Checkpoint, Succeeded
from components.shared.events.delivery import Delivery, DeliveryControl
from components.shared.events.event import EncodedEvent
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.events.pubsub.publisher import PubSubTransport
from components.shared.events.replay import Replayed, find_spools, replay
from components.shared.events.spool import WINDOW_EVENTS, Spool, ledger_of
from components.shared.events.transport import (
    DeliveryError,
    RefusedError,
    RetryableError,
    TimeLeft,
    TooLargeError,
    Transport,
)
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.mock_kafka import PRODUCE, MockCluster
from tests.peers.pubsub_server import PubSubServer
from tests.shared.events.transports import (
    LOG,
    PATIENCE_S,
    Act,
    ScriptedTransport,
    TakesAndFails,
    left_spool,
    lines_of,
    opened,
    stream_to,
)

MESSAGE_TOO_LARGE = 10
LIMIT = 4_000  # bytes; an ordinary event has some 800, as a record with its headers 1,300


class Limited(ScriptedTransport):
    """Takes no event that is larger than a limit."""

    def __init__(self, name: str = "kafka", acts: Sequence[Act] = (), *, limit: int = LIMIT) -> None:
        super().__init__(name, acts)
        self.limit = limit

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> None:
        fitting = next((index for index, event in enumerate(events) if len(event.body) > self.limit), len(events))
        if fitting:
            try:
                super().send(events[:fitting], time_left)
            except DeliveryError as error:
                error.delivered = min(error.delivered, fitting)
                raise
        if fitting < len(events):
            raise TooLargeError(f"{self.address}: {len(events[fitting].body):,} bytes are too many", fitting)


def lines_with(large: Sequence[bool], step: str = "train") -> list[bytes]:
    """Lines of a spool, some of which are above the limit."""
    lines = []
    for line, is_large in zip(lines_of(len(large), step=step), large, strict=True):
        document = json.loads(line)
        if is_large:
            document["data"]["device"] = "x" * 2 * LIMIT
        lines.append(json.dumps(document).encode() + b"\n")
    return lines


def ids_of(bodies: Sequence[bytes]) -> list[str]:
    return [json.loads(body)["id"] for body in bodies]


def deliver(spool: Spool, transport: Transport, *, retry_set_aside: bool = False) -> Delivery:
    """Deliver a spool to a broker, as a step does, or as a replay does."""
    control = DeliveryControl()
    control.notify(is_complete=True)
    one = Delivery(transport, [spool], control, LOG, retry_set_aside=retry_set_aside)
    one.run()
    return one


TROUBLE = st.one_of(
    st.builds(RetryableError, st.just("not now"), st.integers(0, 3)),
    st.builds(RefusedError, st.just("no"), st.integers(0, 3)),
    st.builds(RuntimeError, st.just("a defect of the client")),
)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.lists(TROUBLE, max_size=6), st.booleans())
def test_every_event_that_fits_comes_once_and_in_order_and_no_other_is_lost(
    tmp_path_factory: pytest.TempPathFactory, large: list[bool], acts: list[Act], is_raised: bool
) -> None:
    lines = lines_with(large)
    spool = opened(left_spool(tmp_path_factory.mktemp("spool"), lines, "kafka"))
    transport = Limited(acts=acts)
    one = deliver(spool, transport)

    aside = [number for number, is_large in enumerate(large) if is_large]
    assert transport.ids == [f"run-1/train/0/{number}" for number, is_large in enumerate(large) if not is_large]
    assert (spool.undelivered("kafka"), spool.set_aside("kafka")) == (len(aside), aside)
    assert (one.reason(spool) is None) is not any(large)

    # Nothing is tried again by the next step; a replay does, and delivers what the limit now allows.
    windows = len(transport.windows)
    deliver(spool, transport)
    assert len(transport.windows) == windows
    transport.limit = 10 * LIMIT if is_raised else LIMIT
    deliver(spool, transport, retry_set_aside=True)
    assert sorted(transport.ids, key=lambda name: int(name.rpartition("/")[2])) == ids_of(
        [line for line, is_large in zip(lines, large, strict=True) if is_raised or not is_large]
    )
    assert spool.undelivered("kafka") == (0 if is_raised else len(aside))
    assert spool.targets["kafka"].keys() == {"topic", "delivered"} | (
        {"set_aside", "why"} if aside and not is_raised else set()
    )
    spool.close()


def test_the_first_of_them_is_logged_and_the_report_counts_them_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limited, other = Limited("kafka", limit=800), ScriptedTransport("pubsub")
    stream = stream_to(tmp_path, limited, other)
    for epoch in range(9):
        stream.emit(Checkpoint(epoch, 9, "/c" * (400 if epoch in (0, 5, 7) else 1)))
    # The very first event is too large, which is no reason to end a step.
    answers = stream.first_answers(PATIENCE_S)
    stream.emit(Succeeded(1.0))
    report = stream.close(PATIENCE_S)

    assert list(answers.values()) == [None, None]
    assert limited.ids == [f"run-1/train/0/{number}" for number in (1, 2, 3, 4, 6, 8, 9)]
    (kafka, pubsub) = report.brokers.values()
    assert (kafka.delivered, kafka.undelivered, kafka.set_aside) == (7, 3, 3)
    assert kafka.trouble is not None
    assert kafka.trouble.startswith("3 set aside: kafka in memory: 1,")
    assert (pubsub.undelivered, pubsub.set_aside, pubsub.trouble) == (0, 0, None)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("run-1/train/0/0: kafka in memory: 1,")
    assert warning.endswith("bytes are too many; it stays in the spool, and other events are delivered")


def test_both_reasons_are_reported_where_there_are_two(tmp_path: Path) -> None:
    spool = opened(left_spool(tmp_path, lines_with([True, False, False]), "kafka"))
    control = DeliveryControl()
    control.notify(is_complete=True)

    def go_away() -> None:
        control.end_within(0)
        raise RetryableError("kafka: is away")

    one = Delivery(Limited(acts=[go_away]), [spool], control, LOG)
    one.run()
    assert spool.undelivered("kafka") == 3
    reason = one.reason(spool)
    assert reason is not None
    assert reason.startswith("1 set aside: kafka in memory: 8,")
    assert reason.endswith("bytes are too many; kafka: is away")
    spool.close()


def replayed(path: Path, transport: Transport, **more: Any) -> list[Replayed]:
    found = find_spools([path], path.parent / "scratch", LOG)
    return replay(found, lambda name, target: transport, timeout_s=PATIENCE_S, log=LOG, **more)


def test_a_replay_delivers_the_rest_and_later_what_was_set_aside(tmp_path: Path) -> None:
    path = left_spool(tmp_path, lines_with([False, True, False, True, True]), "kafka")
    name = "kafka in memory"
    (first,) = replayed(path, before := Limited())
    assert before.ids == [f"run-1/train/0/{number}" for number in (0, 2)]
    assert (first.delivered, first.undelivered, first.set_aside) == (2, 3, 3)
    assert (first.trouble or "").startswith(f"3 set aside: {name}: 8,")

    # The same topic, by its name in params.
    same = {"kafka": {"topic": "status"}}
    (second,) = replayed(path, again := Limited(acts=[RetryableError("not now"), TakesAndFails(1)], limit=99_999),
                         targets=same)  # fmt: skip
    assert list(dict.fromkeys(again.ids)) == [f"run-1/train/0/{number}" for number in (1, 3, 4)]
    assert second == Replayed(str(path), "kafka", name, 3, 0, None)
    # Another topic has nothing of it.
    (third,) = replayed(path, Limited(limit=99_999), targets={"kafka": {"topic": "other"}})
    assert third == Replayed(str(path), "kafka", name, 5, 0, None)


def test_a_ledger_with_many_of_them_is_read_whole(tmp_path: Path) -> None:
    count = 20_000
    path = left_spool(tmp_path, [b"x\n"] * count, "kafka")
    target = {"topic": "status", "delivered": 2 * count, "set_aside": list(range(0, 2 * count, 2)), "why": "large"}
    ledger_of(path).write_text(json.dumps({"schema_version": 1, "targets": {"kafka": target}}))
    spool = opened(path)
    assert spool.undelivered("kafka") == count
    spool.close()


# Real brokers.


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
            f"Kafka {kafka_broker.bootstrap} topic {topic}: an event of 9,",
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


@pytest.fixture(params=["kafka", "pubsub"])
def limited(request: pytest.FixtureRequest) -> Topic:
    found: Topic = request.getfixturevalue(f"{request.param}_topic")
    return found


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
    tmp_path: Path, limited: Topic, large: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    lines = lines_with(large)
    fitting = [line.rstrip(b"\n") for line, is_large in zip(lines, large, strict=True) if not is_large]
    transport = limited.transport()
    path = left_spool(tmp_path, lines, transport.name)

    (first,) = replayed(path, transport)
    assert limited.bodies() == fitting
    assert (first.delivered, first.undelivered, first.set_aside) == (len(fitting), sum(large), sum(large))
    if any(large):
        assert limited.reason in str(first.trouble)
        assert "4,000" in str(first.trouble) or "4000" in str(first.trouble)
        (warning,) = [record.getMessage() for record in caplog.records if record.name == LOG.name]
        assert limited.reason in warning

    limited.raise_limit()
    (second,) = replayed(path, limited.transport())
    assert (second.delivered, second.undelivered, second.trouble) == (sum(large), 0, None)
    assert sorted(limited.bodies()) == sorted(line.rstrip(b"\n") for line in lines)


def test_a_limit_that_nobody_says_is_left_out(
    tmp_path: Path, mock_cluster: MockCluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_API_VERSION", "2.3")
    mock_cluster.create_topic(topic)
    mock_cluster.push_errors(PRODUCE, MESSAGE_TOO_LARGE)
    path = left_spool(tmp_path, lines_of(1), "kafka")
    (done,) = replayed(path, KafkaTransport(mock_cluster.bootstrap.split(","), topic))
    assert (done.undelivered, done.set_aside) == (1, 1)
    assert (done.trouble or "").endswith("bytes is above its max.message.bytes")


def test_an_event_that_is_above_the_clients_own_limit_is_in_nobodys_way(
    tmp_path: Path, kafka_broker: KafkaTopics, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.shared.events.kafka.publisher._REQUEST_BYTES", LIMIT)
    kafka_broker.create_topic(topic)
    large = [False, False, True, False]
    path = left_spool(tmp_path, lines_with(large), "kafka")
    (done,) = replayed(path, KafkaTransport([kafka_broker.bootstrap], topic))
    assert (done.delivered, done.set_aside) == (3, 1)
    assert ids_of([record.value for record in kafka_broker.records(topic)]) == [
        f"run-1/train/0/{number}" for number in (0, 1, 3)
    ]
