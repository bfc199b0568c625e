"""The fault table, Kafka: whatever happens to the broker, the training is the same and no event is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.training import Happenings, Row, Trained, judged, once_epoch_arrived, replayed, trained
from tests.peers.mock_kafka import PRODUCE, MockCluster
from tests.peers.noida import DurableKafkaBroker

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together

NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT, NOT_LEADER = 19, 7, 6
TOPIC_AUTHORIZATION_FAILED, INVALID_RECORD = 29, 87


@pytest.fixture
def broker(own_kafka_broker: DurableKafkaBroker, topic: str) -> DurableKafkaBroker:
    own_kafka_broker.create_topic(topic)
    return own_kafka_broker


Kafka = Callable[..., Trained]
Judge = Callable[..., Row]


@pytest.fixture
def kafka(tmp_path: Path, own_kafka_broker: DurableKafkaBroker, topic: str) -> Kafka:
    """Train with status to the broker."""
    return lambda happenings=None: trained(
        tmp_path, happenings, KAFKA_HOST=own_kafka_broker.bootstrap, KAFKA_TOPIC=topic
    )


@pytest.fixture
def judge(topic: str, without_status: Trained, record_property: Any) -> Judge:
    """Hold a training and what its topic has against the training without status."""
    return lambda fault, done, broker, before=(): judged(
        fault, "kafka", done, [*before, *broker.values(topic)], without_status, record_property
    )


def test_healthy(broker: DurableKafkaBroker, kafka: Kafka, judge: Judge) -> None:
    row = judge("none", kafka(), broker)
    assert (row.at_exit, row.duplicates) == (row.events, 0)


@pytest.mark.parametrize("fault", ["down at start, then up", "down mid-run and back", "restarted 3 times"])
def test_a_broker_that_comes_back_has_everything_at_the_exit(
    broker: DurableKafkaBroker, kafka: Kafka, judge: Judge, fault: str
) -> None:
    def restart() -> None:
        broker.kill()
        broker.start()

    happenings: dict[str, Happenings] = {
        "down at start, then up": {4: broker.start},
        "down mid-run and back": {4: broker.kill, 8: broker.start},
        "restarted 3 times": {3: restart, 6: restart, 9: restart},
    }
    if fault == "down at start, then up":
        broker.kill()
    row = judge(fault, kafka(happenings[fault]), broker)
    assert row.at_exit == row.events


def test_down_to_the_end_and_replayed(broker: DurableKafkaBroker, kafka: Kafka, judge: Judge) -> None:
    done = kafka({4: broker.kill})
    assert done.undelivered("kafka") > 0
    assert done.record.delivery is not None
    assert done.record.delivery["spool"] == str(done.spool)
    broker.start()
    (result,) = replayed(done)
    assert (result.delivered, result.undelivered) == (done.undelivered("kafka"), 0)
    judge("down to the end, replayed", done, broker)


@pytest.mark.parametrize("fault", ["black hole", "black hole mid-run, then healed", "round trips of 2 s"])
def test_a_network_that_fails_costs_nothing_but_a_replay(
    broker: DurableKafkaBroker, kafka: Kafka, judge: Judge, fault: str
) -> None:
    happenings: Happenings = {}
    if fault == "black hole":
        broker.relay.black_hole()
    elif fault == "round trips of 2 s":
        broker.relay.delay(1.0)
    else:
        happenings = {4: broker.relay.black_hole, 9: broker.relay.pass_through}
    done = kafka(happenings)
    broker.relay.pass_through()
    replayed(done)
    row = judge(f"{fault}, replayed", done, broker)
    assert fault != "black hole" or row.at_exit == 0


def test_topic_deleted_in_the_middle(tmp_path: Path, topic: str, judge: Judge, leaky_kafka_client: None) -> None:
    with DurableKafkaBroker(auto_create=False) as broker:
        broker.create_topic(topic)
        before: list[bytes] = []

        def delete() -> None:
            # What was emitted so far would be gone with the topic.
            before.extend(once_epoch_arrived(4, lambda: broker.values(topic)))
            broker.delete_topic(topic)

        done = trained(tmp_path, {4: delete}, KAFKA_HOST=broker.bootstrap, KAFKA_TOPIC=topic)
        assert done.undelivered("kafka") == len(done.spooled) - len(before)
        broker.create_topic(topic)
        replayed(done)
        judge("topic deleted, made again, replayed", done, broker, before)


@pytest.fixture
def cluster(topic: str, monkeypatch: pytest.MonkeyPatch, leaky_kafka_client: None) -> Iterator[MockCluster]:
    monkeypatch.setenv("KAFKA_API_VERSION", "2.3")
    with MockCluster() as cluster:
        cluster.create_topic(topic, 1, 3)
        yield cluster


RETRIABLE = (NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT, NOT_LEADER, NOT_ENOUGH_REPLICAS)
FATAL = (TOPIC_AUTHORIZATION_FAILED, INVALID_RECORD, TOPIC_AUTHORIZATION_FAILED)


@pytest.mark.parametrize("fault", ["leader changed 3 times", "retriable produce errors", "fatal produce errors"])
def test_what_a_cluster_does_costs_nothing_but_a_replay(
    tmp_path: Path, cluster: MockCluster, topic: str, judge: Judge, fault: str
) -> None:
    happenings: dict[str, Happenings] = {
        "leader changed 3 times": {
            epoch: lambda leader=epoch % 3 + 1: cluster.set_leader(topic, 0, leader)  # type: ignore[misc]
            for epoch in (3, 5, 7)
        },
        "retriable produce errors": {4: lambda: cluster.push_errors(PRODUCE, *RETRIABLE)},
        "fatal produce errors": {4: lambda: cluster.push_errors(PRODUCE, *FATAL)},
    }
    done = trained(tmp_path, happenings[fault], KAFKA_HOST=cluster.bootstrap, KAFKA_TOPIC=topic)
    replayed(done)
    judge(fault, done, cluster)
