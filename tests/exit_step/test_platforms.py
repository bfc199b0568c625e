"""What stands for the pipeline's status, by the platform that says it and in its spelling of the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.shared.events.event import StepEvent
from tests.exit_step.ends import (
    CANCELLED,
    FAILED,
    RUN,
    STARTED,
    SUCCEEDED,
    Told,
    call,
    ended,
    outcomes,
    publish,
    spool,
)
from tests.peers.kafka_topics import KafkaTopics

VERTEX = {
    "pipelineJobResourceName": f"projects/123456789012/locations/europe-west4/pipelineJobs/{RUN}",
    "pipelineTaskName": "exit-handler-1",
}
KUBEFLOW = {"pipelineJobResourceName": f"shutterline-image-classifier-{RUN}", "pipelineTaskName": "exit-handler-1"}
LOCAL = {"pipeline_job_resource_name": "local-pipeline-exit-handler-1", "pipeline_task_name": "exit-handler-1"}
VERTEX_MESSAGE = "The DAG failed because some tasks failed. The failed tasks are: [train]."
DONE = {"data-prep": (STARTED, SUCCEEDED)}
FAILS = DONE | {"train": (STARTED, FAILED)}
STOPS = DONE | {"train": (STARTED, CANCELLED)}
CACHED = ["cached"] * 3
SILENT = ["not started"] * 3
OWN = ["succeeded", "failed", "not started"]
STOPPED = ["succeeded", "cancelled", "not started"]


# Kubeflow to 2.16 hands on the state that its metadata store has, always with an empty error; after that the state of
# its own tables, with the state's number for an error's code; another version of that says COMPLETE again.
@pytest.mark.parametrize(
    ("status", "steps", "outcome", "reason", "expected"),
    [
        (VERTEX | {"state": "SUCCEEDED"}, {}, "succeeded", "", CACHED),
        (KUBEFLOW | {"state": "COMPLETE", "error": {}}, {}, "succeeded", "", CACHED),
        (KUBEFLOW | {"state": "CACHED", "error": {}}, {}, "succeeded", "", CACHED),
        (KUBEFLOW | {"state": "SUCCEEDED", "error": {"code": 2.0}}, {}, "succeeded", "", CACHED),
        (KUBEFLOW | {"state": "SKIPPED", "error": {"code": 3.0}}, {}, "succeeded", "", CACHED),
        (LOCAL | {"state": "SUCCEEDED", "error": {}}, {}, "succeeded", "", CACHED),
        (LOCAL | {"state": "SUCCEEDED", "error": {}}, {"evaluate": (STARTED, SUCCEEDED)}, "succeeded", "",
         ["cached", "cached", "succeeded"]),
        # The steps' own errors come before what a platform says.
        (VERTEX | {"state": "FAILED", "error": {"code": 9.0, "message": VERTEX_MESSAGE}}, FAILS, "failed",
         "train: no room", OWN),
        (VERTEX | {"state": "FAILED", "error": {"code": 9.0, "message": VERTEX_MESSAGE}}, {}, "failed",
         VERTEX_MESSAGE, SILENT),
        (KUBEFLOW | {"state": "FAILED", "error": {}}, FAILS, "failed", "train: no room", OWN),
        (KUBEFLOW | {"state": "FAILED", "error": {}}, {}, "failed", "the platform gave no reason", SILENT),
        (KUBEFLOW | {"state": "FAILED", "error": {"code": 4.0, "message": "exit code 2"}}, {}, "failed",
         "exit code 2", SILENT),
        (LOCAL | {"state": "FAILED", "error": {"code": 1, "message": "Task failed."}}, {}, "failed", "Task failed.",
         SILENT),
        (VERTEX | {"state": "CANCELLED", "error": {"code": 1.0, "message": "Cancelled."}}, STOPS, "cancelled",
         "train was cancelled", STOPPED),
        (KUBEFLOW | {"state": "CANCELED", "error": {}}, STOPS, "cancelled", "train was cancelled", STOPPED),
        # A platform that has not noticed that the pipeline is over: its steps say it.
        (VERTEX | {"state": "CANCELLING"}, STOPS, "cancelled", "train was cancelled", STOPPED),
        (KUBEFLOW | {"state": "RUNNING", "error": {}}, FAILS, "failed", "train: no room", OWN),
        (KUBEFLOW | {"state": "RUNNING", "error": {"code": 1.0}}, {"evaluate": (STARTED, SUCCEEDED)}, "succeeded", "",
         ["cached", "cached", "succeeded"]),
        (KUBEFLOW | {"state": "UNKNOWN", "error": {}}, {"train": (STARTED,)}, "failed", "train was killed",
         ["cached", "killed", "not started"]),
        # Evaluation may have been cached, or lost.
        (KUBEFLOW | {"error": {}}, {"train": (STARTED, SUCCEEDED)}, "unknown",
         "neither its events nor the platform say how it ended", ["cached", "succeeded", "not started"]),
    ],
)  # fmt: skip
def test_each_platforms_status_becomes_the_pipelines_end(
    events: Path,
    status: dict[str, Any],
    steps: dict[str, tuple[Told, ...]],
    outcome: str,
    reason: str,
    expected: list[str],
) -> None:
    for step, told in steps.items():
        spool(events, step, *told)
    report = call(events.parent, status)
    assert (report["outcome"], report["reason"], list(report["steps"].values())) == (outcome, reason, expected)
    event = ended(events)
    assert (event.state, event.data.platform_state) == (outcome, status.get("state", ""))
    assert (event.data.reason, outcomes(event.data)) == (reason, expected)


def test_through_kafka_alone_the_end_of_a_cached_run_is_known_and_its_silent_steps_are_not(
    kafka_broker: KafkaTopics, topic: str, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(alone)
    kafka_broker.create_topic(topic)
    for step in ("data-prep", "train", "evaluate"):
        publish(kafka_broker, topic, step, STARTED, SUCCEEDED, run="the-first-run")
    publish(kafka_broker, topic, "evaluate", STARTED, SUCCEEDED)

    call(alone, VERTEX | {"state": "SUCCEEDED"}, KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC=topic, TIMEOUT=10)

    told = [StepEvent.from_bytes(record.value) for record in kafka_broker.records(topic)]
    (event,) = [event for event in told if event.step == "pipeline"]
    assert (event.run, event.state) == (RUN, "succeeded")
    assert outcomes(event.data) == ["unknown", "unknown", "succeeded"], "one may have run while Kafka was away"


def test_secrets_in_a_platforms_message_are_taken_out(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "x9-hunter2")
    message = "container ended with env KAFKA_SASL_PASSWORD=x9-hunter2, and x9-hunter2 in its log"
    call(events.parent, VERTEX | {"state": "FAILED", "error": {"code": 9.0, "message": message}})
    record = (events.parent / "steps" / "exit.json").read_text()
    assert "env KAFKA_SASL_PASSWORD=[redacted], and [redacted] in its log" in record
    assert "hunter2" not in record + "".join(path.read_text() for path in events.iterdir())
