"""How a job of Vertex AI is doing, in our words."""

from __future__ import annotations

from google.cloud.aiplatform_v1.types import PipelineJob, PipelineState, PipelineTaskDetail

from components.shared.events.redaction import redact
from components.shared.kubeflow.run import PodAttempt, PodState, RunState, TaskReport, TaskState
from components.shared.params.allowed_classes import shortened
from pipelines.submit.platform import Progress

_LONGEST = 1000  # characters of an error

_RUN_STATES: dict[int, RunState] = {
    PipelineState.PIPELINE_STATE_QUEUED: "pending",
    PipelineState.PIPELINE_STATE_PENDING: "pending",
    PipelineState.PIPELINE_STATE_RUNNING: "running",
    PipelineState.PIPELINE_STATE_SUCCEEDED: "succeeded",
    PipelineState.PIPELINE_STATE_FAILED: "failed",
    PipelineState.PIPELINE_STATE_CANCELLING: "running",
    PipelineState.PIPELINE_STATE_CANCELLED: "cancelled",
    PipelineState.PIPELINE_STATE_PAUSED: "paused",
}

_Task = PipelineTaskDetail.State
_TASK_STATES: dict[int, TaskState] = {
    _Task.PENDING: "waiting",
    _Task.RUNNING: "running",
    _Task.SUCCEEDED: "succeeded",
    _Task.CANCEL_PENDING: "running",
    _Task.CANCELLING: "running",
    _Task.CANCELLED: "cancelled",
    _Task.FAILED: "failed",
    # "Specifies task was skipped due to cache hit", says the API's reference.
    _Task.SKIPPED: "cached",
    _Task.NOT_TRIGGERED: "skipped",
}
_ATTEMPTS: dict[TaskState, PodState] = {
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "failed",
}


def state_of(job: PipelineJob) -> RunState:
    """How a job is doing, in one word."""
    return _RUN_STATES.get(job.state, "unknown")


def is_ending(job: PipelineJob) -> bool:
    """Whether a job goes on, and is being cancelled."""
    return bool(job.state == PipelineState.PIPELINE_STATE_CANCELLING)


def progress_of(job: PipelineJob) -> Progress:
    """How a job and its tasks are doing."""
    details = list(job.job_detail.task_details)
    # The run itself and groups of tasks, such as what an exit handler is for, are in the list as well.
    groups = {detail.parent_task_id for detail in details if detail.parent_task_id}
    job_id = job.name.rpartition("/")[2]
    tasks = [detail for detail in details if detail.task_id not in groups and detail.task_name != job_id]
    tasks.sort(key=_began)
    steps: dict[str, TaskReport] = {}
    errors = []
    for detail in tasks:
        name, number = detail.task_name, 2
        while name in steps:  # iterations of a loop
            name, number = f"{detail.task_name} {number}", number + 1
        steps[name] = _step(name, detail)
        if steps[name].state == "failed" and detail.error.message:
            errors.append(f"{name}: {detail.error.message}")
    state = state_of(job)
    if job.error.message and not errors:
        errors.append(job.error.message)
    return Progress(state, steps, shortened(redact(" ".join("; ".join(errors).split())), _LONGEST))


def _step(name: str, detail: PipelineTaskDetail) -> TaskReport:
    """A task; the API names no pods and tells of one attempt."""
    state = _TASK_STATES.get(detail.state, "unknown")
    made = _ATTEMPTS.get(state)
    attempts = (PodAttempt(0, "", made, "", detail.start_time, detail.end_time),) if made else ()
    return TaskReport(name, state, attempts, detail.error.message if state == "failed" else "")


def _began(detail: PipelineTaskDetail) -> tuple[bool, float]:
    """What sorts tasks by when they began, those that have not at the end."""
    when = detail.start_time or detail.create_time
    return when is None, when.timestamp() if when is not None else 0.0
