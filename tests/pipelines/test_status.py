"""One local run with both brokers: what each holds, read back by tools that are not ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from components.shared.events.event import StepEvent, event_schema
from components.shared.events.runs import fold
from tests.examples import write_params
from tests.peers.fixtures import need
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.pubsub_topics import PubSubTopics
from tests.pipelines.conftest import Command

PROJECT = "vision-1"


@pytest.mark.slow
def test_both_brokers_hold_the_same_events_of_a_run(
    tmp_path: Path, command: Command, kafka_broker: KafkaTopics, pubsub_emulator: PubSubTopics, topic: str
) -> None:
    need(shutil.which("kcat"), "kcat is not installed (Debian: apt-get install kcat)")
    kafka_broker.create_topic(topic)
    name = pubsub_emulator.create_topic(PROJECT, topic)
    subscription = pubsub_emulator.create_subscription(PROJECT, f"{topic}-sub", name)
    kafka = {"KAFKA_HOST": kafka_broker.bootstrap, "KAFKA_TOPIC": topic}
    pubsub = {"PUB_SUB_PROJECT": PROJECT, "PUB_SUB_TOPIC": topic, "PUB_SUB_SUBSCRIPTION": f"{topic}-sub"}
    params = write_params(tmp_path / "params.json", num_epochs=4, save_freq=2, TIMEOUT=20, **kafka, **pubsub)

    done = command(
        "-m", "pipelines.cli", "run", "--params", params, "--out", "out", "--json",
        PUBSUB_EMULATOR_HOST=pubsub_emulator.host,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["run"]

    kcat = ["kcat", "-b", kafka_broker.bootstrap, "-t", topic, "-C", "-e", "-q"]
    at_kafka = subprocess.run(kcat, capture_output=True, check=True).stdout.splitlines()
    messages = pubsub_emulator.pull_all(subscription, expected=len(at_kafka))
    assert at_kafka == [message.data for message in messages], "identical bytes in the same order"

    events = [StepEvent.from_bytes(message) for message in at_kafka]
    reported = [f"{event.step} {event.state}" for event in events if event.state != "progress"]
    assert reported == [
        *("pipeline started", "data-prep started", "data-prep succeeded"),
        *("train started", "train checkpoint", "train checkpoint", "train succeeded"),
        *("evaluate started", "evaluate succeeded", "pipeline succeeded"),
    ]
    assert [event.data.epoch for event in events if (event.step, event.state) == ("train", "progress")] == [1, 2, 3, 4]
    for step in ("data-prep", "train", "evaluate"):
        numbers = [event.sequence for event in events if event.step == step]
        assert numbers == list(range(len(numbers)))
    view = fold(run, events)
    assert view.ended is not None
    assert [step.outcome for step in view.ended.steps] == ["succeeded"] * 3

    validator = jsonschema.Draft202012Validator(
        event_schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    records = kafka_broker.records(topic)
    for record, message in zip(records, messages, strict=True):
        document = json.loads(record.value)
        validator.validate(document)
        assert record.key == message.ordering_key.encode() == run.encode()
        headers = dict(record.headers)
        assert headers["content-type"] == b"application/cloudevents+json; charset=utf-8"
        assert headers["ce_type"].decode() == document["type"]
        assert message.attributes["content-type"] == "application/cloudevents+json; charset=utf-8"
        assert message.attributes["ce-id"] == document["id"]
    metadata = json.loads((tmp_path / "out" / "steps" / "train.json").read_text())["delivery"]
    counts = (sum(event.step == "train" for event in events), 0)
    assert {name: (broker["delivered"], broker["undelivered"]) for name, broker in metadata["brokers"].items()} == {
        "kafka": counts,
        "pubsub": counts,
    }
