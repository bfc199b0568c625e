"""Vertex AI for tests: pipeline jobs and experiments over REST, by the API's own messages and rules.

Requests are parsed strictly into the messages of google-cloud-aiplatform, pipelines into those of kfp-pipeline-spec;
answers are such messages again. Jobs do not run: a test says how they are doing.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.auth import jwt
from google.cloud.aiplatform_v1.types import (
    AddContextChildrenRequest,
    AddContextChildrenResponse,
    Context,
    PipelineJob,
    PipelineState,
)
from google.protobuf import json_format  # type: ignore[import-untyped] # protobuf publishes no types
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from tests.peers.http_faults import Answer, HttpFaults, Request
from tests.peers.http_server import BrokenError
from tests.peers.ports import HOST
from tests.peers.vertex_faults import Break, Fault, LoseAnswer, Refuse, Say

PROJECT, NUMBER, LOCATION = "my-project", "123456789", "us-central1"

_PARENT = re.compile(r"/v1/projects/([^/]+)/locations/([^/]+)/(.*)", re.DOTALL)
_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
# What only the server may say of a job.
_OUTPUT_ONLY = ("name", "create_time", "start_time", "end_time", "update_time", "state", "job_detail", "error")
_KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,), "NUMBER_INTEGER": (float,), "NUMBER_DOUBLE": (float,), "BOOLEAN": (bool,), "LIST": (list,),
    "STRUCT": (dict,),
}  # fmt: skip
_CONTEXTS = "/metadataStores/default/contexts/"


class _Refused(Exception):  # noqa: N818 # an answer
    def __init__(self, refusal: Refuse) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _invalid(message: str, field: str = "") -> _Refused:
    violations = ((field, message),) if field else ()
    return _Refused(Refuse(400, "INVALID_ARGUMENT", message, violations=violations))


def _missing(what: str) -> _Refused:
    return _Refused(Refuse(404, "NOT_FOUND", f"{what} does not exist."))


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any]

    @property
    def what(self) -> str:
        """In short: ``POST pipelineJobs``."""
        found = _PARENT.fullmatch(self.path)
        parts = (found[3] if found else self.path).split("/")
        return f"{self.method} {parts[0] if len(parts) < 3 else parts[2].partition(':')[0]}"


@dataclass
class _Planned:
    fault: Fault
    what: str
    skip: int
    left: int


class VertexApi(HttpFaults):
    """Vertex AI at one location, of one project.

    Attributes:
        jobs: By id; change them to say how they are doing.
        contexts: By name.
        children: Of contexts, by name.
        requests: Everything that was asked, in order.
        contexts_late: How many times a job is asked for before its run's context is there.
        before_job_is_told: Called with a job that is asked for.
    """

    def __init__(self, tls: ssl.SSLContext, account: str, public_key: bytes) -> None:
        """Claim a port.

        Args:
            tls: The certificate to show.
            account: Whose tokens are taken: a service account's.
            public_key: Its public key, as PEM.
        """
        super().__init__((HOST, 0), tls)
        self._account = account
        self._public_key = public_key
        # Of PipelineJob, which gives its enumerations one type and its fields of them another.
        self.jobs: dict[str, Any] = {}
        self.contexts: dict[str, Context] = {}
        self.children: dict[str, list[str]] = {}
        self.requests: list[Asked] = []
        self.contexts_late = 0
        self.before_job_is_told: Callable[[Any], object] = lambda job: None
        self._planned: list[_Planned] = []

    @property
    def endpoint(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def asked(self) -> list[str]:
        """What was asked, in short."""
        return [each.what for each in self.requests]

    def plan(self, fault: Fault, what: str = "POST pipelineJobs", times: int = 1, skip: int = 0) -> None:
        """Let something go wrong with the next requests of a kind, some skipped first."""
        self._planned.append(_Planned(fault, what, skip, times))

    def answer(self, request: Request) -> Answer:
        text = request.body
        asked = Asked(request.method, request.path, request.query, json.loads(text) if text else {})
        with self._lock:
            self.requests.append(asked)
            fault = self._next_fault(asked.what)
            if isinstance(fault, Break):
                raise BrokenError
            if isinstance(fault, Say | Refuse):
                return fault.answer()
            try:
                self._check_token(request.header("Authorization"))
                answer = Say(200, self._answered(asked).encode(), "application/json").answer()
            except _Refused as refused:
                answer = refused.refusal.answer()
        if isinstance(fault, LoseAnswer):
            raise BrokenError
        return answer

    def _next_fault(self, what: str) -> Fault | None:
        for planned in self._planned:
            if planned.what == what and planned.skip:
                planned.skip -= 1
            elif planned.what == what and planned.left:
                planned.left -= 1
                return planned.fault
        return None

    def _check_token(self, header: str) -> None:
        """See who asks: the account's own signature is in a token that it makes itself."""
        try:
            claims = jwt.decode(header.removeprefix("Bearer "), certs=self._public_key)  # type: ignore[no-untyped-call]
        except Exception as error:
            refusal = Refuse(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
            raise _Refused(refusal) from error
        if claims["iss"] != self._account:
            raise _Refused(Refuse(403, "PERMISSION_DENIED", "Permission 'aiplatform.pipelineJobs.create' denied"))

    def _answered(self, asked: Asked) -> str:
        found = _PARENT.fullmatch(asked.path)
        query = dict(asked.query)
        if found is None or query.pop("$alt", "") != "json;enum-encoding=int":
            raise _missing("The requested entity")
        if found[1] not in (PROJECT, NUMBER):
            denied = f"Permission denied on resource project {found[1]}."
            raise _Refused(Refuse(403, "PERMISSION_DENIED", denied, "CONSUMER_INVALID"))
        if found[2] != LOCATION:
            raise _invalid(f"Expect location {LOCATION}, got {found[2]}")
        routes: dict[str, Callable[[str, dict[str, str], dict[str, Any]], str]] = {
            r"POST pipelineJobs": self._create,
            r"GET pipelineJobs/(.*)": self._get,
            r"GET metadataStores/default/contexts/([^:]*)": self._get_context,
            r"POST metadataStores/default/contexts": self._create_context,
            r"POST metadataStores/default/contexts/([^:]*):addContextChildren": self._add_children,
        }
        for pattern, route in routes.items():
            if matched := re.fullmatch(pattern, f"{asked.method} {found[3]}"):
                return route(matched[1] if matched.groups() else "", query, asked.body)
        raise _missing("The requested entity")

    # Pipeline jobs.

    def _create(self, _: str, query: dict[str, str], body: dict[str, Any]) -> str:
        job_id = query.pop("pipelineJobId", "")
        if query:
            raise _invalid(f"unknown query parameters {sorted(query)}")
        job = _parsed(PipelineJob, body)
        check_job(job)
        if _JOB_ID.fullmatch(job_id) is None:
            raise _invalid("pipeline_job_id must match [a-z][-a-z0-9]{0,127}", "pipeline_job_id")
        if job_id in self.jobs:
            raise _Refused(Refuse(409, "ALREADY_EXISTS", f"The PipelineJob {job_id} already exists."))
        job.name = f"projects/{NUMBER}/locations/{LOCATION}/pipelineJobs/{job_id}"
        job.state = PipelineState.PIPELINE_STATE_PENDING
        self.jobs[job_id] = job
        return _text(job)

    def _get(self, job_id: str, query: dict[str, str], _: dict[str, Any]) -> str:
        if query or job_id not in self.jobs:
            raise _missing(f"The PipelineJob {job_id}")
        job = self.jobs[job_id]
        self.before_job_is_told(job)
        if self.contexts_late > 0:
            self.contexts_late -= 1
        else:
            job.job_detail.pipeline_run_context.name = f"{job.name.partition('/pipelineJobs')[0]}{_CONTEXTS}{job_id}"
        return _text(job)

    # Experiments.

    def _get_context(self, name: str, query: dict[str, str], _: dict[str, Any]) -> str:
        if query or name not in self.contexts:
            raise _missing(f"The Context {name}")
        return _text(self.contexts[name])

    def _create_context(self, _: str, query: dict[str, str], body: dict[str, Any]) -> str:
        context = _parsed(Context, body)
        name = query.pop("contextId")
        if name in self.contexts:
            raise _Refused(Refuse(409, "ALREADY_EXISTS", f"The Context {name} already exists."))
        context.name = f"projects/{NUMBER}/locations/{LOCATION}{_CONTEXTS}{name}"
        self.contexts[name] = context
        return _text(context)

    def _add_children(self, name: str, _: dict[str, str], body: dict[str, Any]) -> str:
        request = _parsed(AddContextChildrenRequest, body)
        if name not in self.contexts:
            raise _missing(f"The Context {name}")
        there = self.children.setdefault(name, [])
        there += [child for child in request.child_contexts if child not in there]
        return _text(AddContextChildrenResponse())


def check_job(job: PipelineJob) -> None:
    """Refuse a job that the API's reference, or the pipeline's own inputs, do not allow."""
    for field in _OUTPUT_ONLY:
        if field in job:
            raise _invalid(f"{field} is output only", field)
    if not 0 < len(job.display_name) <= 128:
        raise _invalid("must have 1 to 128 characters", "pipeline_job.display_name")
    if len(job.labels) > 64 or not all(
        _LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value) for key, value in job.labels.items()
    ):
        raise _invalid("Label keys and values can only contain lowercase letters, numbers, dashes", "labels")
    if not job.runtime_config.gcs_output_directory.startswith("gs://"):
        raise _invalid("is required", "runtime_config.gcs_output_directory")
    if job.runtime_config.parameters:
        raise _invalid("parameters are of schema versions up to 2.0.0", "runtime_config.parameters")
    document = json_format.MessageToDict(PipelineJob.pb(job).pipeline_spec)
    spec = PipelineSpec()
    try:
        json_format.ParseDict(document, spec)
    except json_format.ParseError as error:
        raise _invalid(f"Invalid pipeline spec: {error}", "pipeline_spec") from error
    inputs = document["root"].get("inputDefinitions", {}).get("parameters", {})
    values = json_format.MessageToDict(PipelineJob.pb(job).runtime_config).get("parameterValues", {})
    for name, value in values.items():
        if name not in inputs or not isinstance(value, _KINDS[inputs[name]["parameterType"]]):
            raise _invalid(f"Parameter {name} has a value that its definition does not allow", "parameter_values")
    for name, definition in inputs.items():
        if name not in values and "defaultValue" not in definition and not definition.get("isOptional"):
            raise _invalid(f"Parameter {name} is required", "parameter_values")


def _parsed(kind: Any, body: dict[str, Any]) -> Any:
    message = kind.pb(kind())
    try:
        json_format.ParseDict(body, message)
    except json_format.ParseError as error:
        raise _invalid(f"Invalid JSON payload received. {error}") from error
    return kind.wrap(message)


def _text(message: Any) -> str:
    return str(json_format.MessageToJson(type(message).pb(message), use_integers_for_enums=True))
