from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.executor import Executor

from components.exit_step.component import exit_step
from components.shared.events import redaction
from components.shared.events.data import PipelineEnded
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from components.shared.step import RECORDS_VARIABLE
from tests.configs import small
from tests.exit_step.test_kafka_history import tell
from tests.exit_step.test_report import CANCELLED, FAILED, RUN, STARTED, SUCCEEDED, spool
from tests.peers.kafka_topics import KafkaTopics

# What stands for the pipeline's status, by the platform that says it and in its spelling of the fields.
VERTEX = {
    "pipelineJobResourceName": f"projects/123456789012/locations/europe-west4/pipelineJobs/{RUN}",
    "pipelineTaskName": "exit-handler-1",
}
KUBEFLOW = {"pipelineJobResourceName": f"shutterline-image-classifier-{RUN}", "pipelineTaskName": "exit-handler-1"}
LOCAL = {"pipeline_job_resource_name": "local-pipeline-exit-handler-1", "pipeline_task_name": "exit-handler-1"}
Status = dict[str, Any]
# Kubeflow to 2.16 hands on the state that its metadata store has, always with an empty error; after that the state of
# its own tables, with the state's number for an error's code; another version of that says COMPLETE again.
SUCCESS: dict[str, Status] = {
    "Vertex AI": VERTEX | {"state": "SUCCEEDED"},
    "Kubeflow 2.16": KUBEFLOW | {"state": "COMPLETE", "error": {}},
    "Kubeflow 2.16, all cached": KUBEFLOW | {"state": "CACHED", "error": {}},
    "Kubeflow without metadata store": KUBEFLOW | {"state": "SUCCEEDED", "error": {"code": 2.0}},
    "Kubeflow without metadata store, all cached": KUBEFLOW | {"state": "CACHED", "error": {"code": 5.0}},
    "Kubeflow without metadata store, skipped": KUBEFLOW | {"state": "SKIPPED", "error": {"code": 3.0}},
    "local": LOCAL | {"state": "SUCCEEDED", "error": {}},
}
VERTEX_MESSAGE = "The DAG failed because some tasks failed. The failed tasks are: [train]."
# With what each tells of why: that is the reason where the steps' own words cannot be had.
FAILURE: dict[str, tuple[Status, str]] = {
    "Vertex AI": (VERTEX | {"state": "FAILED", "error": {"code": 9.0, "message": VERTEX_MESSAGE}}, VERTEX_MESSAGE),
    "Kubeflow 2.16": (KUBEFLOW | {"state": "FAILED", "error": {}}, "the platform gave no reason"),
    "Kubeflow without metadata store": (
        KUBEFLOW | {"state": "FAILED", "error": {"code": 4.0, "message": "exit code 2"}}, "exit code 2",
    ),
    "local": (
        LOCAL | {"state": "FAILED", "error": {"code": 1, "message": "Task exit-handler-1 failed."}},
        "Task exit-handler-1 failed.",
    ),
}  # fmt: skip
CANCELLATION: dict[str, Status] = {
    "Vertex AI": VERTEX | {"state": "CANCELLED", "error": {"code": 1.0, "message": "Task was cancelled."}},
    "Kubeflow 2.16": KUBEFLOW | {"state": "CANCELED", "error": {}},
}
# What is said of a pipeline that is over by a platform that has not noticed.
UNNOTICED: dict[str, Status] = {
    "Vertex AI": VERTEX | {"state": "CANCELLING"},
    "Kubeflow 2.16": KUBEFLOW | {"state": "RUNNING", "error": {}},
    "Kubeflow 2.16, unknown": KUBEFLOW | {"state": "UNKNOWN", "error": {}},
    "Kubeflow without metadata store": KUBEFLOW | {"state": "RUNNING", "error": {"code": 1.0}},
    "Kubeflow without metadata store, none": KUBEFLOW | {"error": {}},
}


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "events").mkdir()
    monkeypatch.setattr(redaction, "_registered", set())
    monkeypatch.setenv(RUN_VARIABLE, RUN)
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events"))
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "steps"))
    return tmp_path / "events"


def call(folder: Path, status: Status, **params: Any) -> None:
    values = {
        "params": json.dumps(small(**params)),
        "job_id": "7c1f1fd5-60d5-4b0e-8b5a-0a9f52a3a8f6",
        "job_name": RUN,
        "status": status,
    }
    given = {
        "inputs": {"parameterValues": values},
        "outputs": {
            "outputFile": str(folder / "executor_output.json"),
            "artifacts": {
                "end": {
                    "artifacts": [
                        {
                            "name": "end",
                            "type": {"schemaTitle": "system.Artifact"},
                            "metadata": {},
                            "uri": str(folder / "kfp" / "run" / "exit-step" / "end"),
                        }
                    ]
                }
            },
        },
    }
    Executor(executor_input=given, function_to_execute=exit_step.python_func).execute()


def ended(folder: Path) -> StepEvent:
    return [event for event in events_in(folder) if event.step == "pipeline"][-1]


def outcomes(data: Any) -> list[str]:
    assert isinstance(data, PipelineEnded)
    return [step.outcome for step in data.steps]


@pytest.mark.parametrize("platform", SUCCESS)
def test_a_second_run_that_was_cached_says_so_of_each_step_on(events: Path, tmp_path: Path, platform: str) -> None:
    call(tmp_path, SUCCESS[platform])
    event = ended(events)
    assert (event.state, event.data.reason) == ("succeeded", "")
    assert event.data.platform_state == SUCCESS[platform]["state"]
    assert outcomes(event.data) == ["cached", "cached", "cached"]


@pytest.mark.parametrize("platform", SUCCESS)
def test_only_the_steps_that_did_not_run_were_cached_on(events: Path, tmp_path: Path, platform: str) -> None:
    spool(events, "evaluate", STARTED, SUCCEEDED)
    call(tmp_path, SUCCESS[platform])
    assert outcomes(ended(events).data) == ["cached", "cached", "succeeded"]


@pytest.mark.parametrize("platform", FAILURE)
def test_a_steps_own_words_are_the_reason_on(events: Path, tmp_path: Path, platform: str) -> None:
    spool(events, "data-prep", STARTED, SUCCEEDED)
    spool(events, "train", STARTED, FAILED)
    call(tmp_path, FAILURE[platform][0])
    event = ended(events)
    assert (event.state, event.data.reason) == ("failed", "train: no room")
    assert outcomes(event.data) == ["succeeded", "failed", "not started"]


@pytest.mark.parametrize("platform", FAILURE)
def test_the_platforms_words_are_the_reason_where_no_step_spoke_on(events: Path, tmp_path: Path, platform: str) -> None:
    status, reason = FAILURE[platform]
    call(tmp_path, status)
    event = ended(events)
    assert (event.state, event.data.reason) == ("failed", reason)
    assert outcomes(event.data) == ["not started"] * 3


@pytest.mark.parametrize("platform", CANCELLATION)
def test_a_cancelled_pipeline_is_told_as_that_on(events: Path, tmp_path: Path, platform: str) -> None:
    spool(events, "data-prep", STARTED, SUCCEEDED)
    spool(events, "train", STARTED, CANCELLED)
    call(tmp_path, CANCELLATION[platform])
    event = ended(events)
    assert (event.state, event.data.reason) == ("cancelled", "train was cancelled")
    assert outcomes(event.data) == ["succeeded", "cancelled", "not started"]


@pytest.mark.parametrize("platform", UNNOTICED)
@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (("evaluate", STARTED, SUCCEEDED), "succeeded"),
        (("train", STARTED, FAILED), "failed"),
        (("train", STARTED), "failed"),
        (("train", STARTED, CANCELLED), "cancelled"),
    ],
    ids=["succeeded", "failed", "killed", "cancelled"],
)
def test_where_the_platform_has_not_noticed_the_end_its_steps_tell_it_on(
    events: Path, tmp_path: Path, platform: str, last: tuple[Any, ...], outcome: str
) -> None:
    spool(events, *last)
    call(tmp_path, UNNOTICED[platform])
    event = ended(events)
    assert (event.state, event.data.platform_state) == (outcome, UNNOTICED[platform].get("state", ""))


@pytest.mark.parametrize("platform", UNNOTICED)
def test_where_nobody_has_noticed_the_end_it_is_unknown_on(events: Path, tmp_path: Path, platform: str) -> None:
    spool(events, "train", STARTED, SUCCEEDED)  # evaluate may have been cached, or lost
    call(tmp_path, UNNOTICED[platform])
    event = ended(events)
    assert event.state == "unknown"
    assert outcomes(event.data) == ["cached", "succeeded", "not started"]


@pytest.mark.parametrize("platform", ["Vertex AI", "Kubeflow 2.16"])
def test_through_kafka_alone_the_end_of_a_cached_run_is_known_and_its_silent_steps_are_not(
    kafka_broker: KafkaTopics,
    topic: str,
    events: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
) -> None:
    monkeypatch.delenv(EVENTS_VARIABLE)  # as where no directory is shared: each step has its own machine
    monkeypatch.chdir(tmp_path)
    kafka_broker.create_topic(topic)
    for step in ("data-prep", "train", "evaluate"):
        tell(kafka_broker, topic, step, STARTED, SUCCEEDED, run="the-first-run")
    tell(kafka_broker, topic, "evaluate", STARTED, SUCCEEDED)

    call(tmp_path, SUCCESS[platform], KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC=topic, TIMEOUT=10)

    told = [StepEvent.from_bytes(record.value) for record in kafka_broker.records(topic)]
    (event,) = [event for event in told if event.step == "pipeline"]
    assert (event.run, event.state) == (RUN, "succeeded")
    assert outcomes(event.data) == ["unknown", "unknown", "succeeded"], (
        "a silent step may have run while Kafka was away"
    )


def test_secrets_in_a_platforms_message_are_taken_out(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "x9-hunter2")
    message = "container ended with env KAFKA_SASL_PASSWORD=x9-hunter2, and x9-hunter2 in its log"
    call(tmp_path, VERTEX | {"state": "FAILED", "error": {"code": 9.0, "message": message}})
    record = (tmp_path / "steps" / "exit.json").read_text()
    assert "env KAFKA_SASL_PASSWORD=[redacted], and [redacted] in its log" in record
    assert "hunter2" not in record + "".join(path.read_text() for path in events.iterdir())
