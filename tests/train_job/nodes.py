"""The pods of a TrainJob on the API server of ours, and what becomes of them, as a test has it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.store import Object, now

UNSCHEDULABLE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


class Nodes:
    """What Trainer, JobSet and the kubelets do with the newest TrainJob, step by step."""

    def __init__(self, api: TrainerApi) -> None:
        self._api = api
        self._created = threading.Event()
        self._pods: dict[int, str] = {}
        self._restarts: dict[str, int] = {}
        self._made = 0
        self.name = ""
        self.trouble: list[BaseException] = []
        api.on_create = self._note
        api.on_delete = self._delete

    def play(self, script: Callable[[], None], *, anew: bool = False) -> None:
        """Do so with the job that is there or will be made, on a thread of its own; `anew`: with the next."""
        if anew:
            self._created.clear()

        def run() -> None:
            if not self._created.wait(60):
                return  # there was none
            try:
                script()
            except BaseException as error:
                self.trouble.append(error)
                self._api.store.delete("trainjobs", self._api.namespace, self.name)  # for the step to end

        threading.Thread(target=run, daemon=True).start()

    def _note(self, job: Object) -> None:
        self.name = job["metadata"]["name"]
        self._created.set()

    def _delete(self, job: Object) -> None:
        for index in list(self._pods):
            self.remove(index)

    def start(self, *indices: int, **status: Any) -> None:
        """Pods of these indices are made, and run, or have another status."""
        self.job(jobsStatus=[{"name": "node", "active": 1, "ready": 0, "succeeded": 0, "failed": 0, "suspended": 0}])
        for index in indices or (0, 1):
            name = f"{self.name}-node-0-{index}-{self._made:05d}"
            self._made += 1
            labels = {
                "jobset.sigs.k8s.io/jobset-name": self.name,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(index),
            }
            self._api.store.create(
                "pods",
                {
                    "metadata": {"name": name, "namespace": self._api.namespace, "labels": labels},
                    "spec": {"containers": [{"name": "node"}]},
                    "status": {"phase": "Pending"},
                },
            )
            self._pods[index] = name
            self.pod(index, **(status or self._running(0)))
            if not status:
                self._api.logs.start(self._api.namespace, name)

    def say(self, *lines: str, index: int = 0, is_cut: bool = False) -> None:
        self._api.logs.write(self._api.namespace, self._pods[index], *lines, is_cut=is_cut)

    def restart(self, index: int, code: int, reason: str = "Error") -> None:
        """The container ends, and is started again in its pod."""
        ended = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now()}}
        pod = self._pods[index]
        self._restarts[pod] = self._restarts.get(pod, 0) + 1
        self._api.logs.start(self._api.namespace, pod)
        self.pod(index, **self._running(self._restarts[pod], ended))

    def end(self, index: int, code: int = 0, reason: str = "") -> None:
        """The container ends for good."""
        self._api.logs.end(self._api.namespace, self._pods[index])
        reason = reason or ("Error" if code else "Completed")
        state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now()}}
        phase, restarts = "Failed" if code else "Succeeded", self._restarts.get(self._pods[index], 0)
        self.pod(index, phase=phase, containerStatuses=[{"name": "node", "restartCount": restarts, "state": state}])

    def remove(self, index: int) -> None:
        """The pod is gone, and its log."""
        name = self._pods.pop(index)
        self._api.logs.drop(self._api.namespace, name)
        self._api.store.delete("pods", self._api.namespace, name)

    def complete(self) -> None:
        self._condition("Complete", "AllJobsCompleted", "jobset completed successfully")

    def fail(self, reason: str = "FailedJobs", message: str = "jobset failed due to one or more job failures") -> None:
        self._condition("Failed", reason, message)

    def suspend(self, *, is_suspended: bool) -> None:
        reason = ("Suspended", "TrainJob is suspended") if is_suspended else ("Resumed", "TrainJob is resumed")
        self._condition("Suspended", *reason, status=str(is_suspended))

    def job(self, **status: Any) -> None:
        """Parts of the TrainJob's status."""
        self._api.methods.set_status(self._api.namespace, self.name, **status)

    def pod(self, index: int, **status: Any) -> None:
        """A pod's status."""

        def change(pod: Object) -> None:
            pod["status"] = status

        self._api.store.update("pods", self._api.namespace, self._pods[index], change)

    @property
    def has_started(self) -> bool:
        return bool(self._pods)

    def wait_a_second(self) -> None:
        """Until the second is another: logs are asked for by the second."""
        time.sleep(1.05)

    def gone(self) -> bool:
        return not self._api.store.select("trainjobs")

    def _condition(self, kind: str, reason: str, message: str, status: str = "True") -> None:
        self.job(conditions=[{"type": kind, "status": status, "reason": reason, "message": message}])

    def _running(self, restarts: int, last: Object | None = None) -> Object:
        state = {"running": {"startedAt": now()}}
        container = {"name": "node", "restartCount": restarts, "state": state, "lastState": last or {}}
        return {"phase": "Running", "containerStatuses": [container]}
