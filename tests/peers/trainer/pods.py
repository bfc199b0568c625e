"""Jobs and pods of a TrainJob as JobSet 0.12.0 names them, in the states that Kubernetes 1.34 has for them."""

from __future__ import annotations

import copy
import random
from typing import Any

from tests.peers.trainer.pod_logs import PodLogs
from tests.peers.trainer.store import Object, Store, now

NODE = "node"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # of which Kubernetes makes names' ends
_choose = random.Random(0)  # noqa: S311 # protects nothing


class Pods:
    """The Job of one TrainJob and its pods, by their index.

    Attributes:
        job: The Job's name.
    """

    def __init__(self, store: Store, logs: PodLogs, train_job: Object) -> None:
        self._store = store
        self._logs = logs
        metadata = train_job["metadata"]
        self.namespace, self.set_name, self.job = (
            metadata["namespace"],
            metadata["name"],
            f"{metadata['name']}-{NODE}-0",
        )
        self.nodes = train_job["spec"].get("trainer", {}).get("numNodes", 1)
        self.image = train_job["spec"].get("trainer", {}).get("image", "pytorch")
        self._owner = _owner("trainer.kubeflow.org/v1alpha1", "TrainJob", metadata)
        self._names: dict[int, str] = {}
        self.restarts = 0  # of the set

    def create_job(self) -> None:
        """Create the Job."""
        pod = {"containers": [{"name": NODE, "image": self.image}], "restartPolicy": "OnFailure"}
        spec = {"parallelism": self.nodes, "completions": self.nodes, "completionMode": "Indexed"}
        spec |= {"template": {"metadata": {"labels": self._labels()}, "spec": pod}}
        metadata = {"name": self.job, "namespace": self.namespace, "labels": self._labels()}
        status = {"active": self.nodes, "ready": 0, "startTime": now(), "uncountedTerminatedPods": {}}
        self._store.create(
            "jobs", {"metadata": metadata | {"ownerReferences": [self._owner]}, "spec": spec} | {"status": status}
        )

    def job_status(self, *conditions: tuple[str, str, str], **counts: int) -> None:
        """Set the Job's counts, and add conditions: type, reason, message."""

        def change(job: Object) -> None:
            job["status"] |= counts
            for kind, reason, message in conditions:
                found = {"type": kind, "status": "True", "reason": reason, "message": message}
                times = {"lastProbeTime": now(), "lastTransitionTime": now()}
                job["status"].setdefault("conditions", []).append(found | times)

        self._store.update("jobs", self.namespace, self.job, change)

    def name(self, index: int) -> str:
        """The newest pod of an index."""
        return self._names[index]

    def create(self, index: int, spec: Object | None = None) -> str:
        """Create a pod, which no node has yet; its name."""
        name = f"{self.job}-{index}-{''.join(_choose.choices(_LETTERS, k=5))}"
        job = self._store.get("jobs", self.namespace, self.job)
        at = {"batch.kubernetes.io/job-completion-index": str(index)}
        labels = self._labels() | at | {"batch.kubernetes.io/job-name": self.job, "job-name": self.job}
        metadata = {"name": name, "namespace": self.namespace, "labels": labels, "annotations": at}
        metadata["ownerReferences"] = [_owner("batch/v1", "Job", job["metadata"])]
        made = copy.deepcopy(spec or {"containers": [{"name": NODE, "image": self.image}]})
        made.setdefault("restartPolicy", "OnFailure")
        made["hostname"], made["subdomain"] = f"{self.job}-{index}", self.set_name
        status = {"phase": "Pending", "qosClass": "Burstable"}
        self._store.create("pods", {"metadata": metadata, "spec": made, "status": status})
        self._names[index] = name
        return name

    def unschedulable(self, index: int, message: str) -> None:
        """No node takes the pod."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._set(index, conditions=[condition | {"lastProbeTime": None, "lastTransitionTime": now()}])

    def waiting(self, index: int, reason: str = "ContainerCreating", message: str = "") -> None:
        """A node has it, and its container does not run."""
        state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        self._container(index, state)

    def running(self, index: int) -> None:
        """Its container starts, for the first time or anew in the same pod."""
        self._logs.start(self.namespace, self.name(index))
        self._container(index, {"running": {"startedAt": now()}}, phase="Running")

    def terminated(self, index: int, code: int, reason: str = "", *, phase: str = "", message: str = "") -> None:
        """Its container ends; where the pod ends with it, `phase` says how."""
        self._logs.end(self.namespace, self.name(index))
        status = self._status(index)
        started = status.get("state", {}).get("running", {}).get("startedAt", now())
        ended = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "startedAt": started}
        ended |= {"finishedAt": now(), "containerID": f"containerd://{_choose.getrandbits(256):064x}"}
        self._container(
            index, {"terminated": ended | ({"message": message} if message else {})}, phase=phase or "Running"
        )

    def mark_deleted(self, index: int, grace: int = 30, why: str = "") -> None:
        """It is asked to end: by whom, where it is no person."""

        def change(pod: Object) -> None:
            pod["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
            if why:
                condition = {"type": "DisruptionTarget", "status": "True", "reason": why, "lastTransitionTime": now()}
                message = f"{why}: deleting pod"
                conditions = pod["status"].setdefault("conditions", [])
                conditions.append(condition | {"message": message, "lastProbeTime": None})

        self._store.update("pods", self.namespace, self.name(index), change)

    def remove(self, index: int) -> None:
        """It is gone, and its log with it."""
        name = self._names.pop(index)
        self._logs.drop(self.namespace, name)
        self._store.delete("pods", self.namespace, name)

    def remove_all(self) -> None:
        """The Job and all pods are gone."""
        for index in list(self._names):
            self.remove(index)
        if self.has_job:
            self._store.delete("jobs", self.namespace, self.job)

    @property
    def has_job(self) -> bool:
        """Whether the Job is there, and none of an earlier TrainJob of that name."""
        found = self._store.select("jobs", self.namespace, fields=f"metadata.name={self.job}")
        return any(each["metadata"]["ownerReferences"] == [self._owner] for each in found)

    def indices(self) -> list[int]:
        """Of which pods there are."""
        return sorted(self._names)

    def warn(self, index: int, reason: str, message: str) -> None:
        """An Event on a pod."""
        pod = self._store.get("pods", self.namespace, self.name(index))["metadata"]
        about = {"kind": "Pod", "namespace": self.namespace, "name": pod["name"], "uid": pod["uid"], "apiVersion": "v1"}
        metadata = {"name": f"{pod['name']}.{_choose.getrandbits(64):016x}", "namespace": self.namespace}
        event = {"type": "Warning", "reason": reason, "message": message, "count": 1}
        times = {"firstTimestamp": now(), "lastTimestamp": now()}
        self._store.create("events", {"metadata": metadata, "involvedObject": about} | event | times)

    def _labels(self) -> dict[str, str]:
        prefix = "jobset.sigs.k8s.io"
        return {
            f"{prefix}/jobset-name": self.set_name,
            f"{prefix}/replicatedjob-name": NODE,
            f"{prefix}/replicatedjob-replicas": "1",
            f"{prefix}/job-index": "0",
            f"{prefix}/restart-attempt": str(self.restarts),
        }

    def _status(self, index: int) -> Object:
        pod = self._store.get("pods", self.namespace, self.name(index))
        found: Object = next(iter(pod["status"].get("containerStatuses", [])), {})
        return found

    def _container(self, index: int, state: Object, phase: str = "Pending") -> None:
        """Set the container's state; what it was when it ended is its last one from then on."""
        old = self._status(index)
        last = old.get("lastState", {})
        restarts = old.get("restartCount", 0)
        if "terminated" in old.get("state", {}) and "terminated" not in state:
            last = old["state"]
        if "running" in state and "terminated" in last:
            restarts += 1
        runs = "running" in state
        status = {
            "name": NODE,
            "image": self.image,
            "imageID": self.image if runs or last else "",
            "ready": runs,
            "started": runs,
            "restartCount": restarts,
            "state": state,
            "lastState": last,
        }
        ready = {"lastProbeTime": None, "lastTransitionTime": now()}
        conditions = [
            {"type": "PodScheduled", "status": "True"} | ready,
            {"type": "Ready", "status": "True" if runs else "False"} | ready,
        ]
        kept = [each for each in self._conditions(index) if each["type"] == "DisruptionTarget"]
        self._set(index, phase=phase, containerStatuses=[status], conditions=conditions + kept)

    def _conditions(self, index: int) -> list[Object]:
        pod = self._store.get("pods", self.namespace, self.name(index))
        found: list[Object] = pod["status"].get("conditions", [])
        return found

    def _set(self, index: int, **status: Any) -> None:
        def change(pod: Object) -> None:
            pod["status"] |= status
            if "containerStatuses" in status:
                pod["spec"]["nodeName"] = f"worker-{index}"

        self._store.update("pods", self.namespace, self.name(index), change)


def _owner(version: str, kind: str, metadata: Object) -> Object:
    found = {"apiVersion": version, "kind": kind, "name": metadata["name"], "uid": metadata["uid"]}
    return found | {"controller": True, "blockOwnerDeletion": True}
