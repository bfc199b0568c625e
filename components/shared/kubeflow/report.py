"""How a run of Kubeflow Pipelines is doing: the run, its tasks, and their pods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

RunState = Literal["pending", "running", "cancelling", "succeeded", "failed", "cancelled", "paused", "unknown"]
BodyState = Literal["running", "succeeded", "failed", "cancelled", "unknown"]
TaskState = Literal["waiting", "running", "succeeded", "cached", "failed", "cancelled", "skipped", "unknown"]
PodState = Literal["waiting", "running", "succeeded", "failed"]

ENDED: frozenset[RunState] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class PodAttempt:
    """One pod of a task.

    Attributes:
        number: From 0; it counts on over a Retry of the run.
        pod: The pod's name, as for ``kubectl logs``; empty where it is not known or the pod was removed by a Retry.
        message: Argo's, such as "main: OOMKilled (exit code 1)", "pod deleted" or "Unschedulable: …".
        started: When Argo made it; None: not known.
    """

    number: int
    pod: str
    state: PodState
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None


@dataclass(frozen=True)
class TaskReport:
    """One task of a run.

    Attributes:
        name: Its name in the pipeline; of the second iteration of a loop with a number: ``train 2``.
        state: ``skipped``: never started.
        attempts: Its pods in the order they were made; none for a task that is served from the cache.
        message: Why it waits or failed; empty otherwise.
        retried: Whether a Retry of the run ran it again.
        exit_task: Whether it is an exit task, which says nothing of the run's outcome.
    """

    name: str
    state: TaskState
    attempts: tuple[PodAttempt, ...] = ()
    message: str = ""
    retried: bool = False
    exit_task: bool = False


@dataclass(frozen=True)
class RunReport:
    """One run.

    Attributes:
        state: ``cancelled`` also where Kubeflow says FAILED after somebody terminated it.
        tasks: By their names, in the order they began, exit tasks last.
        retried: Whether the run ended once and was run again by a Retry.
        body: How the tasks that an exit task waits for are doing; ``unknown`` where there is none.
        message: What Kubeflow or Argo says of the run as a whole; mostly empty.
    """

    state: RunState
    tasks: dict[str, TaskReport]
    retried: bool = False
    body: BodyState = "unknown"
    message: str = ""
