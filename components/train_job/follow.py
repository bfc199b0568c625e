"""Follows a TrainJob to its end, or ends it: its conditions, its pods, and the log of the pod that reports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

from components.shared.errors import PlatformRefusedError, RetryableError
from components.shared.events.data import Emit, Progress
from components.shared.logs import step_logger
from components.shared.retry import pause_s
from components.train_job.api import Api, ApiError
from components.train_job.jobs import Rights, TrainJobs
from components.train_job.pod_log import Line, PodLog
from components.train_job.relay import Relay
from components.train_job.status import (
    Ending,
    Loss,
    ending_of,
    is_being_deleted,
    losses_of,
    progress_of,
    reporting_pod,
    state_of,
    summary_of,
)

_LAST_ANSWER_S = 3.0  # where the step itself is to end


class Follower:
    """Follows one TrainJob, which is there, or is made of its manifest.

    Attributes:
        state: What it does or waits for, as it was last seen.
        losses: What ended badly of the pods that were last seen.
    """

    def __init__(
        self,
        api: Api,
        jobs: TrainJobs,
        job: Mapping[str, Any],
        rights: Rights,
        relay: Relay,
        emit: Emit,
    ) -> None:
        self.name: str = job["metadata"]["name"]
        self.state = ""
        self.losses: list[Loss] = []
        self._job = job
        self._uid: str = job["metadata"].get("uid", "")
        self._nodes: int = job["spec"]["trainer"]["numNodes"]
        self._api, self._jobs, self._rights, self._relay = api, jobs, rights, relay
        self._emit, self._pace, self._log = emit, api.pace, step_logger("train")
        self._lines: SimpleQueue[Line | None] = SimpleQueue()
        self._pod_log: PodLog | None = None
        self._reporting = ""  # the pod whose log is read
        self._followed: set[str] = set()  # pods that reported, this one or earlier ones
        self._logged_state = ""
        self._logged_losses: set[tuple[str, str]] = set()
        self._progress: Progress | None = None
        self._is_deleted = False
        self._trouble = ""
        self._failures = 0
        self._refused_at: float | None = None

    def begin(self) -> None:
        """Make the job, unless it is there."""
        if not self._uid:
            self._uid = self._jobs.create(self._job)["metadata"]["uid"]
            trainer, runtime = self._job["spec"]["trainer"], self._job["spec"]["runtimeRef"]
            made = f"{self._nodes} nodes of {trainer['image']}, {runtime['kind']} {runtime['name']}"
            self._log.info("TrainJob %s in the namespace %s: %s", self.name, self._api.namespace, made)

    def until_over(self) -> Ending | None:
        """Follow the job until it has ended, and return how; None: it is gone.

        Raises:
            PlatformRefusedError: The API server refuses for long what it allowed before.
        """
        while True:
            is_there, job = self._look()
            ending = ending_of(job) if job is not None else None
            if ending is not None or not is_there:
                if ending is None or not ending.is_deadline:  # whose pods are still asked to end
                    self._read_rest()
                return ending
            self._listen(pause_s(self._failures - 1, *self._pace.pauses_s) if self._failures else self._pace.poll_s)

    def end(self) -> None:
        """Delete the job, and wait, within a bound, until the pod that reports has saved."""
        end = time.monotonic() + self._pace.stop_s
        self._api.answer_s = min(self._api.answer_s, _LAST_ANSWER_S)
        if self._jobs.is_replaced():
            text = "the step's own pod is gone, so TrainJob %s, which another attempt may follow, is not deleted"
            self._log.warning(text, self.name)
        elif self._jobs.delete(self.name, self._uid) and self._followed:
            self._log.info("TrainJob %s is deleted; its pods are given time to save", self.name)
            is_there = True
            while is_there and time.monotonic() < end and self._relay.end is None:
                self._listen(min(0.5, self._pace.poll_s))
                is_there, _ = self._look()
        self._read_rest(max(0.0, min(self._pace.drain_s, end - time.monotonic())))

    def _look(self) -> tuple[bool, dict[str, Any] | None]:
        """Whether the job is there, and the job, where it can be seen."""
        try:
            job = self._jobs.get(self.name)
            pods = self._jobs.pods(self.name) if self._rights.pods else None
        except RetryableError as error:
            self._note_trouble(str(error))
            return True, None
        except ApiError as error:
            self._note_trouble(str(error))
            now = time.monotonic()
            self._refused_at = self._refused_at or now
            if now - self._refused_at > self._pace.refused_s:
                raise PlatformRefusedError(f"TrainJob {self.name} can no longer be followed: {error}") from error
            return True, None
        self._refused_at = None
        self._note_trouble("")
        if job is None or job["metadata"]["uid"] != self._uid:
            return False, None
        if is_being_deleted(job) and not self._is_deleted:
            self._is_deleted = True
            self._log.warning("TrainJob %s is being deleted", self.name)
        self._note_state(state_of(job, pods, self._nodes))
        if pods:
            self._note_losses(list(losses_of(pods)))
            self._attend(pods)
        if not self._rights.log and (progress := progress_of(job)) not in (None, self._progress):
            self._progress = progress
            self._emit(progress)
        return True, job

    def _note_trouble(self, trouble: str) -> None:
        """Log that the API server is away, and that it is back, once each."""
        self._failures = self._failures + 1 if trouble else 0
        before, self._trouble = self._trouble, trouble
        if trouble and not before:
            self._log.warning("TrainJob %s cannot be seen: %s; going on", self.name, trouble)
        elif before and not trouble:
            self._log.info("TrainJob %s is seen again", self.name)

    def _note_state(self, state: str) -> None:
        """Log what the job does, once a change; what was so at one look alone is no news."""
        is_steady, self.state = state == self.state, state
        if state and is_steady and state != self._logged_state:
            self._logged_state = state
            self._log.info("TrainJob %s: %s", self.name, state)

    def _note_losses(self, losses: list[Loss]) -> None:
        self.losses = losses
        fresh = [loss for loss in losses if loss.key not in self._logged_losses]
        if fresh:
            self._logged_losses.update(loss.key for loss in fresh)
            self._log.warning("TrainJob %s: %s", self.name, summary_of(fresh))

    def _attend(self, pods: list[dict[str, Any]]) -> None:
        """Read the log of the pod that reports, perhaps another than before."""
        found = reporting_pod(pods, self._followed)
        if found is None:
            return
        is_new = found.uid not in self._followed
        self._followed.add(found.uid)  # two that were made in one second have no order
        if is_new and self._rights.log:
            self._read_rest()
            self._pod_log, self._reporting = PodLog(self._api, found.pod, self._lines), found.uid
        if self._pod_log is not None and found.uid == self._reporting:
            self._pod_log.note(found.restarts, is_over=found.is_over)

    def _listen(self, seconds: float) -> None:
        """Pass lines on for so long, or until there is news of the pod."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except Empty:
                return
            if line is None:
                return
            self._relay.take(line)

    def _read_rest(self, within_s: float | None = None) -> None:
        """Pass on what is left of the log of a pod whose container has ended."""
        if self._pod_log is None:
            return
        self._pod_log.finish()
        end = time.monotonic() + (self._pace.drain_s if within_s is None else within_s)
        quiet_at = time.monotonic() + self._pace.quiet_s  # a connection to a node that is lost brings nothing
        while True:
            is_read = self._pod_log.is_read
            while not self._lines.empty():
                if (line := self._lines.get()) is not None:
                    self._relay.take(line)
                    quiet_at = time.monotonic() + self._pace.quiet_s
            if is_read or time.monotonic() > min(end, quiet_at):
                break
            time.sleep(0.02)
        self._pod_log = None
        self._relay.flush()
