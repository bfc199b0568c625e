"""How a run of Kubeflow Pipelines and its tasks are doing, in our words."""

from __future__ import annotations

import re
from typing import Any

from components.shared.events.redaction import redact
from pipelines.submit.platform import Progress, RunState, TaskState
from pipelines.watch_text import printable

_LONGEST = 1000  # characters of an error

_RUN_STATES: dict[str, RunState] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "running",
    "CANCELED": "cancelled",
    "SKIPPED": "cancelled",
    "PAUSED": "paused",
}
_TASK_STATES: dict[str, TaskState] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "running",
    "CANCELED": "cancelled",
    "SKIPPED": "skipped",
}
# The list has a node for every node of Argo's workflow. Besides the tasks these are the pipeline's root, the driver of
# each task, the pod of each task, of a retried one a pod for each attempt.
_NOT_TASKS = re.compile(r"root|.*-driver|(retry-)?(.*-)?executor(\(\d+\))?|(root|.*-driver)\(\d+\)")
_EXECUTOR = re.compile(r"(retry-)?(.*-)?executor")


def run_state(run: Any) -> RunState:
    """How a run is doing, in one word."""
    return _RUN_STATES.get(run.state or "", "unknown")


def is_ending(run: Any) -> bool:
    """Whether somebody has cancelled it and it has not ended yet."""
    return bool(run.state == "CANCELING")


def progress_of(run: Any) -> Progress:
    """How a run and its tasks are doing."""
    details = sorted((run.run_details.task_details if run.run_details else None) or [], key=_began)
    children = {child.pod_name for detail in details for child in detail.child_tasks or [] if child.pod_name}
    by_pod = {detail.pod_name: detail for detail in details if detail.pod_name}
    states: dict[str, TaskState] = {}
    errors = [_error_of(run)]
    for detail in details:
        name = detail.display_name or ""
        # The workflow itself is in the list as well: it is nobody's child.
        if not name or _NOT_TASKS.fullmatch(name) or (children and detail.pod_name not in children):
            continue
        state = _TASK_STATES.get(detail.state or "", "unknown")
        if state == "succeeded" and _is_cached(detail, by_pod):
            state = "cached"
        states[_unique(printable(name, 60), states)] = state
        if state == "failed":
            errors.append(_with_name(name, _error_of(detail)))
    if not any(errors):
        errors = [_with_name(detail.display_name, _error_of(detail)) for detail in details if detail.state == "FAILED"]
    told = "; ".join(dict.fromkeys(error for error in errors if error))
    return Progress(run_state(run), states, printable(redact(told), _LONGEST))


def _began(detail: Any) -> tuple[bool, str]:
    moment = detail.start_time or detail.create_time
    return moment is None, moment.isoformat() if moment else ""


def _is_cached(detail: Any, by_pod: dict[str, Any]) -> bool:
    """Whether its outputs came from the cache: then the pod that would have made them was skipped."""
    below = [by_pod[child.pod_name] for child in detail.child_tasks or [] if child.pod_name in by_pod]
    return any(_EXECUTOR.fullmatch(child.display_name or "") and child.state == "SKIPPED" for child in below)


def _unique(name: str, taken: dict[str, TaskState]) -> str:
    """A name of its own for each iteration of a loop."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name} {number}", number + 1
    return unique


def _error_of(thing: Any) -> str:
    return str(thing.error.message or "") if thing.error else ""


def _with_name(name: str | None, error: str) -> str:
    return f"{name}: {error}" if error else ""
