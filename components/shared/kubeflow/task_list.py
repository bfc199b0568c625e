"""The tasks of a run from the list of its nodes, for want of Argo's workflow: names and times are all there is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from components.shared.kubeflow.fields import (
    HANDLER,
    ON_EXIT,
    POD_STATES,
    Stop,
    as_body,
    earlier_attempts,
    history,
    items,
    mapping,
    moment,
    text,
)
from components.shared.kubeflow.report import BodyState, PodAttempt, TaskReport, TaskState

LISTED_STATES: dict[str, TaskState] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "running",
    "CANCELED": "cancelled",
    "SKIPPED": "skipped",
}
# What the list holds beside the tasks: the root, executors, attempts, iterations, and what kfp makes of control flow.
_NOT_TASKS = re.compile(
    r"root|executor|.*\(.*|.*\.onExit|(?:exit-handler|for-loop|condition|condition-branches)-\d+|iteration-iterations"
)
_AT_ONCE_S = 2.0  # in which a task of the cache ends: no pod is started for it


def tasks_of_list(details: list[Mapping[str, Any]], stop: Stop) -> list[TaskReport]:
    """The tasks in the order they began, exit tasks last."""
    entries = [_Entry.of(detail) for detail in details]
    names = {entry.name for entry in entries}
    exits = [entry for entry in entries if entry.name.endswith(ON_EXIT)]
    executors = [entry for entry in entries if entry.name.startswith("executor")]
    tasks = []
    for entry in entries:
        driver = entry.name.endswith("-driver") and f"{entry.name}-driver" not in names
        if not entry.name or _NOT_TASKS.fullmatch(entry.name) or driver or entry.is_workflow:
            continue
        exit_task = any(each.spans(entry) for each in exits)
        tasks.append((exit_task, entry.order, entry))
    running = [entry for *_, entry in tasks if entry.state == "running"]
    found = []
    for exit_task, _, entry in sorted(tasks, key=lambda each: each[:2]):
        state = entry.state
        if state == "succeeded" and any(each.skipped_for(entry) for each in executors):
            state = "cached"
        elif state == "running" and running == [entry]:
            pods = [each for each in executors if each.order[:2] >= entry.order[:2]]
            state = "waiting" if pods and max(pods, key=lambda each: each.order).state == "waiting" else state
        attempts = earlier = earlier_attempts(entry.life)
        if (pod := POD_STATES.get(state)) is not None:
            attempts += (PodAttempt(len(earlier), "", pod, "", entry.started, entry.finished),)
        if state == "failed" and stop.ended(attempts[-1]):
            state = "cancelled"
        found.append(TaskReport(entry.name, state, attempts, entry.error, bool(earlier), exit_task))
    return found


@dataclass(frozen=True)
class _Entry:
    """An entry of the list of a run's nodes."""

    name: str
    state: TaskState
    error: str
    started: datetime | None
    finished: datetime | None
    life: list[tuple[str, datetime | None]]
    is_workflow: bool

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> _Entry:
        name, finished = text(detail.get("display_name")), moment(detail.get("end_time"))
        children = (text(mapping(child).get("pod_name")) for child in items(detail.get("child_tasks")))
        # A node that was omitted has a time, and no state.
        state = LISTED_STATES.get(text(detail.get("state")), "skipped" if finished else "unknown")
        return cls(
            name=name,
            state=state,
            error=text(mapping(detail.get("error")).get("message")),
            started=moment(detail.get("start_time")),
            finished=finished,
            life=history(detail),
            is_workflow=any(child.rpartition("-")[0] == name for child in children),
        )

    @property
    def order(self) -> tuple[bool, float, str]:
        return self.started is None, self.started.timestamp() if self.started else 0.0, self.name

    def spans(self, other: _Entry) -> bool:
        """Whether another began after this and while it went on."""
        if self.started is None or other.started is None or other.started <= self.started:
            return False
        return self.finished is None or other.started <= self.finished

    def skipped_for(self, task: _Entry) -> bool:
        """Whether this is the executor of a task that was not needed: both ended as soon as they began."""
        if self.state != "skipped" or None in (self.started, task.started, task.finished):
            return False
        ends = (self.started, task.started, task.finished)
        seconds = [end.timestamp() for end in ends if end is not None]
        return max(seconds) - min(seconds) <= _AT_ONCE_S


def body_of_list(details: Iterable[Mapping[str, Any]]) -> BodyState:
    """How the tasks that an exit task waits for are doing."""
    for detail in details:
        if HANDLER.fullmatch(text(detail.get("display_name"))):
            return as_body(LISTED_STATES.get(text(detail.get("state")), "unknown"))
    return "unknown"
