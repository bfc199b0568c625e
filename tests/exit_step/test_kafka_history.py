from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.exit_step.step import report_end
from components.shared.events.data import EventData, State, StepOutcome
from components.shared.events.event import EventSource, encode
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.events.targets import StatusTargets
from components.shared.retry import countdown
from tests.exit_step.test_report import FAILED, RUN, STARTED, SUCCEEDED, at, spool
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.ports import claim_port


def tell(broker: KafkaTopics, topic: str, step: str, *told: tuple[State, EventData], run: str = RUN) -> None:
    event_source = EventSource(run, step, 0, "pod")
    events = [encode(event_source, number, state, time.time_ns(), data) for number, (state, data) in enumerate(told)]
    transport = KafkaTransport([broker.bootstrap], topic)
    transport.send(events, countdown(10))
    transport.close()


def test_the_broker_knows_what_the_exit_step_cannot_see(kafka_broker: KafkaTopics, topic: str) -> None:
    kafka_broker.create_topic(topic)
    tell(kafka_broker, topic, "train", STARTED, SUCCEEDED, run="another-run")
    tell(kafka_broker, topic, "train", STARTED, FAILED)
    targets = StatusTargets(kafka_servers=(kafka_broker.bootstrap,), kafka_topic=topic)

    end = report_end(state="FAILED", run=at(None), targets=targets)

    # Of a silent step nothing follows: the broker may have been away while it ran.
    assert [step.outcome for step in end.steps] == ["unknown", "failed", "unknown"]
    assert end.reason == "train: no room"


def test_what_kafka_has_and_the_folder_lacks_counts(kafka_broker: KafkaTopics, topic: str, tmp_path: Path) -> None:
    kafka_broker.create_topic(topic)
    spool(tmp_path, "data-prep", STARTED, SUCCEEDED)
    tell(kafka_broker, topic, "data-prep", STARTED, SUCCEEDED)
    targets = StatusTargets(kafka_servers=(kafka_broker.bootstrap,), kafka_topic=topic)
    end = report_end(state="FAILED", run=at(tmp_path), targets=targets)
    assert [step.outcome for step in end.steps] == ["succeeded", "not started", "not started"]

    tell(kafka_broker, topic, "train", STARTED)
    end = report_end(state="FAILED", run=at(tmp_path), targets=targets)
    assert [step.outcome for step in end.steps] == ["succeeded", "unknown", "unknown"]
    # Kubeflow hands on RUNNING of a run that was terminated, and train had begun.
    end = report_end(state="RUNNING", run=at(tmp_path), targets=targets)
    assert (end.outcome, end.reason) == ("failed", "train was killed")


def test_a_broker_that_cannot_be_read_leaves_it_unknown(
    leaky_kafka_client: None, kafka_broker: KafkaTopics, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for server in (f"127.0.0.1:{claim_port()}", kafka_broker.bootstrap):
        targets = StatusTargets(kafka_servers=(server,), kafka_topic=topic)
        end = report_end(state="FAILED", message="Task failed.", run=at(None), targets=targets)
        assert end.steps == [StepOutcome(step, "unknown") for step in ("data-prep", "train", "evaluate")]
        assert end.reason == "Task failed."
