"""kill -9 of a step at random moments, then the exit step and a replay: what was spooled is never lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.exit_step.__main__ import main as exit_step
from components.shared.events.event import PIPELINE, StepEvent
from components.shared.events.spool import spools_of
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from pipelines.cli import main
from tests.examples import write_digits, write_params
from tests.peers.emulator import PubSubEmulator
from tests.peers.noida import DurableKafkaBroker

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together

PROJECT = "vision-1"

# The real frame around work that only emits, so that it starts in half a second.
EMITTING = """
import random, sys, time
from components.shared.events.data import Checkpoint, Progress
from components.shared.run import step_run
from components.shared.step import run_step

def work(params, emit):
    for epoch in range(1, 100_000):
        emit(Progress(epoch, 100_000, "batches", epoch, 100_000, metrics={"accuracy": 0.5}))
        if epoch % 10 == 0:
            emit(Checkpoint(epoch, 100_000, f"/checkpoints/{epoch}"))
        time.sleep(random.uniform(0, 0.01))

run_step("train", open(sys.argv[1]).read(), work, lambda: step_run(in_pipeline=True))
"""


@dataclass(frozen=True)
class Brokers:
    """Both brokers, and params that name them."""

    kafka: DurableKafkaBroker
    emulator: PubSubEmulator
    topic: str
    subscription: str
    params: Path
    environment: dict[str, str]

    def received(self) -> dict[str, list[bytes]]:
        return {
            "kafka": [record.value for record in self.kafka.records(self.topic)],
            "pubsub": [message.data for message in self.emulator.pull_all(self.subscription)],
        }


@pytest.fixture
def brokers(
    tmp_path: Path, own_kafka_broker: DurableKafkaBroker, own_pubsub_emulator: PubSubEmulator, topic: str
) -> Brokers:
    own_kafka_broker.create_topic(topic)
    name = own_pubsub_emulator.create_topic(PROJECT, topic)
    subscription = own_pubsub_emulator.create_subscription(PROJECT, f"{topic}-sub", name)
    params = write_params(
        tmp_path / "params.json",
        num_epochs=100_000,
        save_freq=5,
        KAFKA_HOST=own_kafka_broker.bootstrap,
        KAFKA_TOPIC=topic,
        PUB_SUB_PROJECT=PROJECT,
        PUB_SUB_TOPIC=topic,
        TIMEOUT=10,
    )
    environment = os.environ | {"PUBSUB_EMULATOR_HOST": own_pubsub_emulator.host}
    return Brokers(own_kafka_broker, own_pubsub_emulator, topic, subscription, params, environment)


def killed(
    brokers: Brokers,
    command: list[str | Path],
    folder: Path,
    run: str,
    moment: float,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_begun: bool,
) -> str:
    """Kill a step after a while; the exit step and a replay follow. Returns the outcome of the step in the end."""
    events = folder / "events"
    environment = brokers.environment | {RUN_VARIABLE: run, EVENTS_VARIABLE: str(events)}
    step = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while has_begun and not any(len(_whole_lines(path)) > 1 for path in spools_of(events, run)):
        assert step.poll() is None, "it ended by itself"
        time.sleep(0.01)
    time.sleep(moment)
    step.kill()
    step.wait()
    spooled = {path: _whole_lines(path) for path in spools_of(events, run)}

    for name in ("PUBSUB_EMULATOR_HOST", RUN_VARIABLE, EVENTS_VARIABLE):
        monkeypatch.setenv(name, environment[name])
    assert exit_step(["--state", "FAILED", "--params", str(brokers.params)]) == 0
    assert main(["events", "replay", str(events)]) == 0

    last = spools_of(events, run)[-1]
    spooled[last] = _whole_lines(last)
    for broker, received in brokers.received().items():
        ours = list(dict.fromkeys(message for message in received if json.loads(message)["runid"] == run))
        for path, lines in spooled.items():
            found = [message for message in ours if message in set(lines)]
            assert found == lines, f"{broker} lacks events of {path.name}, or has them in another order"
        ids = [json.loads(message)["id"] for message in ours]
        assert len(ids) == len(set(ids)), "two different events share an id"
    (end,) = (event for event in map(StepEvent.from_bytes, ours) if event.step == PIPELINE and event.is_terminal)
    assert end.state == "failed"
    (train,) = (step for step in end.data.steps if step.step == "train")
    return str(train.outcome)


def _whole_lines(path: Path) -> list[bytes]:
    return [line.rstrip(b"\n") for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_a_step_killed_at_random_moments(
    tmp_path: Path, brokers: Brokers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = random.Random(3)  # noqa: S311 - moments, not secrets
    dataset = write_digits(tmp_path / "dataset")
    outcomes = []
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        # The frame alone, and a training.
        command: list[str | Path] = [sys.executable, "-c", EMITTING, brokers.params]
        longest_s = 3.2
        if number >= 6:
            command = [sys.executable, "-m", "components.train", "--params", brokers.params]
            command += ["--dataset", dataset, "--model", folder / "model"]
            longest_s = 8.0
        moment = moments.uniform(0.1, longest_s)
        has_begun = number % 2 == 0  # so many seconds after its first event, or after its process began
        outcome = killed(brokers, command, folder, f"run-{number}", moment, monkeypatch, has_begun=has_begun)
        outcomes.append(outcome)
    # Unknown where it was killed between making its spool and its first event.
    assert set(outcomes) <= {"killed", "not started", "unknown"}
    assert outcomes[::2] == ["killed"] * 5
