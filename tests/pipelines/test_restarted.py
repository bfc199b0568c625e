"""A step that its platform starts again in the same container: an attempt of its own, also without a shared folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.configs import small
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.pubsub_server import PubSubServer
from tests.pipelines.conftest import ROOT
from tests.pipelines.watchers import LONG_S, watched

PROJECT = "project-x"
# The real frame around work that only reports progress: it starts in half a second.
WORK = """
import os, signal, sys, time
from components.shared.errors import GroupLostError
from components.shared.events.data import Progress, Succeeded
from components.shared.run import step_run
from components.shared.step import run_step

class Result:
    def report(self):
        return {}

    def event(self, seconds):
        return Succeeded(seconds)

def work(params, emit):
    emit(Progress(1, 2, "batches", 1, 2))
    time.sleep(0.5)  # until that is at the broker
    how = sys.argv[2]
    if how == "lost":
        raise GroupLostError("lost another of the 2 processes that train together")
    if how != "succeeds":
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(600)
    return Result()

run_step("train", open(sys.argv[1]).read(), work, step_run)
"""
# Torch elastic in a pod that Kubeflow Trainer 2.3.0 starts; no KFP_ variable, no shared folder.
POD = {
    "PET_NNODES": "2", "PET_NODE_RANK": "0", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1",
    "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_RUN_ID": "none",
    "SHUTTERLINE_RUN_ID": "night-7",
}  # fmt: skip
STARTS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "lost": 1, "succeeds": 0}


def started_again_and_again(folder: Path, environment: dict[str, str], **brokers: Any) -> None:
    """A container's starts, one after the other, each a process with nothing of the one before."""
    (folder / "params.json").write_text(json.dumps(small(TIMEOUT=10, **brokers)))
    for how, code in STARTS.items():
        command = [sys.executable, "-c", WORK, str(folder / "params.json"), how]
        ended = subprocess.run(
            command, cwd=ROOT, env=os.environ | POD | environment, capture_output=True, timeout=LONG_S, check=False
        )
        assert ended.returncode == code, ended.stderr


def check(watching: list[str], numbers: list[int], **environment: str) -> None:
    """Every event once, a source for each process, and the end of the last is the run's."""
    shown = watched(*watching, "--run", "night-7", "--json", "--until-done", "--timeout", str(LONG_S), **environment)
    assert shown.returncode == 0, shown.stderr
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len({(event["source"], event["id"]) for event in events}) == len(events) == 11
    assert "delivered again" not in shown.stderr
    by_process: dict[str, list[Any]] = {}
    for event in events:
        by_process.setdefault(event["source"], []).append(event)
    kinds = [[event["type"].rpartition(".")[2] for event in of_one] for of_one in by_process.values()]
    assert kinds == [
        ["started", "progress"],
        ["started", "progress", "cancelled"],
        ["started", "progress", "failed"],
        ["started", "progress", "succeeded"],
    ]
    assert [{event["attempt"] for event in of_one} for of_one in by_process.values()] == [{n} for n in numbers]
    ends = [of_one[-1]["data"].get("starts_again") for of_one in by_process.values()]
    assert ends == [None, True, True, None]


def test_with_kafka_each_start_is_the_next_attempt(
    tmp_path: Path, kafka_broker: KafkaTopics, topic: str, leaky_kafka_client: None
) -> None:
    kafka_broker.create_topic(topic, partitions=3)
    started_again_and_again(tmp_path, {}, KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC=topic)
    check(["--kafka", f"{kafka_broker.bootstrap}/{topic}", "--since", "beginning"], [0, 1, 2, 3])


@pytest.mark.slow
def test_with_pub_sub_alone_each_start_has_a_source_of_its_own(tmp_path: Path) -> None:
    """Nothing of a subscription may be taken from its reader, so the number is a guess; time puts them in order."""
    with PubSubServer() as server:
        subscription = server.create_subscription(PROJECT, "status", server.create_topic(PROJECT, "status"))
        environment = {"PUBSUB_EMULATOR_HOST": server.host}
        started_again_and_again(tmp_path, environment, PUB_SUB_PROJECT=PROJECT, PUB_SUB_TOPIC="status")
        check(["--pubsub", subscription], [0, 0, 0, 0], **environment)
