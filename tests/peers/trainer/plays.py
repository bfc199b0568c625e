"""What can change in a history of a TrainJob, and how a history is played on the server.

A history is a list of moments, in seconds from the TrainJob's creation, and of what changes then. Given a scale, a
minute is played in a second or two. When the TrainJob is deleted, what is left of it is not played.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.peers.trainer.pods import Pods
from tests.peers.trainer.refusals import Refused
from tests.peers.trainer.store import Object
from tests.peers.trainer.train_jobs import TrainJobStatus

if TYPE_CHECKING:
    from tests.peers.trainer.api import TrainerApi

# How the API server is away: connections are refused, hang, or get a status.
Outage = Literal["refused", "hanging"] | int


@dataclass
class Stage:
    """Where a history is played: the server, one TrainJob's status and its pods."""

    api: TrainerApi
    status: TrainJobStatus
    pods: Pods


@dataclass(frozen=True)
class Pod:
    """A pod does something: a method of `Pods`, or "create", which gives it a new name."""

    index: int
    does: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, stage: Stage) -> None:
        getattr(stage.pods, self.does)(self.index, *self.arguments, **dict(self.options))


def pod(index: int, does: str, *arguments: Any, **options: Any) -> Pod:
    """A pod does something."""
    return Pod(index, does, arguments, tuple(options.items()))


@dataclass(frozen=True)
class Prints:
    """A pod's container prints lines."""

    index: int
    lines: tuple[str, ...]

    def __call__(self, stage: Stage) -> None:
        stage.api.logs.write(stage.pods.namespace, stage.pods.name(self.index), *self.lines)


@dataclass(frozen=True)
class Job:
    """The Job: created, or its counts and what it says at its end."""

    conditions: tuple[tuple[str, str, str], ...] = ()
    counts: tuple[tuple[str, int], ...] = ()

    def __call__(self, stage: Stage) -> None:
        names = {"set": stage.pods.set_name, "job": stage.pods.job, "namespace": stage.pods.namespace}
        names |= {f"pod{index}": stage.pods.name(index) for index in stage.pods.indices()}
        filled = [(kind, reason, message.format(**names)) for kind, reason, message in self.conditions]
        stage.pods.job_status(*filled, **dict(self.counts))


@dataclass(frozen=True)
class Sets:
    """Something of the TrainJob's status changes: a method of `TrainJobStatus`."""

    does: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, stage: Stage) -> None:
        filled = [each.format(job=stage.pods.job) if isinstance(each, str) else each for each in self.arguments]
        getattr(stage.status, self.does)(*filled, **dict(self.options))


def jobs(**counts: int) -> Sets:
    """The TrainJob counts its Job."""
    return Sets("jobs", (), tuple(counts.items()))


def reports(percentage: int, remaining: int | None = None, **metrics: float) -> Sets:
    """A pod has reported."""
    return Sets("reports", (percentage, remaining), tuple(metrics.items()))


def ends(kind: str, reason: str, message: str) -> Sets:
    """The TrainJob ends."""
    return Sets("condition", (kind, reason, message))


@dataclass(frozen=True)
class Away:
    """The API server goes away; without a way, it comes back."""

    how: Outage | None

    def __call__(self, stage: Stage) -> None:
        if self.how is None:
            stage.api.come_back()
        else:
            stage.api.go_away(self.how)


Change = Callable[[Stage], object]
History = Sequence[tuple[float, Change]]


def starts(stage: Stage) -> None:
    """Trainer and JobSet take the TrainJob up: the Job and its pods are there."""
    stage.pods.create_job()
    for index in range(stage.pods.nodes):
        stage.pods.create(index)
    stage.status.jobs(active=1)


def runs(stage: Stage) -> None:
    """All containers run."""
    for index in stage.pods.indices():
        stage.pods.waiting(index)
        stage.pods.running(index)
    stage.pods.job_status(ready=stage.pods.nodes)
    stage.status.jobs(active=1, ready=1)


def breaks_streams(stage: Stage) -> None:
    """All logs that are followed break off."""
    stage.api.logs.break_streams()


def forgets(stage: Stage) -> None:
    """Watches end, and what changed before is forgotten: a watch of it gets 410."""
    stage.api.store.forget()
    stage.api.end_streams()


def vanishes(stage: Stage) -> None:
    """Somebody deletes the TrainJob, or the user's namespace is emptied."""
    stage.api.remove_train_job(stage.pods.set_name)


class Player:
    """Plays a history for every TrainJob that is created from now on.

    Args:
        api: The server.
        history: What happens; `at_deletion` when the TrainJob is deleted, after which nothing is left of it.
        scale: How long a second takes.
    """

    def __init__(self, api: TrainerApi, history: History, scale: float, at_deletion: History) -> None:
        self._api = api
        self._history = history
        self._at_deletion = at_deletion
        self._scale = scale
        self._deleted: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []
        self._is_over = False
        api.on_create, api.on_delete = self._begin, self._note_deletion

    def close(self) -> None:
        """Stop playing."""
        self._is_over = True
        for event in self._deleted.values():
            event.set()
        for thread in self._threads:
            thread.join()

    def _begin(self, job: Object) -> None:
        self._deleted[job["metadata"]["uid"]] = threading.Event()
        thread = threading.Thread(target=self._play, args=(job,), name="history")
        self._threads.append(thread)
        thread.start()

    def _note_deletion(self, item: Object) -> None:
        if item["kind"] == "TrainJob" and (event := self._deleted.get(item["metadata"]["uid"])):
            event.set()

    def _play(self, job: Object) -> None:
        status, pods = TrainJobStatus(self._api.store, job), Pods(self._api.store, self._api.logs, job)
        stage, deleted = Stage(self._api, status, pods), self._deleted[job["metadata"]["uid"]]
        past = 0.0
        for moment, change in self._history:
            if deleted.wait((moment - past) * self._scale):
                break
            past = moment
            try:
                change(stage)
            except Refused:
                break  # deleted meanwhile
        deleted.wait()
        past = 0.0
        for moment, change in self._at_deletion if not self._is_over else ():
            threading.Event().wait((moment - past) * self._scale)
            past = moment
            try:
                change(stage)
            except (Refused, LookupError):
                continue  # what is to end has not begun
        if not self._is_over:
            pods.remove_all()
