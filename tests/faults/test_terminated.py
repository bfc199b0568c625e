"""SIGTERM during training: `cancelled` is at the brokers before the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.shared.events.data import Cancelled
from components.shared.events.event import StepEvent
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from tests.examples import write_digits, write_params
from tests.peers.noida import DurableKafkaBroker
from tests.peers.pubsub_server import PubSubServer

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together


def test_cancelled_is_at_both_brokers_before_the_process_ends(
    tmp_path: Path, own_kafka_broker: DurableKafkaBroker, pubsub_server: PubSubServer, topic: str
) -> None:
    own_kafka_broker.create_topic(topic)
    name = pubsub_server.create_topic("vision-1", topic)
    params = write_params(
        tmp_path / "params.json",
        num_epochs=100_000,
        KAFKA_HOST=own_kafka_broker.bootstrap,
        KAFKA_TOPIC=topic,
        PUB_SUB_PROJECT="vision-1",
        PUB_SUB_TOPIC=topic,
        TIMEOUT=20,
    )
    command: list[str | Path] = [sys.executable, "-m", "components.train", "--params", params, "--json"]
    command += ["--dataset", write_digits(tmp_path / "dataset"), "--model", tmp_path / "model"]
    environment = {RUN_VARIABLE: "run-1", EVENTS_VARIABLE: str(tmp_path / "events")}
    environment |= {"PUBSUB_EMULATOR_HOST": pubsub_server.host}
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True) as step:
        assert step.stderr is not None
        for line in step.stderr:
            if "epoch 3/" in line:
                break
        step.send_signal(signal.SIGTERM)
        told = step.stderr.read()
        step.wait()

    at_kafka = [record.value for record in own_kafka_broker.records(topic)]
    at_pub_sub = [message.data for message in pubsub_server.published(name)]
    assert step.returncode == 128 + signal.SIGTERM
    assert "cancelled: SIGTERM" in told
    assert "Traceback" not in told
    (spool,) = (tmp_path / "events").glob("*.jsonl")
    assert at_kafka == at_pub_sub == spool.read_bytes().splitlines()
    events = [StepEvent.from_bytes(message) for message in at_kafka]
    assert [event.state for event in events if event.is_terminal] == ["cancelled"]
    assert isinstance(events[-1].data, Cancelled)
    assert (events[-1].data.reason, events[-1].data.exit_code) == ("SIGTERM", 143)
    assert not (tmp_path / "model" / "model.json").exists(), "nothing half-written looks complete"
