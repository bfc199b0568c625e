"""Reading a subscription: from Google's emulator, and from a server inside this process that can be made to fail."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.types import PubsubMessage

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events import watch
from components.shared.events.event import StepEvent
from components.shared.events.pubsub import subscriber
from components.shared.events.pubsub.subscriber import PubSubSubscriber
from components.shared.events.watch import Counts, follow
from tests.peers.emulator import PubSubEmulator
from tests.peers.pubsub_server import PubSubServer
from tests.peers.pubsub_topics import PubSubTopics
from tests.shared.events.sample_events import a_pipeline, a_step, late, parsed, shown_by, shown_over_an_outage

PROJECT = "project-x"
CODES = grpc.StatusCode
Use = Callable[[PubSubSubscriber], object]


@pytest.fixture
def server(pubsub_server: PubSubServer, monkeypatch: pytest.MonkeyPatch) -> PubSubServer:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server.host)
    return pubsub_server


@pytest.fixture
def emulator(pubsub_emulator: PubSubTopics, monkeypatch: pytest.MonkeyPatch) -> PubSubTopics:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_emulator.host)
    return pubsub_emulator


def subscribed(
    server: PubSubServer | PubSubTopics, bodies: Sequence[bytes], *, ordered: bool = True
) -> tuple[str, str]:
    """A new topic to which `bodies` were published, and a subscription to it."""
    name = f"status-{uuid.uuid4().hex}"
    topic = server.create_topic(PROJECT, name)
    subscription = server.create_subscription(PROJECT, name, topic, ordered=ordered)
    publish(server.host, topic, bodies)
    return topic, subscription


def publish(host: str, topic: str, bodies: Sequence[bytes]) -> None:
    with grpc.insecure_channel(host) as channel:
        client = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        for start in range(0, len(bodies), 500):
            messages = [PubsubMessage(data=body, ordering_key="run") for body in bodies[start : start + 500]]
            client.publish(topic=topic, messages=messages, timeout=30)


def test_a_runs_events_come_in_order(emulator: PubSubTopics) -> None:
    bodies = [body for number in range(20) for body in a_pipeline(f"run-{number}")]
    _, subscription = subscribed(emulator, bodies)
    with closing(PubSubSubscriber(subscription)) as source:
        shown, counts = shown_by(source, len(bodies))
    assert shown == parsed(bodies)
    assert counts == Counts(shown=len(bodies), acknowledged=len(bodies))
    assert source.address == f"Pub/Sub {subscription}"
    assert emulator.pull_all(subscription) == []


def test_what_is_published_during_a_wait_comes_at_its_end(emulator: PubSubTopics) -> None:
    topic, subscription = subscribed(emulator, [])
    bodies = a_step("run-1")
    with closing(PubSubSubscriber(subscription)) as source:
        assert source.receive(0.2) == []
        publish(emulator.host, topic, bodies)
        assert shown_by(source, len(bodies))[0] == parsed(bodies)


def test_what_was_not_shown_comes_to_the_next_watcher_at_once(emulator: PubSubTopics) -> None:
    bodies = a_pipeline("run-1")
    _, subscription = subscribed(emulator, bodies)
    shown: list[StepEvent] = []
    for count in (4, 5, len(bodies) - 9):
        with closing(PubSubSubscriber(subscription)) as source:
            shown += shown_by(source, count)[0]
    assert shown == parsed(bodies)


def test_an_emulator_that_forgets_everything_is_read_again_once_it_has_the_subscription(
    own_pubsub_emulator: PubSubEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = own_pubsub_emulator
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.host)
    before, after = a_step("run-1"), a_step("run-2")
    topic, subscription = subscribed(emulator, before)

    def end() -> None:
        emulator.start()
        with pytest.raises(RetryableError, match="has no subscription"):  # it does not have it yet
            source.receive(60.0)
        emulator.create_topic(PROJECT, topic.rpartition("/")[2])
        emulator.create_subscription(PROJECT, subscription.rpartition("/")[2], topic)
        publish(emulator.host, topic, after)

    with closing(PubSubSubscriber(subscription)) as source:
        shown, (away, *back) = shown_over_an_outage(source, len(before), len(before + after), emulator.kill, end)
    assert shown == parsed(before + after)
    assert "does not answer" in str(away)
    assert back == [None]


def test_an_outage_is_waited_for(server: PubSubServer) -> None:
    before, after = a_step("run-1"), a_step("run-2")
    topic, subscription = subscribed(server, before)

    def end() -> None:
        server.start()
        publish(server.host, topic, after)

    with closing(PubSubSubscriber(subscription)) as source:
        shown, troubles = shown_over_an_outage(source, len(before), len(before + after), server.stop, end)
    assert shown == parsed(before + after)
    assert len(troubles) == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (CODES.NOT_FOUND, "has no subscription .*; create it"),
        (CODES.PERMISSION_DENIED, "roles/pubsub.subscriber"),
        (CODES.UNAUTHENTICATED, "does not accept the credentials"),
    ],
)
def test_a_refusal_is_final_at_the_start_and_waited_for_later(
    server: PubSubServer, code: grpc.StatusCode, message: str
) -> None:
    _, subscription = subscribed(server, a_step("run-1"))
    server.fail_next("Pull", code)
    with closing(PubSubSubscriber(subscription)) as source, pytest.raises(StatusRefusedError, match=message):
        follow(source, lambda _: None)
    with closing(PubSubSubscriber(subscription)) as source:
        shown_by(source, 1)
        server.fail_next("Pull", code)
        with pytest.raises(RetryableError, match=message):
            _ = source.receive(5.0) and source.receive(5.0)
        server.heal()
        assert len(shown_by(source, 3)[0]) == 3


def test_an_acknowledgement_that_fails_is_made_again(server: PubSubServer) -> None:
    bodies = a_step("run-1")
    _, subscription = subscribed(server, bodies, ordered=False)
    server.fail_next("Acknowledge", CODES.UNAVAILABLE, times=2)
    is_late = late()
    with closing(PubSubSubscriber(subscription)) as source:
        counts = follow(
            source, lambda _: None, until=lambda counts: counts.acknowledged >= len(bodies) or is_late(), poll_s=0.05
        )  # fmt: skip
    assert counts.shown == counts.acknowledged == len(bodies)
    assert counts.duplicates == 0
    with closing(PubSubSubscriber(subscription)) as source:
        assert source.receive(0.2) == []


def test_an_acknowledgement_that_comes_too_late_is_no_error(server: PubSubServer) -> None:
    bodies = a_step("run-1")
    _, subscription = subscribed(server, bodies, ordered=False)
    server.fail_next("Acknowledge", CODES.FAILED_PRECONDITION, message="PERMANENT_FAILURE_INVALID_ACK_ID")
    with closing(PubSubSubscriber(subscription)) as source:
        shown, counts = shown_by(source, len(bodies))
    assert shown == parsed(bodies)
    assert counts.troubles == 0


def test_what_is_delivered_again_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its leases run out while they are being shown, whatever is asked for.
    with PubSubServer(ack_deadline=0.05) as server:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.host)
        bodies = a_pipeline("run-1")
        _, subscription = subscribed(server, bodies, ordered=False)
        shown: list[StepEvent] = []
        is_late = late()

        def show(event: StepEvent) -> None:
            time.sleep(0.06)
            server.broker.take(subscription, 0)  # what has run out waits again
            shown.append(event)

        def until(counts: Counts) -> bool:
            return (counts.shown >= len(bodies) and counts.duplicates > 0) or is_late()

        with closing(PubSubSubscriber(subscription)) as source:
            counts = follow(source, show, until=until, poll_s=0.05)
    assert shown == parsed(bodies)
    assert counts.duplicates > 0


def test_leases_are_renewed_while_a_window_is_shown_slowly(
    server: PubSubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SETTLE_EVERY_S", 0.0)
    monkeypatch.setattr(subscriber, "RENEW_EVERY_S", 0.0)
    bodies = a_step("run-1")
    _, subscription = subscribed(server, bodies, ordered=False)
    with closing(PubSubSubscriber(subscription)) as source:
        shown_by(source, len(bodies))
    assert server.requests["ModifyAckDeadline"] >= len(bodies) - 2
    assert server.requests["Acknowledge"] >= len(bodies) - 1


def test_many_acknowledgements_go_in_parts(server: PubSubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriber, "CHUNK", 4)
    _, subscription = subscribed(server, a_pipeline("run-1"), ordered=False)
    with closing(PubSubSubscriber(subscription)) as source:
        received = source.receive(5.0)
        source.acknowledge(received)
    assert server.requests["Acknowledge"] == -(-len(received) // 4)


def test_a_service_that_answers_with_nothing_is_asked_no_more_often(
    server: PubSubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.peers.pubsub_server.PULL_WAIT_S", 0.0)
    _, subscription = subscribed(server, [])
    with closing(PubSubSubscriber(subscription)) as source:
        assert [source.receive(0.05) for _ in range(4)] == [[]] * 4
    assert server.requests["Pull"] <= 4


@pytest.mark.filterwarnings("default:The load_credentials_from_file method is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("content", "use", "message"),
    [
        ("not json", PubSubSubscriber.close, "is not a JSON file of credentials"),  # before anything is opened
        ('{"type": "service_account"}', lambda source: source.receive(1.0), "no Google credentials"),
    ],
)
def test_wrong_credentials_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    use: Callable[[PubSubSubscriber], object],
    message: str,
) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    file = tmp_path / "key.json"
    file.write_text(content)
    with pytest.raises(StatusRefusedError, match=f"{file}.* {message}"):
        use(PubSubSubscriber(f"projects/{PROJECT}/subscriptions/status", str(file)))
