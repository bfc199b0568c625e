"""Events of a run's steps, and the exit step called as kfp calls it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from kfp.dsl.executor import Executor

from components.exit_step.component import exit_step
from components.shared.events.data import Cancelled, Error, EventData, Failed, State, StepStarted, Succeeded
from components.shared.events.event import EncodedEvent, EventSource, StepEvent, encode
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.events.spool import events_in
from components.shared.retry import countdown
from components.shared.run import PIPELINE_NAME, StepRun
from tests.configs import small
from tests.peers.kafka_topics import KafkaTopics

RUN = "run-7"
Told = tuple[State, EventData]
STARTED: Told = ("started", StepStarted("0", "pod", pipeline=PIPELINE_NAME))
SUCCEEDED: Told = ("succeeded", Succeeded(1.0))
FAILED: Told = ("failed", Failed(1.0, Error("X", "no room")))
CANCELLED: Told = ("cancelled", Cancelled(1.0, "SIGTERM", 143))


def at(events: Path | None) -> StepRun:
    return StepRun(RUN, PIPELINE_NAME, 0, events, shared=events is not None, host="pod")


def _encoded(step: str, told: tuple[Told, ...], run: str) -> list[EncodedEvent]:
    source = EventSource(run, step, 0, "pod")
    return [encode(source, number, state, time.time_ns(), data) for number, (state, data) in enumerate(told)]


def spool(events: Path, step: str, *told: Told, attempt: int = 0, run: str = RUN) -> Path:
    path = events / f"{run}.{step}.{attempt}.jsonl"
    path.write_bytes(b"".join(event.body + b"\n" for event in _encoded(step, told, run)))
    return path


def publish(broker: KafkaTopics, topic: str, step: str, *told: Told, run: str = RUN) -> None:
    transport = KafkaTransport([broker.bootstrap], topic)
    transport.send(_encoded(step, told, run), countdown(10))
    transport.close()


def call(folder: Path, status: dict[str, Any], **params: Any) -> dict[str, Any]:
    """The report of the exit step, run by kfp's executor with what stands for the pipeline's status."""
    end = folder / "kfp" / "run" / "exit-step" / "end"
    values = {
        "params": json.dumps(small(**params)),
        "job_id": "7c1f1fd5-60d5-4b0e-8b5a-0a9f52a3a8f6",
        "job_name": RUN,
        "status": status,
    }
    artifact = {"name": "end", "type": {"schemaTitle": "system.Artifact"}, "metadata": {}, "uri": str(end)}
    outputs = {"outputFile": str(folder / "output.json"), "artifacts": {"end": {"artifacts": [artifact]}}}
    given = {"inputs": {"parameterValues": values}, "outputs": outputs}
    Executor(executor_input=given, function_to_execute=exit_step.python_func).execute()
    report: dict[str, Any] = json.loads(end.read_text())
    return report


def ended(folder: Path) -> StepEvent:
    return [event for event in events_in(folder) if event.step == "pipeline"][-1]


def outcomes(end: Any) -> list[str]:
    return [step.outcome for step in end.steps]
