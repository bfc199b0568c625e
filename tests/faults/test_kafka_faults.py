"""The fault table, Kafka: whatever happens to the broker, the training is the same and no event is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.training import Happenings, Trained, judged, replayed, trained
from tests.peers.mock_kafka import MockCluster
from tests.peers.noida import DurableKafkaBroker

PRODUCE = 0  # the request's number in Kafka's protocol
NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT, NOT_LEADER = 19, 7, 6
TOPIC_AUTHORIZATION_FAILED, INVALID_RECORD = 29, 87

Kafka = Callable[..., Trained]


@pytest.fixture
def broker(own_kafka_broker: DurableKafkaBroker, topic: str) -> DurableKafkaBroker:
    own_kafka_broker.create_topic(topic)
    return own_kafka_broker


@pytest.fixture
def kafka(tmp_path: Path, own_kafka_broker: DurableKafkaBroker, topic: str) -> Kafka:
    """Train with status to the broker."""

    def train_with(happenings: Happenings | None = None) -> Trained:
        return trained(tmp_path, happenings, KAFKA_HOST=own_kafka_broker.bootstrap, KAFKA_TOPIC=topic)

    return train_with


def values(broker: Any, topic: str) -> list[bytes]:
    return [record.value for record in broker.records(topic)]


def test_healthy(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = kafka()
    row = judged("none", "kafka", done, values(broker, topic), without_status, record_property)
    assert (row.at_exit, row.duplicates) == (row.events, 0)


def test_down_at_start_and_back(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    broker.kill()
    done = kafka({4: broker.start})
    row = judged("down at start, then up", "kafka", done, values(broker, topic), without_status, record_property)
    assert row.at_exit == row.events


def test_down_in_the_middle_and_back(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = kafka({4: broker.kill, 8: broker.start})
    row = judged("down mid-run and back", "kafka", done, values(broker, topic), without_status, record_property)
    assert row.at_exit == row.events


def test_down_to_the_end_and_replayed(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = kafka({4: broker.kill})
    assert done.undelivered("kafka") > 0
    assert done.record.delivery is not None
    assert done.record.delivery["spool"] == str(done.spool)
    broker.start()
    (result,) = replayed(done)
    assert (result.delivered, result.undelivered) == (done.undelivered("kafka"), 0)
    judged("down to the end, replayed", "kafka", done, values(broker, topic), without_status, record_property)


def test_black_holed_from_the_start(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    broker.relay.black_hole()
    done = kafka()
    broker.relay.pass_through()
    replayed(done)
    row = judged("black hole, replayed", "kafka", done, values(broker, topic), without_status, record_property)
    assert row.at_exit == 0


def test_black_holed_in_the_middle_and_back(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    done = kafka({4: broker.relay.black_hole, 9: broker.relay.pass_through})
    replayed(done)
    judged("black hole mid-run, then healed", "kafka", done, values(broker, topic), without_status, record_property)


def test_round_trips_of_two_seconds(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    broker.relay.delay(1.0)
    done = kafka()
    broker.relay.pass_through()
    replayed(done)
    judged("round trips of 2 s, replayed", "kafka", done, values(broker, topic), without_status, record_property)


def test_restarted_after_kill_9(
    broker: DurableKafkaBroker, kafka: Kafka, topic: str, without_status: Trained, record_property: Any
) -> None:
    def restart() -> None:
        broker.kill()
        broker.start()

    done = kafka({3: restart, 6: restart, 9: restart})
    row = judged("restarted with kill -9, 3 times", "kafka", done, values(broker, topic), without_status,
                 record_property)  # fmt: skip
    assert row.at_exit == row.events


def test_topic_deleted_in_the_middle(
    tmp_path: Path, topic: str, without_status: Trained, record_property: Any, leaky_kafka_client: None
) -> None:
    with DurableKafkaBroker(auto_create=False) as broker:
        broker.create_topic(topic)
        before: list[bytes] = []

        def delete() -> None:
            time.sleep(0.5)  # what was emitted so far is delivered, and would be gone with the topic
            before.extend(values(broker, topic))
            broker.delete_topic(topic)

        done = trained(tmp_path, {4: delete}, KAFKA_HOST=broker.bootstrap, KAFKA_TOPIC=topic)
        assert done.undelivered("kafka") == len(done.spooled) - len(before)
        broker.create_topic(topic)
        replayed(done)
        received = before + values(broker, topic)
    judged("topic deleted, made again, replayed", "kafka", done, received, without_status, record_property)


@pytest.fixture
def cluster(topic: str, monkeypatch: pytest.MonkeyPatch, leaky_kafka_client: None) -> Iterator[MockCluster]:
    monkeypatch.setenv("KAFKA_API_VERSION", "2.3")
    with MockCluster() as cluster:
        cluster.create_topic(topic, 1, 3)
        yield cluster


def test_another_leader(
    tmp_path: Path, cluster: MockCluster, topic: str, without_status: Trained, record_property: Any
) -> None:
    moves: Happenings = {
        epoch: lambda broker=epoch % 3 + 1: cluster.set_leader(topic, 0, broker)  # type: ignore[misc]
        for epoch in (3, 5, 7)
    }
    done = trained(tmp_path, moves, KAFKA_HOST=cluster.bootstrap, KAFKA_TOPIC=topic)
    replayed(done)
    judged("leader changed 3 times", "kafka", done, values(cluster, topic), without_status, record_property)


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("retriable produce errors", (NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT, NOT_LEADER, NOT_ENOUGH_REPLICAS)),
        ("fatal produce errors", (TOPIC_AUTHORIZATION_FAILED, INVALID_RECORD, TOPIC_AUTHORIZATION_FAILED)),
    ],
)
def test_errors_of_produce_requests(
    tmp_path: Path,
    cluster: MockCluster,
    topic: str,
    without_status: Trained,
    record_property: Any,
    name: str,
    codes: tuple[int, ...],
) -> None:
    done = trained(
        tmp_path, {4: lambda: cluster.push_errors(PRODUCE, *codes)}, KAFKA_HOST=cluster.bootstrap, KAFKA_TOPIC=topic
    )
    replayed(done)
    judged(name, "kafka", done, values(cluster, topic), without_status, record_property)
