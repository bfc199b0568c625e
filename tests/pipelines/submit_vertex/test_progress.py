"""How a run on Vertex AI is doing, from what the API says of its job and tasks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from google.cloud.aiplatform_v1.types import PipelineState, PipelineTaskDetail

from components.shared.errors import PlatformRefusedError, RetryableError
from components.shared.kubeflow.report import ENDED, RunState, TaskState
from pipelines.submit.platform import Progress, RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.peers.vertex_api import LOCATION, NUMBER, VertexApi
from tests.peers.vertex_faults import Break

Run = Callable[..., RunRequest]
State: Any = PipelineTaskDetail.State
START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def job(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> Any:
    """A job that runs."""
    platform.submit(a_run())
    job = vertex.jobs["a-run"]
    job.state = PipelineState.PIPELINE_STATE_RUNNING
    return job


def task(number: int, name: str, state: Any, began: int | None = 0, parent: int = 1, error: str = "") -> Any:
    """What the API says of a task that began so many minutes after the run."""
    detail = PipelineTaskDetail(task_id=number, parent_task_id=parent, task_name=name, state=state)
    if began is not None:
        detail.start_time = START + timedelta(minutes=began)
    if error:
        detail.error = {"code": 9, "message": error}
    return detail


def test_tasks_are_told_in_the_order_in_which_they_began(platform: VertexPlatform, job: Any) -> None:
    job.job_detail.task_details = [
        task(7, "exit-step", State.PENDING, None),
        task(6, "evaluate", State.NOT_TRIGGERED, 5, parent=2),
        task(5, "train", State.RUNNING, 3, parent=2),
        task(4, "data-prep", State.SKIPPED, 1, parent=2),
        # Neither the run itself, what groups tasks nor a condition is a task to whoever reads this.
        task(3, "condition-2", State.SKIPPED, 6, parent=2),
        task(2, "exit-handler-1", State.RUNNING, 0),
        task(1, "a-run", State.RUNNING, 0, parent=0),
    ]
    progress = platform.progress(job.name, 30)
    assert progress == Progress("running", progress.steps)
    assert list(progress.tasks.items()) == [
        ("data-prep", "cached"),
        ("train", "running"),
        ("evaluate", "skipped"),
        ("exit-step", "waiting"),
    ]


def test_tasks_of_one_name_are_numbered(platform: VertexPlatform, job: Any) -> None:
    job.job_detail.task_details = [task(number, "train", State.SUCCEEDED, number) for number in (4, 2, 3)]
    assert list(platform.progress(job.name, 30).tasks) == ["train", "train 2", "train 3"]


def test_each_state_of_a_job_has_its_word(platform: VertexPlatform, job: Any) -> None:
    # One that is cancelling may still succeed or fail, as the API's reference says.
    words = {"UNSPECIFIED": "unknown", "QUEUED": "pending", "CANCELLING": "running"}
    states: Any = PipelineState
    for state in states:
        job.state, name = state, state.name.removeprefix("PIPELINE_STATE_")
        found = platform.progress(job.name, 30).state
        assert found == words.get(name, name.lower())
        assert found in get_args(RunState)
        assert (found in ENDED) == (name in ("SUCCEEDED", "FAILED", "CANCELLED"))


def test_each_state_of_a_task_has_its_word(platform: VertexPlatform, job: Any) -> None:
    words = {
        "STATE_UNSPECIFIED": "unknown", "PENDING": "waiting", "CANCEL_PENDING": "running", "CANCELLING": "running",
        "SKIPPED": "cached", "NOT_TRIGGERED": "skipped",
    }  # fmt: skip
    for state in State:
        job.job_detail.task_details = [task(2, "train", state)]
        found = platform.progress(job.name, 30).tasks["train"]
        assert found == words.get(state.name, state.name.lower())
        assert found in get_args(TaskState)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("The bucket is in another region.", "The bucket is in another region."),
        ("cannot log in with opensesame-7391", "cannot log in with [redacted]"),
        ("word " * 10_000, f"{'word ' * 199}word…"),
    ],
    ids=["jobs", "secret", "long"],
)
def test_without_a_task_that_failed_the_error_is_the_jobs(
    platform: VertexPlatform, job: Any, monkeypatch: pytest.MonkeyPatch, message: str, shown: str
) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "opensesame-7391")
    job.state, job.error = PipelineState.PIPELINE_STATE_FAILED, {"code": 9, "message": message}
    assert platform.progress(job.name, 30).error == shown


def test_the_error_is_that_of_the_task_that_failed(platform: VertexPlatform, job: Any) -> None:
    job.state = PipelineState.PIPELINE_STATE_FAILED
    job.error = {"code": 9, "message": "The DAG failed because some tasks failed."}
    failed = "The replica workerpool0-0 exited with a non-zero status of 2.\nTo find out more, see the logs."
    job.job_detail.task_details = [
        task(2, "data-prep", State.SUCCEEDED),
        task(3, "train", State.FAILED, 1, error=failed),
    ]
    progress = platform.progress(job.name, 30)
    assert progress.state == "failed"
    assert progress.error == f"train: {' '.join(failed.split())}"


def test_an_outage_is_no_refusal(platform: VertexPlatform, vertex: VertexApi, job: Any) -> None:
    vertex.plan(Break(), "GET pipelineJobs")
    with pytest.raises(RetryableError, match="does not answer"):
        platform.progress(job.name, 30)


def test_a_run_that_is_not_there_is_refused(platform: VertexPlatform) -> None:
    name = f"projects/{NUMBER}/locations/{LOCATION}/pipelineJobs/no-run"
    with pytest.raises(PlatformRefusedError, match=f"Vertex AI has no run {name}, or no longer"):
        platform.progress(name, 30)
