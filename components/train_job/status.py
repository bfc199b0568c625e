"""How a TrainJob and its pods are doing, read from what the API server answers; nothing is asked here.

The shapes are those of Kubeflow Trainer 2.3.0, JobSet 0.12.0 and Kubernetes 1.34, as they were seen or as their sources
have them. What is missing or of another type is passed over.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from components.shared.events.data import Progress
from components.shared.kubeflow.train_job import NODE
from components.shared.text import shortened

JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
_REPLICATED_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
_INDEX = "batch.kubernetes.io/job-completion-index"  # a label and an annotation

# What every pod goes through.
_PASSING = frozenset({"", "PodInitializing", "ContainerCreating"})
# Their messages count the seconds.
_COUNTING = frozenset({"CrashLoopBackOff", "ImagePullBackOff"})
_LONGEST = 300
_EXIT_CODE = re.compile(r"exit code (\d+)")


@dataclass(frozen=True)
class Ending:
    """How a TrainJob ended: by its own condition, of which the reason and message are."""

    state: Literal["succeeded", "failed"]
    reason: str = ""
    message: str = ""

    @property
    def is_deadline(self) -> bool:
        """Whether it took longer than it was given."""
        return self.reason == "DeadlineExceeded"


@dataclass(frozen=True)
class ReportingPod:
    """The pod of index 0, whose process reports; `restarts` is how often its container was started again."""

    pod: str
    uid: str
    restarts: int
    is_over: bool


@dataclass(frozen=True)
class Loss:
    """One container that ended badly, or one pod that goes; `key` names that once."""

    key: tuple[str, str]
    pod: str
    reason: str
    exit_code: int | None = None


def ending_of(job: Mapping[str, Any]) -> Ending | None:
    """How a TrainJob ended; None: it has not."""
    for condition in _dicts(job, "status", "conditions"):
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            state: Literal["succeeded", "failed"] = "succeeded" if condition["type"] == "Complete" else "failed"
            return Ending(state, _text(condition, "reason"), _text(condition, "message"))
    return None


def is_being_deleted(resource: Mapping[str, Any]) -> bool:
    """Whether a resource is on its way out."""
    return _text(resource, "metadata", "deletionTimestamp") != ""


def state_of(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]] | None, nodes: int) -> str:
    """What a TrainJob does or waits for, in a line; empty: what every job goes through.

    Args:
        job: The TrainJob.
        pods: Its pods; None: they cannot be seen.
        nodes: How many there are to be.
    """
    suspended = [each for each in _dicts(job, "status", "conditions") if each.get("type") == "Suspended"]
    if _get(job, bool, "spec", "suspend") or any(each.get("status") == "True" for each in suspended):
        return "is suspended: waits to be resumed, such as by Kueue once there is quota"
    if pods is None:
        ready = sum(_get(each, int, "ready") for each in _dicts(job, "status", "jobsStatus"))
        return "runs" if ready else "waits for its pods"
    own = [pod for pod in pods if _is_node(pod)]
    if not own:
        is_seen = bool(_get(job, dict, "status"))
        return "waits for its pods" if is_seen else "waits for Kubeflow Trainer to take it up"
    waits = defaultdict(list)
    for pod in own:
        if reason := _waits_for(pod):
            waits[reason].append(_text(pod, "metadata", "name"))
    if waits:
        return "; ".join(f"{len(names)} of {nodes} pods wait: {reason}" for reason, names in sorted(waits.items()))
    running = sum(_text(pod, "status", "phase") == "Running" for pod in own)
    return f"{running} of {nodes} pods run" if running else ""


def _waits_for(pod: Mapping[str, Any]) -> str:
    """Why a pod does not run, where it is not what every pod goes through."""
    for condition in _dicts(pod, "status", "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _reason(condition)
    for status in _containers(pod):
        waiting = _get(status, dict, "state", "waiting")
        if (reason := _text(waiting, "reason")) not in _PASSING:
            return f"{reason} ({_text(status, 'image')})" if reason in _COUNTING else _reason(waiting)
    return ""


def reporting_pod(pods: Sequence[Mapping[str, Any]], followed: Set[str] = frozenset()) -> ReportingPod | None:
    """The pod whose log is to be read; None: there is none yet.

    Where one replaces another, it is the one whose container runs, the older first, as a pod that is asked to end may
    still save; else the newest, of two of one second the one whose uid is not among those `followed` before.
    """
    found = []
    for pod in pods:
        labels = _get(pod, dict, "metadata", "labels") | _get(pod, dict, "metadata", "annotations")
        status = next((each for each in _containers(pod) if each.get("name") == NODE), None)
        if not _is_node(pod) or labels.get(_INDEX) != "0" or status is None:
            continue
        reporting = ReportingPod(
            _text(pod, "metadata", "name"),
            _text(pod, "metadata", "uid"),
            _get(status, int, "restartCount"),
            _text(pod, "status", "phase") in ("Succeeded", "Failed"),
        )
        runs = bool(_get(status, dict, "state", "running"))
        found.append((runs, _text(pod, "metadata", "creationTimestamp"), reporting))
    running = [(created, pod.uid, pod) for runs, created, pod in found if runs]
    if running:
        return min(running)[2]
    ended = [(created, pod.uid not in followed, pod.uid, pod) for _, created, pod in found]
    return max(ended)[3] if ended else None


def losses_of(pods: Sequence[Mapping[str, Any]]) -> Iterator[Loss]:
    """What of a job's pods ended badly or is being taken away, each with its reason."""
    for pod in pods:
        name, uid = _text(pod, "metadata", "name"), _text(pod, "metadata", "uid")
        if (reason := _text(pod, "status", "reason")) and _text(pod, "status", "phase") == "Failed":
            yield Loss((uid, "pod"), name, _reason(pod["status"]))
        for condition in _dicts(pod, "status", "conditions"):
            if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True" and not reason:
                yield Loss((uid, "disrupted"), name, f"taken away: {_reason(condition)}")
        for status in _containers(pod):
            for which, start in (("lastState", -1), ("state", 0)):
                ended = _get(status, dict, which, "terminated")
                code = ended.get("exitCode")
                if isinstance(code, int) and code != 0:
                    key = (uid, f"{status.get('name')} {_get(status, int, 'restartCount') + start}")
                    yield Loss(key, name, _how_ended(ended, code), code)


def _how_ended(ended: Mapping[str, Any], code: int) -> str:
    reason, message = _text(ended, "reason"), shortened(_text(ended, "message"), _LONGEST)
    advice = "; it needs more memory" if reason == "OOMKilled" else ""
    named = f"{reason} (exit code {code})" if reason not in ("", "Error") else f"exit code {code}"
    return f"{named}{advice}{f': {message}' if message else ''}"


def summary_of(losses: Sequence[Loss]) -> str:
    """What ended badly, in a line: pods with one reason together."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for loss in losses:
        by_reason[loss.reason].append(loss.pod)
    return "; ".join(
        f"pod {names[0]}: {reason}" if len(names) == 1 else f"{len(names)} pods, such as {names[0]}: {reason}"
        for reason, names in by_reason.items()
    )


def exit_code_of(text: str) -> int | None:
    """The exit code that a message of a Job's names, such as that of a rule of its podFailurePolicy."""
    found = _EXIT_CODE.search(text)
    return int(found[1]) if found else None


def failure_message(job: Mapping[str, Any]) -> str:
    """Why a Job failed, by its condition; empty: it has not."""
    failed = [each for each in _dicts(job, "status", "conditions") if each.get("type") == "Failed"]
    return next((_reason(each) for each in failed if each.get("status") == "True"), "")


def progress_of(job: Mapping[str, Any]) -> Progress | None:
    """How far training is by ``trainerStatus``, as percent of it all; None: nothing is reported."""
    status = _get(job, dict, "status", "trainerStatus")
    percentage, left = status.get("progressPercentage"), status.get("estimatedRemainingSeconds")
    if not isinstance(percentage, int) or not 0 <= percentage <= 100:
        return None
    figures: dict[str, float] = {}
    for metric in _dicts(status, "metrics"):
        with suppress(ValueError):
            if math.isfinite(value := float(_text(metric, "value"))):
                figures[_text(metric, "name")] = value
    epoch = figures.pop("epoch", None)
    return Progress(
        percentage,
        100,
        "batches",
        epoch=int(epoch) if epoch is not None else None,
        samples_per_second=figures.pop("samples_per_second", None),
        learning_rate=figures.pop("learning_rate", None),
        losses={name.removesuffix("_loss"): figures.pop(name) for name in [*figures] if name.endswith("_loss")},
        metrics={**figures},
        eta_seconds=float(left) if isinstance(left, int) else None,
    )


def _is_node(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is one of those that train: a runtime may have jobs that fetch data before."""
    labels: Mapping[str, Any] = _get(pod, dict, "metadata", "labels")
    return str(labels.get(_REPLICATED_LABEL, NODE)) == NODE


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _dicts(pod, "status", "initContainerStatuses") + _dicts(pod, "status", "containerStatuses")


def _reason(found: Mapping[str, Any]) -> str:
    reason, message = _text(found, "reason"), shortened(_text(found, "message"), _LONGEST)
    return ": ".join(part for part in (reason, message) if part)


def _text(document: Any, *keys: str) -> str:
    text: str = _get(document, str, *keys)
    return text


def _dicts(document: Any, *keys: str) -> list[Mapping[str, Any]]:
    return [each for each in _get(document, list, *keys) if isinstance(each, dict)]


def _get(document: Any, kind: Any, *keys: str) -> Any:
    """What is below some keys, or an empty one of its kind."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, kind) else kind()
