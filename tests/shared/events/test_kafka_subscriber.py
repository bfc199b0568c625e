from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.event import StepEvent
from components.shared.events.kafka import subscriber
from components.shared.events.kafka.subscriber import KafkaSubscriber, Since
from components.shared.events.watch import Counts, Message, follow
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.mock_kafka import MockCluster
from tests.peers.noida import DurableKafkaBroker
from tests.shared.events.sample_events import a_pipeline, a_step, late, parsed, shown_by, shown_over_an_outage

pytestmark = pytest.mark.usefixtures("leaky_kafka_client")


def publish(broker: KafkaTopics, topic: str, bodies: Sequence[bytes | None], partition: int | None = None) -> None:
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", **broker.client_settings)) as producer:
        for sent in [producer.send(topic, body, key=b"run", partition=partition) for body in bodies]:
            sent.get(timeout=30)


def reader(broker: KafkaTopics, topic: str, since: Since = "beginning", group: str | None = None) -> KafkaSubscriber:
    return KafkaSubscriber(broker.bootstrap.split(","), topic, since=since, group=group)


def test_a_runs_events_come_in_order_from_the_beginning(kafka_broker: KafkaTopics, status: str) -> None:
    bodies = a_pipeline("run-1")
    publish(kafka_broker, status, [None, *bodies])
    for _ in range(2):  # without a group nothing is remembered
        with closing(reader(kafka_broker, status)) as source:
            shown, counts = shown_by(source, len(bodies))
        assert shown == parsed(bodies)
        assert (counts.shown, counts.foreign, counts.acknowledged) == (len(bodies), 1, len(bodies) + 1)
    assert source.address == f"Kafka {kafka_broker.bootstrap} topic {status}"


def test_now_is_what_comes_after_the_connection(kafka_broker: KafkaTopics, status: str) -> None:
    publish(kafka_broker, status, a_step("old"))
    new = a_step("new")
    with closing(reader(kafka_broker, status, "now")) as source:
        assert source.receive(0.1) == []
        publish(kafka_broker, status, new)
        assert shown_by(source, len(new))[0] == parsed(new)


def test_since_a_moment_leaves_out_what_is_older(kafka_broker: KafkaTopics, status: str) -> None:
    old, new = a_step("old"), a_step("new")
    publish(kafka_broker, status, old)
    time.sleep(0.05)
    moment = datetime.now(UTC)
    time.sleep(0.05)
    publish(kafka_broker, status, new)
    for since, bodies in ((moment, new), (moment - timedelta(days=40_000), old + new)):
        with closing(reader(kafka_broker, status, since)) as source:
            assert shown_by(source, len(bodies))[0] == parsed(bodies)
    with closing(reader(kafka_broker, status, moment + timedelta(days=1))) as source:
        assert source.receive(0.3) == []


def test_what_was_not_acknowledged_is_handed_out_again(kafka_broker: KafkaTopics, status: str) -> None:
    bodies = a_step("run-1")
    publish(kafka_broker, status, bodies)

    def received(count: int) -> list[Message]:
        messages: list[Message] = []
        is_late = late()
        while len(messages) < count and not is_late():
            messages += source.receive(0.2)
        return messages

    with closing(reader(kafka_broker, status)) as source:
        first = received(len(bodies))
        source.acknowledge(first[:2])
        assert received(len(bodies) - 2) == first[2:]
    assert [message.body for message in first] == bodies


def test_a_group_goes_on_behind_what_was_acknowledged(kafka_broker: KafkaTopics, status: str) -> None:
    bodies = a_pipeline("run-1")
    publish(kafka_broker, status, bodies)
    shown: list[StepEvent] = []
    for count in (4, 5, len(bodies) - 9):
        with closing(reader(kafka_broker, status, group=status)) as source:
            shown += shown_by(source, count)[0]
    assert shown == parsed(bodies)


def test_a_missing_topic_is_refused_and_not_made(kafka_broker: KafkaTopics) -> None:
    name = f"missing-{uuid.uuid4().hex}"
    with closing(reader(kafka_broker, name)) as source:
        with pytest.raises(StatusRefusedError, match=f"topic {name}: there is no such topic; create it"):
            source.receive(0.1)
        with pytest.raises(StatusRefusedError, match=name):
            follow(source, lambda _: None)
    assert name not in kafka_broker.topics()


def test_wrong_security_settings_are_refused_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(StatusRefusedError, match="KAFKA_SASL_MECHANISM is missing"):
        KafkaSubscriber(["localhost:1"], "status")


def test_new_partitions_are_read_as_well(
    kafka_broker: KafkaTopics, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = a_step("old"), a_step("new")
    publish(kafka_broker, status, old)
    with closing(reader(kafka_broker, status)) as source:
        shown, _ = shown_by(source, len(old))
        with closing(KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)) as admin:
            admin.create_partitions({status: 5})
        publish(kafka_broker, status, new, partition=4)
        monkeypatch.setattr(subscriber, "NEW_PARTITIONS_S", 0.0)
        more, counts = shown_by(source, len(new))
    assert shown + more == parsed(old + new)
    assert counts.duplicates == 0


def test_a_broker_that_is_not_there_yet_is_waited_for(own_kafka_broker: DurableKafkaBroker) -> None:
    own_kafka_broker.create_topic("status")
    own_kafka_broker.kill()
    bodies = a_step("run-1")
    threads = threading.active_count()
    with closing(reader(own_kafka_broker, "status", "now")) as source:
        with pytest.raises(RetryableError, match="does not answer"):
            source.receive(0.1)
        assert threading.active_count() == threads, "a failed attempt leaves nothing behind"
        own_kafka_broker.start()
        publish(own_kafka_broker, "status", bodies)  # before the watcher tries again
        assert shown_by(source, len(bodies))[0] == parsed(bodies)


@pytest.mark.parametrize("group", [None, "watchers"])
def test_over_an_outage_nothing_is_lost_and_nothing_shown_twice(
    own_kafka_broker: DurableKafkaBroker, group: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "SILENCE_S", 0.5)
    own_kafka_broker.create_topic("status", partitions=2)
    before, after = a_pipeline("run-1"), a_pipeline("run-2")
    publish(own_kafka_broker, "status", before)

    def end() -> None:
        own_kafka_broker.start()
        publish(own_kafka_broker, "status", after)

    with closing(reader(own_kafka_broker, "status", group=group)) as source:
        shown, (away, *back) = shown_over_an_outage(
            source, len(before), len(before + after), own_kafka_broker.kill, end
        )
    assert shown == parsed(before + after)
    assert away is not None
    assert "does not answer" in away
    assert back == [None]


def test_restarts_in_the_midst_of_many_events(own_kafka_broker: DurableKafkaBroker) -> None:
    own_kafka_broker.create_topic("status")
    bodies = [body for number in range(100) for body in a_pipeline(f"run-{number}")]
    publish(own_kafka_broker, "status", bodies)
    shown: list[StepEvent] = []
    restarts, is_late = [300, 900, 1500], late()

    def until(counts: Counts) -> bool:
        if restarts and counts.shown > restarts[0]:
            restarts.pop(0)
            own_kafka_broker.kill()
            own_kafka_broker.start()
        return counts.shown >= len(bodies) or is_late()

    with closing(reader(own_kafka_broker, "status")) as source:
        follow(source, shown.append, until=until, poll_s=0.1)
    assert shown == parsed(bodies)
    assert not restarts


def test_a_topic_made_anew_is_read_from_its_beginning(
    kafka_broker: KafkaTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "SILENCE_S", 0.2)
    name = f"status-{uuid.uuid4().hex}"
    kafka_broker.create_topic(name)
    old, new = a_pipeline("old"), a_step("new")
    publish(kafka_broker, name, old)

    with closing(reader(kafka_broker, name)) as source:
        shown, _ = shown_by(source, len(old))
        kafka_broker.delete_topic(name)
        with suppress(TopicAlreadyExistsError):  # the broker makes a topic that the reader asks for
            kafka_broker.create_topic(name)
        publish(kafka_broker, name, new)
        more, _ = shown_by(source, len(new))
    assert shown + more == parsed(old + new)


def test_an_offset_of_a_group_that_the_broker_no_longer_has(kafka_broker: KafkaTopics, status: str) -> None:
    bodies = a_step("run-1")
    publish(kafka_broker, status, bodies)
    with closing(reader(kafka_broker, status, group=status)) as source:
        source.receive(0.1)
        source.acknowledge([Message(b"", (TopicPartition(status, each), 10_000)) for each in range(3)])
    with closing(reader(kafka_broker, status, group=status)) as source:
        shown, counts = shown_by(source, len(bodies))
    assert shown == parsed(bodies)
    assert counts.troubles == 1


OFFSET_FETCH = 9
TOPIC_FORBIDDEN, GROUP_FORBIDDEN = 29, 30


@pytest.fixture
def old_cluster(mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch) -> MockCluster:
    """Three old brokers with a topic named status, on which a run was published."""
    monkeypatch.setenv("KAFKA_API_VERSION", "2.3")
    mock_cluster.create_topic("status", 2)
    publish(mock_cluster, "status", a_pipeline("run-1"))
    return mock_cluster


def test_partitions_that_move_to_other_brokers_are_followed(old_cluster: MockCluster) -> None:
    before, after = a_pipeline("run-1"), a_step("run-2")
    shown: list[StepEvent] = []
    moves, is_late = iter([1, 2, 3]), late()

    def until(counts: Counts) -> bool:
        if counts.shown == len(before) and (broker := next(moves, None)):
            for partition in range(2):
                old_cluster.set_leader("status", partition, broker)
            if broker == 3:
                publish(old_cluster, "status", after)
        return counts.shown >= len(before + after) or is_late()

    with closing(reader(old_cluster, "status")) as source:
        follow(source, shown.append, until=until, poll_s=0.1)
    assert shown == parsed(before + after)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (None, r"may not use the topic; grant .* Read to watch"),
        ("watchers", "may not use the group watchers; grant Read on it"),
    ],
)
def test_a_missing_permission_is_refused(old_cluster: MockCluster, group: str | None, message: str) -> None:
    if group is None:
        old_cluster.topic_error("status", TOPIC_FORBIDDEN)
    else:
        old_cluster.push_errors(OFFSET_FETCH, *[GROUP_FORBIDDEN] * 20)
    source = reader(old_cluster, "status", group=group)
    with closing(source), pytest.raises(StatusRefusedError, match=message):
        follow(source, lambda _: None, until=lambda counts: counts.shown > 0)
