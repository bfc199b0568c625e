"""A cluster that trains: each pod of a TrainJob is a process of this machine, started as Trainer would have it started.

What restarts what follows Kubernetes 1.34 (pkg/controller/job, pkg/kubelet: container restarts, backoffLimit,
podFailurePolicy), JobSet 0.12.0 (failurePolicy) and Trainer 2.3.0 (environment, suspension, deadline), as far as a
TrainJob of one replicated job needs. Files are not mounted, nor images used: `python` is this one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.peers.ports import claim_port
from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.containers import (
    Container,
    MissingError,
    filled,
    status_environment,
    trainers_environment,
    users_environment,
)
from tests.peers.trainer.pods import Pods
from tests.peers.trainer.refusals import Refused
from tests.peers.trainer.runtimes import job_of
from tests.peers.trainer.store import Object
from tests.peers.trainer.train_jobs import TrainJobStatus

_ENTRYPOINT = ("python", "-m", "components.train")  # the image's
_LIMIT = "Job has reached the specified backoff limit"


@dataclass
class Running:
    """One pod: its newest container, and what is to become of it.

    Attributes:
        code: How its container ended; None: it runs, or waits.
        starts_at: When its container is started anew.
        killed_at: When it is killed, having been asked to end.
        is_deleted: The pod goes with its container.
    """

    index: int
    container: Container | None = None
    code: int | None = None
    restarts: int = 0
    starts_at: float = 0.0
    killed_at: float | None = None
    is_deleted: bool = False


@dataclass
class Settings:
    """How the cluster is.

    Attributes:
        secrets: By name, the values of their keys.
        environment: What every container has besides.
        reports: Whether Trainer's own server is there for status: the gate TrainJobStatus.
        start_s: What a container's start takes.
        back_off_s: The first wait before a container is started again after its first failure, which doubles.
        replace_s: What a pod that is gone is replaced after.
        grace_s: From SIGTERM to SIGKILL.
    """

    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    reports: bool = True
    start_s: float = 0.0
    back_off_s: float = 0.2
    replace_s: float = 0.2
    grace_s: float = 30.0


class Cluster:
    """Runs each TrainJob that is created on a server."""

    def __init__(self, api: TrainerApi, folder: Path, **settings: Any) -> None:
        self.api = api
        self.folder = folder
        self.settings = Settings(**settings)
        self.jobs: dict[str, TrainedJob] = {}
        self._all: list[TrainedJob] = []
        api.on_create, api.on_delete, api.on_change = self._begin, self._delete, self._change

    def close(self) -> None:
        """End every process."""
        for job in self._all:
            job.close()

    def _begin(self, job: Object) -> None:
        made = TrainedJob(self, job)
        self.jobs[job["metadata"]["name"]] = made
        self._all.append(made)

    def _change(self, job: Object) -> None:
        self.jobs[job["metadata"]["name"]].suspended = job["spec"]["suspend"]

    def _delete(self, item: Object) -> None:
        if item["kind"] == "TrainJob":
            self.jobs[item["metadata"]["name"]].deleted = True
        elif (name := item["metadata"]["labels"].get("jobset.sigs.k8s.io/jobset-name")) in self.jobs:
            index = item["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
            self.jobs[name].delete_pod(int(index))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TrainedJob:
    """The controllers of one TrainJob, on a thread.

    Attributes:
        pods: Its pods, by their index.
        restarts: How often the whole set was started again.
    """

    def __init__(self, cluster: Cluster, job: Object) -> None:
        self.cluster = cluster
        self.pods: dict[int, Running] = {}
        self.restarts = 0
        self.suspended = bool(job["spec"].get("suspend"))
        self.deleted = False
        self._job = job
        self._api, self._settings = cluster.api, cluster.settings
        self._status = TrainJobStatus(self._api.store, job)
        self._shown = Pods(self._api.store, self._api.logs, job)
        self._spec, self._policy = job_of(job, self._api.store)
        self._pod_spec: Object = self._spec["template"]["spec"]
        self._restarts_in_place = self._pod_spec.get("restartPolicy", "OnFailure") == "OnFailure"
        self._port = claim_port()
        self._has_ended = False
        self._failed = 0  # pods of this Job
        self._starts = 0
        self._is_over = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name=f"controllers of {job['metadata']['name']}")
        self._thread.start()

    def delete_pod(self, index: int) -> None:
        """As an eviction, or a person who deletes a pod: SIGTERM, and SIGKILL after the grace."""
        with self._lock:
            self._terminate(self.pods[index])

    def kill(self, index: int, *, out_of_memory: bool = False) -> None:
        """Kill the first process of a pod's container."""
        with self._lock:
            container = self.pods[index].container
            assert container is not None
            container.kill(out_of_memory=out_of_memory)

    def close(self) -> None:
        """End the thread and all processes."""
        self._is_over.set()
        self._thread.join()
        for pod in self.pods.values():
            if pod.container is not None:
                pod.container.kill()
                pod.container.poll()

    def _run(self) -> None:
        """Look at all pods a few times a second, until the job has ended or is gone."""
        created = time.monotonic()
        deadline = self._job["spec"].get("activeDeadlineSeconds")
        while not self._is_over.wait(0.02):
            with self._lock, contextlib.suppress(Refused):  # the TrainJob was deleted meanwhile
                if self.deleted:
                    self._take_all()
                elif self._has_ended:
                    continue
                elif self.suspended:
                    self._suspend()
                elif deadline and time.monotonic() - created > deadline:
                    self._fail("DeadlineExceeded", "TrainJob exceeded its active deadline", take=True)
                else:
                    self._reconcile()

    def _reconcile(self) -> None:
        if not self.pods:
            if self._status.is_suspended:
                self._status.suspend(False)
            self._create_job()
        self._end_containers()
        pods = list(self.pods.values())
        if self._has_ended or not pods:
            return
        if all(pod.code == 0 for pod in pods):
            self._succeed()
        elif self._restarts_in_place and sum(pod.restarts for pod in pods) >= self._spec.get("backoffLimit", 6):
            self._fail_job("BackoffLimitExceeded", _LIMIT)
        elif not self._restarts_in_place and (failed := [pod for pod in pods if pod.code]):
            self._note_failures(failed)
        self._start_containers()

    def _create_job(self) -> None:
        self._failed = 0
        self._shown.restarts = self.restarts
        if not self._shown.has_job:
            self._shown.create_job()
        for index in range(self._shown.nodes):
            self._create_pod(index)
        self._status.jobs(active=1)

    def _create_pod(self, index: int, after: float = 0.0) -> None:
        self._shown.create(index, self._pod_spec)
        self.pods[index] = Running(index, starts_at=time.monotonic() + after + self._settings.start_s)

    def _start_containers(self) -> None:
        for pod in self.pods.values():
            is_to_run = pod.container is None and pod.code is None and not pod.is_deleted
            if is_to_run and not self._has_ended and time.monotonic() >= pod.starts_at:
                self._start(pod)

    def _start(self, pod: Running) -> None:
        name = self._shown.name(pod.index)
        shown = self._api.store.get("pods", self._shown.namespace, name)
        (container,) = self._pod_spec["containers"]
        try:
            environment = users_environment(container, shown, self._settings.secrets)
        except MissingError as error:
            self._shown.waiting(pod.index, "CreateContainerConfigError", str(error))
            pod.starts_at = time.monotonic() + 1.0
            return
        folder = self.cluster.folder / name / str(self._starts)
        self._starts += 1
        environment |= trainers_environment(self._job, pod.index, self._port)
        if self._settings.reports:
            environment |= status_environment(self._api, self._job, folder / "trainer")
        command = [
            filled(part, environment) for part in (*container.get("command", _ENTRYPOINT), *container.get("args", []))
        ]
        self._shown.waiting(pod.index)
        self._shown.running(pod.index)
        pod.container = Container(self._api, shown, command, {**environment, **self._settings.environment}, folder)
        pod.code = None
        self._show_ready()

    def _end_containers(self) -> None:
        """Take note of containers that have ended, and of those whose grace is over."""
        for pod in list(self.pods.values()):
            if self.pods.get(pod.index) is not pod or (pod.container is None and not pod.is_deleted):
                continue
            if pod.container is None:
                self._remove(pod)
                continue
            if pod.killed_at is not None and time.monotonic() > pod.killed_at:
                pod.container.kill()
            if (code := pod.container.poll()) is not None:
                self._note_end(pod, code, "OOMKilled" if pod.container.out_of_memory else "")

    def _note_end(self, pod: Running, code: int, reason: str) -> None:
        pod.container = None
        stays = self._restarts_in_place and code != 0 and not pod.is_deleted
        phase = "" if stays else "Succeeded" if code == 0 else "Failed"
        self._shown.terminated(pod.index, code, reason, phase=phase)
        if pod.is_deleted:
            self._remove(pod)
        elif stays:
            wait = self._settings.back_off_s * (2**pod.restarts - 1)
            pod.restarts += 1
            pod.starts_at = time.monotonic() + wait
            words = f"back-off {wait:g}s restarting failed container=node"
            self._shown.waiting(pod.index, "CrashLoopBackOff", words)
        else:
            pod.code = code
        self._show_ready()

    def _remove(self, pod: Running) -> None:
        """A pod that was deleted is gone: the Job makes another, or gives up."""
        self._shown.remove(pod.index)
        del self.pods[pod.index]
        self._failed += 1
        if self._failed > self._spec.get("backoffLimit", 6):
            self._fail_job("BackoffLimitExceeded", _LIMIT)
        else:
            self._create_pod(pod.index, self._settings.replace_s)

    def _note_failures(self, failed: list[Running]) -> None:
        """Pods that have failed for good, where containers are not started again in them."""
        for pod in failed:
            for at, rule in enumerate(self._spec.get("podFailurePolicy", {}).get("rules", [])):
                if pod.code in rule.get("onExitCodes", {}).get("values", []) and rule["action"] == "FailJob":
                    where = f"{self._shown.namespace}/{self._shown.name(pod.index)}"
                    words = f"failed with exit code {pod.code} matching FailJob rule at index {at}"
                    self._fail_job("PodFailurePolicy", f"Container node for pod {where} {words}")
                    return
        if len(failed) > self._spec.get("backoffLimit", 6):
            self._fail_job("BackoffLimitExceeded", _LIMIT)

    def _fail_job(self, reason: str, message: str) -> None:
        """The Job has failed: its pods that run are deleted, and the set starts again or fails."""
        failed = sum(1 for pod in self.pods.values() if pod.code) or self._failed
        self._shown.job_status(("Failed", reason, message), active=0, ready=0, failed=failed)
        action = next(
            (
                rule["action"]
                for rule in self._policy.get("rules", [])
                if reason in rule.get("onJobFailureReasons", [reason])
            ),
            "RestartJobSet",
        )
        first = f" (first failed job: {self._shown.job})"
        if not self._policy:
            self._fail("FailedJobs", f"jobset failed due to one or more job failures{first}")
        elif action == "FailJobSet":
            self._fail("FailJobSetFailurePolicyAction", f"applying FailJobSet failure policy action{first}")
        elif self.restarts >= self._policy.get("maxRestarts", 0):
            self._fail("ReachedMaxRestarts", f"jobset failed due to reaching max number of restarts{first}")
        else:
            self.restarts += 1
            self._take_all()

    def _fail(self, reason: str, message: str, *, take: bool = False) -> None:
        """The TrainJob has failed; pods that have ended stay, unless they are taken, too."""
        self._has_ended = True
        self._status.condition("Failed", reason, message)
        for pod in list(self.pods.values()):
            if pod.code is None or take:
                self._terminate(pod)
        self._take_deleted()

    def _succeed(self) -> None:
        self._has_ended = True
        self._status.jobs(active=1)
        ended = ("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        self._shown.job_status(ended, active=0, ready=0, succeeded=len(self.pods))
        self._status.jobs(ready=1)
        self._status.condition("Complete", "AllJobsCompleted", "jobset completed successfully")

    def _suspend(self) -> None:
        if not self._status.is_suspended:
            self._status.suspend(True)
        if self.pods:
            self._take_pods()
            self._shown.job_status(active=0, ready=0)
        self._status.jobs(suspended=1)

    def _take_all(self) -> None:
        """The Job and its pods go; what is asked to end is waited for."""
        self._take_pods()
        self._shown.remove_all()

    def _take_pods(self) -> None:
        for pod in list(self.pods.values()):
            self._terminate(pod)
        self._take_deleted()

    def _take_deleted(self) -> None:
        """Wait for the pods that are deleted, and take them away."""
        while deleted := [pod for pod in self.pods.values() if pod.is_deleted]:
            for pod in deleted:
                is_late = pod.killed_at is not None and time.monotonic() > pod.killed_at
                if pod.container is not None and (is_late or self._is_over.is_set()):
                    pod.container.kill()
                code = pod.container.poll() if pod.container is not None else pod.code
                if pod.container is not None and code is None:
                    continue
                if pod.container is not None and code is not None:
                    self._shown.terminated(pod.index, code, phase="Failed" if code else "Succeeded")
                self._shown.remove(pod.index)
                del self.pods[pod.index]
            time.sleep(0.02)

    def _terminate(self, pod: Running) -> None:
        if pod.is_deleted:
            return
        pod.is_deleted = True
        self._shown.mark_deleted(pod.index, int(self._settings.grace_s))
        pod.killed_at = time.monotonic() + self._settings.grace_s
        if pod.container is not None:
            pod.container.terminate()

    def _show_ready(self) -> None:
        ready = sum(1 for pod in self.pods.values() if pod.container is not None)
        done = sum(1 for pod in self.pods.values() if pod.code == 0)
        self._shown.job_status(active=len(self.pods) - done, ready=ready, succeeded=done)
        self._status.jobs(active=1, ready=1 if ready + done == self._shown.nodes else 0)
