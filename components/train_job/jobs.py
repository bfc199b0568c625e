"""The TrainJobs of one run's training: which there are, what is needed to make one, made and deleted.

Their labels name run, step, attempt, and a digest of all that they were made of, by which a repeated attempt of the
step knows the job that it may take up.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from components.shared.errors import PlatformRefusedError, PlatformUnavailableError, RetryableError
from components.shared.events.status_lines import LOG, STATUS_VARIABLE
from components.shared.kubeflow.train_job import API_VERSION, GROUP, NODE, NodeSpec, train_job
from components.shared.retry import OutOfTimeError, TimeLeft, retried
from components.shared.run import POD_NAME_VARIABLE, POD_UID_VARIABLE, RUN_VARIABLE
from components.shared.signals import ends_deferred
from components.train_job.api import Api, ApiError, foreign_answer
from components.train_job.status import JOB_LABEL, failure_message, is_being_deleted

RUN_LABEL, STEP_LABEL = "shutterline/run", "shutterline/step"
ATTEMPT_LABEL, SPEC_LABEL = "shutterline/attempt", "shutterline/spec"
ROLE = "pipelines/examples/trainer/role.yaml"
RUNTIME = "pipelines/examples/trainer/runtime.yaml"

_STEP = "train"
_KIND = "trainjobs"
_LONGEST_LABEL = 63
# For the answer to a request that makes a job, which an interruption waits for.
_UNDER_WAY_S = 5.0
# What the step asks for besides making and finding jobs, by verb, group and kind; what is missing without a right, or
# nothing: it cannot do without.
_RIGHTS = {
    ("get", GROUP, _KIND): "",
    ("delete", GROUP, _KIND): "",
    ("list", "", "pods"): "why pods wait and how they ended, and the log",
    ("get", "", "pods/log"): "the log of the pods, and progress beyond Trainer's own percentage",
    ("get", "batch", "jobs"): "exit codes of pods that are gone",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Rights:
    """What the step may see besides TrainJobs."""

    pods: bool
    log: bool
    jobs: bool


class TrainJobs:
    """The TrainJobs of a run's training, each made of the same arguments and nodes.

    Every method but :meth:`get`, :meth:`pods` and :meth:`delete` makes a request again until it is answered, and raises
    PlatformRefusedError, in a line that says what to do, and PlatformUnavailableError.
    """

    def __init__(self, api: Api, log: logging.Logger, run: str, spec: NodeSpec, arguments: Sequence[str]) -> None:
        self._api, self._pace, self._log = api, api.pace, log
        self._run, self._spec, self._arguments = run, spec, arguments
        self._env = {STATUS_VARIABLE: LOG, RUN_VARIABLE: run}
        made_of = json.dumps([list(arguments), spec.to_json(), self._env], sort_keys=True)
        self._unanswered = ""  # the job whose creation was asked for last
        self._digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]

    def found(self) -> list[dict[str, Any]]:
        """Those that are there, the newest attempt first."""
        selector = f"{RUN_LABEL}={label_of(self._run)},{STEP_LABEL}={_STEP}"
        answer = self._asked(lambda: self._list(self._api.path(API_VERSION, _KIND), selector))
        return sorted(answer, key=_attempt_of, reverse=True)

    def is_own(self, job: Mapping[str, Any]) -> bool:
        """Whether a job was made of the same."""
        return (job["metadata"].get("labels") or {}).get(SPEC_LABEL) == self._digest

    def manifest(self, attempt: int) -> dict[str, Any]:
        """A new job of the run; with the workflow that the step's pod is of it is deleted."""
        labels = {RUN_LABEL: label_of(self._run), STEP_LABEL: _STEP, ATTEMPT_LABEL: str(attempt)}
        return train_job(
            f"{_STEP}-{hashlib.sha256(self._run.encode()).hexdigest()[:8]}-{attempt}",
            self._spec,
            self._arguments,
            namespace=self._api.namespace,
            labels=labels | {SPEC_LABEL: self._digest},
            env=self._env,
            owner=self._owner(),
        )

    def _owner(self) -> dict[str, Any] | None:
        """The Argo workflow that owns the step's pod, as an owner of the job."""
        pod = os.environ.get(POD_NAME_VARIABLE, "")
        if not pod:
            return None
        path = self._api.path("v1", "pods", pod)
        try:
            document = retried(lambda left: _resource(self._api.request("GET", path), pod), *self._within)
        except (ApiError, OutOfTimeError) as error:
            self._log.warning("the TrainJob is not deleted with its run: the step's own pod cannot be read: %s", error)
            return None
        for owner in document["metadata"].get("ownerReferences") or ():
            if owner.get("kind") == "Workflow":
                return {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
        return None

    def is_replaced(self) -> bool:
        """Whether the step's own pod is gone, so that another attempt may follow the job that this one followed.

        Of a node that was cut off the pods are deleted, and are asked to end once it is back.
        """
        pod, uid = os.environ.get(POD_NAME_VARIABLE, ""), os.environ.get(POD_UID_VARIABLE, "")
        if not pod or not uid:
            return False
        try:
            document = _resource(self._api.request("GET", self._api.path("v1", "pods", pod)), pod)
        except (ApiError, RetryableError) as error:
            return isinstance(error, ApiError) and error.is_gone
        return bool(document["metadata"]["uid"] != uid)

    def rights(self) -> Rights:
        """What the step may see; what it cannot do without is refused, what it can is warned of."""
        allowed = set()
        for (verb, group, kind), missing in _RIGHTS.items():
            if self._may(verb, group, kind):
                allowed.add(kind)
                continue
            text = f"the pod's service account may not {verb} {kind} in the namespace {self._api.namespace}"
            if not missing:
                raise PlatformRefusedError(f"{text}; {_role()}")
            self._log.warning("%s, so there is not: %s; %s", text, missing, _role())
        return Rights("pods" in allowed, {"pods", "pods/log"} <= allowed, "jobs" in allowed)

    def _may(self, verb: str, group: str, kind: str) -> bool:
        resource, _, part = kind.partition("/")
        asked = {"namespace": self._api.namespace, "verb": verb, "group": group, "resource": resource}
        version = "authorization.k8s.io/v1"
        spec = {"resourceAttributes": asked | ({"subresource": part} if part else {})}
        review = {"apiVersion": version, "kind": "SelfSubjectAccessReview", "spec": spec}

        def ask() -> bool:
            status = self._api.request("POST", f"/apis/{version}/selfsubjectaccessreviews", review).get("status")
            if not isinstance(status, dict) or not isinstance(status.get("allowed"), bool):
                raise foreign_answer()
            return bool(status["allowed"])

        return self._asked(ask)

    def try_out(self, manifest: Mapping[str, Any]) -> None:
        """See that a job could be made, without making it: by the cluster's own checks, Trainer's webhooks included."""
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        path = self._api.path(API_VERSION, _KIND)
        self._asked(lambda: self._api.request("POST", path, manifest, query))

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make a job; where the answer was lost, the one that is there.

        An interruption waits for a request that is under way, and the job is then found and deleted.
        """
        path, name = self._api.path(API_VERSION, _KIND), manifest["metadata"]["name"]
        answer_s = min(_UNDER_WAY_S, self._pace.answer_s)

        def attempt() -> dict[str, Any]:
            self._unanswered = name
            try:
                with ends_deferred():
                    answer = self._api.request("POST", path, manifest, {"fieldValidation": "Strict"}, answer_s)
                return _resource(answer, name)
            except ApiError as error:
                self._unanswered = ""
                there = self.get(name) if error.status == 409 else None
                if there is None or not self.is_own(there):
                    raise
                return there

        return self._asked(attempt)

    def await_gone(self, names: Sequence[str]) -> None:
        """Wait, for so long as `gone_s`, until jobs that are being deleted are gone: they write where the next does."""
        end = time.monotonic() + self._pace.gone_s
        left = list(names)
        if left:
            self._log.info("waits for the end of TrainJob %s, which is being deleted", ", ".join(left))
        while left := [name for name in left if self._asked(partial(self.get, name)) is not None]:
            if time.monotonic() > end:
                text = "TrainJob %s is still being deleted after %g s, such as on a node that is lost; going on"
                self._log.warning(text, ", ".join(left), self._pace.gone_s)
                return
            time.sleep(min(1.0, self._pace.poll_s))

    def get(self, name: str) -> dict[str, Any] | None:
        """A job, by one request; None: it is not there. ApiError and RetryableError as `Api.request`."""
        try:
            return _resource(self._api.request("GET", self._api.path(API_VERSION, _KIND, name)), name)
        except ApiError as error:
            if error.is_gone:
                return None
            raise

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a job, by one request; ApiError and RetryableError as `Api.request`."""
        return self._list(self._api.path("v1", "pods"), f"{JOB_LABEL}={name}")

    def failure_of(self, name: str) -> str:
        """Why the Job of the nodes failed; empty where that cannot be learned."""
        path = self._api.path("batch/v1", "jobs", f"{name}-{NODE}-0")
        with suppress(ApiError, OutOfTimeError):
            return failure_message(retried(lambda left: self._api.request("GET", path), *self._within))
        return ""

    def delete(self, name: str, uid: str = "") -> bool:
        """Delete a job and all that it made; whether it is on its way out, which is logged where it is not."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        path = self._api.path(API_VERSION, _KIND, name)
        within_s = self._pace.stop_s
        if is_unanswered := not uid and name == self._unanswered:
            within_s = min(within_s, 2 * _UNDER_WAY_S)

        def attempt(left: TimeLeft) -> bool:
            try:
                self._api.request("DELETE", path, options, answer_s=max(1.0, min(self._pace.answer_s, left())))
            except ApiError as error:
                if error.is_gone and is_unanswered:  # the request may still be under way there
                    raise RetryableError("whether it was made was not answered, and it is not there yet") from error
                if not error.is_gone and error.status != 409:  # another of this name
                    raise
            return True

        try:
            return retried(attempt, within_s, self._pace.pauses_s)
        except (ApiError, OutOfTimeError) as error:
            verb = "may go on" if is_unanswered else "goes on"
            text = f"TrainJob %s {verb}, as it cannot be deleted: %s; delete it: kubectl delete trainjob %s"
            self._log.error(text, name, error, name)
            return False

    def _list(self, path: str, selector: str) -> list[dict[str, Any]]:
        items = self._api.request("GET", path, query={"labelSelector": selector}).get("items")
        if not isinstance(items, list):
            raise foreign_answer()
        return [_resource(each) for each in items]

    @property
    def _within(self) -> tuple[float, tuple[float, float]]:
        return self._pace.setup_s, self._pace.pauses_s

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return retried(lambda left: ask(), *self._within, longest_retry_after_s=self._pace.setup_s)
        except ApiError as error:
            raise _refusal(error, self._api.namespace) from error
        except OutOfTimeError as error:
            times = f"{error.attempts} attempts in {self._pace.setup_s:g} s"
            raise PlatformUnavailableError(f"the cluster does not answer, {times}: {error}") from error


def _resource(answer: Any, name: str = "") -> dict[str, Any]:
    """A resource that an answer is; RetryableError where it is none, or not the one of a name."""
    metadata = answer.get("metadata") if isinstance(answer, dict) else None
    if (
        not isinstance(metadata, dict)
        or not all(isinstance(metadata.get(key), str) for key in ("name", "uid"))
        or not isinstance(metadata.get("labels") or {}, dict)
        or name not in ("", metadata["name"])
    ):
        raise foreign_answer()
    return cast("dict[str, Any]", answer)


def label_of(text: str) -> str:
    """A run's id as the value of a label: as it is, or where it is too long or ends otherwise with a digest."""
    if len(text) <= _LONGEST_LABEL and re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: _LONGEST_LABEL - 13]}-{digest}"


def next_attempt(found: Sequence[Mapping[str, Any]]) -> int:
    """The number of a run's next job, from 0."""
    return max(map(_attempt_of, found), default=-1) + 1


def names_being_deleted(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of a run's jobs that are on their way out."""
    return [job["metadata"]["name"] for job in found if is_being_deleted(job)]


def _attempt_of(job: Mapping[str, Any]) -> int:
    text = (job["metadata"].get("labels") or {}).get(ATTEMPT_LABEL, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _role() -> str:
    return f"{ROLE} has a Role and a RoleBinding with what is needed"


def _refusal(error: ApiError, namespace: str) -> PlatformRefusedError:
    """What the API server's refusal means for those who run the pipeline."""
    text = error.message
    if error.status == 404 and f'namespaces "{namespace}"' not in text:
        text = f"Kubeflow Trainer is not installed in this cluster: there are no {_KIND} of {API_VERSION} ({text})"
    elif 'unknown field "' in text:
        text = f"this Kubeflow Trainer is too old, and 2.2 or later is needed: {text}"
    elif "admission webhook" in text or error.status in (400, 422):
        text = f"the cluster refuses the TrainJob: {text.partition('denied the request: ')[2] or text}"
        if "runtimeref: " in text.lower():
            text += f"; {RUNTIME} has a runtime, and the setting train.runtime names it"
    elif error.status == 403:
        text = f"{text}; {_role()}"
    else:
        text = str(error)
    return PlatformRefusedError(text)
