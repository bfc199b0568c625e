"""The status of a TrainJob, as Trainer 2.3.0 writes it: pkg/controller/trainjob_controller.go and the plugin jobset."""

from __future__ import annotations

from typing import Any

from tests.peers.trainer.store import Object, Store, now


class TrainJobStatus:
    """One TrainJob's status."""

    def __init__(self, store: Store, train_job: Object) -> None:
        self._store = store
        self._key = ("trainjobs", train_job["metadata"]["namespace"], train_job["metadata"]["name"])

    def jobs(self, **counts: int) -> None:
        """Count the one child Job that there is: active, ready, succeeded, failed, suspended; 0 where not named."""
        self._set(jobsStatus=[_counted(counts)])

    def reports(self, percentage: int, remaining: int | None = None, **metrics: float) -> None:
        """What a pod has reported of its training."""
        found: Object = {"progressPercentage": percentage, "lastUpdatedTime": now()}
        if remaining is not None:
            found["estimatedRemainingSeconds"] = remaining
        if metrics:
            found["metrics"] = [{"name": name, "value": str(value)} for name, value in metrics.items()]
        self._set(trainerStatus=found)

    def condition(self, kind: str, reason: str, message: str, status: str = "True") -> None:
        """Set a condition: Complete, Failed or Suspended; with either end the Job is counted so at once."""
        ended = {"Complete": "succeeded", "Failed": "failed"}.get(kind)

        def change(job: Object) -> None:
            if ended:
                job.setdefault("status", {})["jobsStatus"] = [_counted({ended: 1})]
            conditions = job.setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [each for each in conditions if each["type"] != kind]
            found = {"type": kind, "status": status, "reason": reason, "message": message}
            conditions.append(found | {"lastTransitionTime": now()})

        self._store.update(*self._key, change)

    def suspend(self, suspended: bool) -> None:
        """As Kueue suspends and resumes it: the spec, and the condition that follows."""
        self._store.update(*self._key, lambda job: job["spec"].update(suspend=suspended))
        if suspended:
            self.condition("Suspended", "Suspended", "TrainJob is suspended")
        else:
            self.condition("Suspended", "Resumed", "TrainJob is resumed", "False")

    @property
    def is_suspended(self) -> bool:
        """Whether its condition says so."""
        job = self._store.get(*self._key)
        conditions = job.get("status", {}).get("conditions", [])
        return any((each["type"], each["status"]) == ("Suspended", "True") for each in conditions)

    @property
    def is_there(self) -> bool:
        """Whether the TrainJob is."""
        return bool(self._store.select(*self._key[:2], fields=f"metadata.name={self._key[2]}"))

    def _set(self, **status: Any) -> None:
        def change(job: Object) -> None:
            job["status"] = job.get("status", {}) | status

        self._store.update(*self._key, change)


def _counted(counts: dict[str, int]) -> Object:
    return {"name": "node"} | dict.fromkeys(("active", "ready", "succeeded", "failed", "suspended"), 0) | counts
