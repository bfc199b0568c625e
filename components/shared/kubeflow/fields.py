"""What the answers of Kubeflow's API have in common: fields that may be missing or odd, histories, what ended a pod."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.shared.kubeflow.report import BodyState, PodAttempt, PodState, TaskState

POD_STATES: dict[TaskState, PodState] = {
    "waiting": "waiting",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
}
FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED"})
_GOING_ON = frozenset({"PENDING", "RUNNING"})
_KILLED = re.compile(r"\(exit code 1(?:43|37)\)")
HANDLER = re.compile(r"exit-handler-\d+")
ON_EXIT = ".onExit"


@dataclass(frozen=True)
class Stop:
    """Whether somebody terminated the run, and when, where that is known."""

    asked: bool
    when: datetime | None

    def ended(self, pod: PodAttempt | None) -> bool:
        """Whether it is what ended a pod that failed; None: a task without a pod."""
        if not self.asked:
            return False
        if pod is None or self.when is None or pod.finished is None:
            return True
        return pod.finished >= self.when or _KILLED.search(pod.message) is not None


def as_body(state: TaskState) -> BodyState:
    """How the tasks before an exit task are doing, by the state of the node that holds them."""
    if state in ("succeeded", "failed", "running", "cancelled"):
        return state
    return "running" if state == "waiting" else "unknown"


def earlier_attempts(life: list[tuple[str, datetime | None]]) -> tuple[PodAttempt, ...]:
    """What a task did before a Retry of the run, whose pods, times and messages are gone."""
    found: list[PodAttempt] = []
    end = ""
    for state, _ in life:
        if state in FINAL:
            end = state
        elif state in _GOING_ON and end:
            found.append(PodAttempt(len(found), "", "succeeded" if end == "SUCCEEDED" else "failed"))
            end = ""
    return tuple(found)


def history(thing: Mapping[str, Any]) -> list[tuple[str, datetime | None]]:
    """The states that a run or task went through, each with its time."""
    entries = map(mapping, items(thing.get("state_history")))
    return [(text(entry.get("state")), moment(entry.get("update_time"))) for entry in entries]


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: object) -> str:
    """The value if it is text, else an empty one."""
    return value if isinstance(value, str) else ""


def moment(value: object) -> datetime | None:
    """A time of the API; Go's and Unix' zero mean that there is none."""
    try:
        when = datetime.fromisoformat(text(value))
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return when.astimezone(UTC) if when.year > 1970 else None
    except (ValueError, OverflowError):
        return None
