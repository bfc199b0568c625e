"""A Kubeflow Pipelines API, held to its official description.

Bodies and parameters are checked against the models and methods of kfp_server_api, which are generated from it, and
answers are made of those models; pipelines are parsed strictly as the protobuf of kfp-pipeline-spec. How runs go is
what a real Kubeflow 2.17.0 answered, replayed from tests/cases/kubeflow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus
from uuid import UUID

import kfp_server_api as api  # type: ignore[import-untyped] # it publishes no types
import yaml
from google.protobuf import json_format  # type: ignore[import-untyped] # stubs are not installed
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.peers.http_faults import Answer, HttpFaults, Operation, Request
from tests.peers.ports import HOST

_ROOT = "/apis/v2beta1"
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14}
_PLAIN: dict[str, Any] = {
    "str": str, "bool": bool, "int": int, "float": (int, float), "object": object, "datetime": str,
}  # fmt: skip
_LONGEST = {"pipeline": 128, "pipeline_version": 127}  # the columns of the server's database
_BEGAN = datetime(2026, 11, 23, tzinfo=UTC)
_CASES = Path(__file__).parents[1] / "cases" / "kubeflow"


class Wrong(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Sent:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Moment:
    """What the API answers for a run at one moment.

    Attributes:
        run: By v2beta1.
        manifest: Argo's workflow, which v1beta1 answers as a text; None: none was made yet.
        logs: Of tasks, by their names: of the newest pod, by v1alpha1.
    """

    run: dict[str, Any]
    manifest: dict[str, Any] | None = None
    logs: dict[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[str, Any]:
        """The workflow's nodes by their names."""
        return {node["name"]: node for node in (self.manifest or {}).get("status", {}).get("nodes", {}).values()}

    def log(self, pod: str) -> str | None:
        """The log of a pod, whose name is made as Argo makes it."""
        for name, node in self.nodes.items():
            parts = (self.manifest or {})["metadata"]["name"], node["templateName"], node["id"].rpartition("-")[2]
            if node["type"] == "Pod" and pod == "-".join(parts):
                return next((text for task, text in self.logs.items() if f".{task}(" in name), None)
        return None


def moment(name: str) -> Moment:
    """One that was recorded; with train's log, where that was."""
    run, old = (json.loads((_CASES / f"{name}.{kind}.json").read_text("utf-8")) for kind in ("run", "v1beta1"))
    log = _CASES / f"{name}.train.log"
    logs = {"train": log.read_text("utf-8")} if log.exists() else {}
    return Moment(run, json.loads(old["pipeline_runtime"]["workflow_manifest"]), logs)


def bare(state: str) -> Moment:
    """A run of which the API tells its state alone, as right after it was made."""
    return Moment({"state": state, "state_history": [{"state": state, "update_time": "2026-11-23T00:00:00Z"}]})


class KfpApi(HttpFaults):
    """The API server with what was made there, in memory.

    Attributes:
        token: The bearer's token it wants; empty: none.
        cookie: The cookie it wants; empty: none.
        namespaces: Those there are; empty: a deployment for one user.
        forbidden: Those that this user may not see.
        page: A page that is answered to everything instead, its status and its body; a Location with status 302.
        script: What runs are like, one moment a question to v2beta1; the last one stays.
        missing: Of v1beta1 and v1alpha1 those that are not there.
        hidden_once: Of "pipeline" and "version" what the next list leaves out, as if somebody made it right after.
        id_suffix: Ends every id.
        log_type: The content type of logs.
        when_run_is_made, before_run_is_told: Called then.
        pipelines, versions, experiments, runs: The models of what is there, in the order of making.
        sent: Every request.
        problems: Where a request did not follow the description; a test shows that there are none.
    """

    def __init__(self) -> None:
        super().__init__((HOST, 0))
        self.token = ""
        self.cookie = ""
        self.namespaces: list[str] = []
        self.forbidden: list[str] = []
        self.page: tuple[int, bytes] | None = None
        self.script: list[Moment] = []
        self.missing: set[str] = set()
        self.hidden_once: list[str] = []
        self.id_suffix = ""
        self.log_type = "text/plain"
        self.when_run_is_made: Callable[[], object] = lambda: None
        self.before_run_is_told: Callable[[], object] = lambda: None
        self.pipelines: list[Any] = []
        self.versions: list[Any] = []
        self.experiments: list[Any] = []
        self.runs: list[Any] = []
        self.sent: list[Sent] = []
        self.problems: list[str] = []
        self._made = 0
        self._moment = bare("PENDING")

    # What the relay asks.

    def meaning(self, request: Request) -> tuple[Operation, str]:
        if request.method == "POST":
            return "write", request.path
        if not request.path.startswith(_ROOT):
            return "other", request.path
        return "read" if re.search(r"/runs/[^/]+$", request.path) else "list", request.path

    def refusal(self, status: int) -> Answer:
        return _json(status, _error(status, {429: "quota exceeded: RESOURCE_EXHAUSTED"}.get(status, "not now")))

    def answer(self, request: Request) -> Answer:
        answer = self._answer(request)
        headers = {name.lower(): value for name, value in request.headers}
        self.sent.append(Sent(request.method, request.path, request.query, headers, request.body))
        return answer

    def _answer(self, request: Request) -> Answer:
        if self.page is not None:
            status, body = self.page
            headers = [("Content-Type", "text/html; charset=utf-8")]
            return Answer(status, [*headers, ("Location", "/dex/auth")] if status == 302 else headers, body)
        try:
            self._admit(request)
            done = self._do(request)
            return done if isinstance(done, Answer) else _json(200, _plain(done))
        except Wrong as wrong:
            return _json(wrong.status, _error(wrong.status, str(wrong)))

    def _admit(self, request: Request) -> None:
        if self.token and request.header("Authorization") != f"Bearer {self.token}":
            raise Wrong(401, "Request header error: there is no user identity header.")
        if self.cookie and request.header("Cookie") != self.cookie:
            raise Wrong(401, "no session")

    def _do(self, request: Request) -> Any:
        what = (request.method, request.path.removeprefix(_ROOT))
        for method, pattern, do in (
            ("GET", r"/pipelines", self._list_pipelines),
            ("POST", r"/pipelines", self._create_pipeline),
            ("POST", r"/pipelines/upload_version", self._upload_version),
            ("GET", r"/pipelines/([^/]+)/versions", self._list_versions),
            ("GET", r"/experiments", self._list_experiments),
            ("POST", r"/experiments", self._create_experiment),
            ("GET", r"/runs", self._list_runs),
            ("POST", r"/runs", self._create_run),
            ("GET", r"/runs/([^/]+)", self._get_run),
            ("GET", r"/apis/(v1beta1)/runs/([^/]+)", self._get_old_run),
            ("GET", r"/apis/(v1alpha1)/runs/([^/]+)/nodes/([^/]+)/log", self._get_log),
        ):
            if method == what[0] and (found := re.fullmatch(pattern, what[1])):
                do_it: Callable[..., Any] = do
                return do_it(request, *found.groups())
        self.problems.append(f"no such method: {what}")
        raise Wrong(404, "Not Found")

    # The methods.

    def _list_pipelines(self, request: Request) -> Any:
        query = self._query(request, api.PipelineServiceApi.pipeline_service_list_pipelines)
        namespace = self._namespace(query.get("namespace", ""), needed=False)
        found = [each for each in self.pipelines if (each.namespace or "") == namespace and self._shows("pipeline")]
        return self._page(query, api.V2beta1ListPipelinesResponse, pipelines=found)

    def _create_pipeline(self, request: Request) -> Any:
        body = self._body(request, "V2beta1Pipeline")
        body.name = body.name or body.display_name
        body.display_name = body.display_name or body.name
        self._namespace(body.namespace or "", needed=False)
        return self._make(self.pipelines, body, "pipeline", "name", "namespace")

    def _upload_version(self, request: Request) -> Any:
        query = self._query(request, api.PipelineUploadServiceApi.upload_pipeline_version)
        parent = next((each for each in self.pipelines if each.pipeline_id == query.get("pipelineid")), None)
        if parent is None:
            raise Wrong(404, "there is no such pipeline")
        name = query.get("name", "")
        version = api.V2beta1PipelineVersion(
            pipeline_id=parent.pipeline_id,
            name=name,
            display_name=name,
            description=query.get("description"),
            pipeline_spec=_stored(self._uploaded(request), parent),
        )
        return self._make(self.versions, version, "pipeline_version", "name", "pipeline_id")

    def _list_versions(self, request: Request, pipeline_id: str) -> Any:
        query = self._query(request, api.PipelineServiceApi.pipeline_service_list_pipeline_versions)
        found = [each for each in self.versions if each.pipeline_id == pipeline_id and self._shows("version")]
        return self._page(query, api.V2beta1ListPipelineVersionsResponse, pipeline_versions=found)

    def _list_experiments(self, request: Request) -> Any:
        query = self._query(request, api.ExperimentServiceApi.experiment_service_list_experiments)
        namespace = self._namespace(query.get("namespace", ""))
        found = [each for each in self.experiments if (each.namespace or "") == namespace]
        return self._page(query, api.V2beta1ListExperimentsResponse, experiments=found)

    def _create_experiment(self, request: Request) -> Any:
        body = self._body(request, "V2beta1Experiment")
        self._namespace(body.namespace or "")
        body.storage_state = "AVAILABLE"
        return self._make(self.experiments, body, "experiment", "display_name", "namespace")

    def _list_runs(self, request: Request) -> Any:
        query = self._query(request, api.RunServiceApi.run_service_list_runs)
        if "experiment_id" not in query:
            self._namespace(query.get("namespace", ""))
        found = [each for each in self.runs if query.get("experiment_id") in (None, each.experiment_id)]
        if query.get("sort_by") == "created_at desc":
            found.reverse()
        return self._page(query, api.V2beta1ListRunsResponse, runs=found)

    def _create_run(self, request: Request) -> Any:
        body = self._body(request, "V2beta1Run")
        if not any(each.experiment_id == body.experiment_id for each in self.experiments):
            raise Wrong(404, "Experiment not found")
        reference = body.pipeline_version_reference
        version = next(
            (each for each in self.versions if each.pipeline_version_id == reference.pipeline_version_id), None
        )
        if version is None or version.pipeline_id != reference.pipeline_id:
            raise Wrong(400, "there is no such version of the pipeline")
        spec = version.pipeline_spec.get("pipeline_spec", version.pipeline_spec)
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body.runtime_config.parameters or {}
        if unknown := sorted(given.keys() - inputs.keys()):
            raise Wrong(400, f"parameter {unknown[0]} is not in the pipeline")
        for name, definition in inputs.items():
            if name not in given and "defaultValue" not in definition and not definition.get("isOptional"):
                raise Wrong(400, f"parameter {name} is not optional, yet has neither default value nor user value")
        body.state, body.storage_state = "PENDING", "AVAILABLE"
        self._make(self.runs, body, "run")
        self.when_run_is_made()
        return body

    def _get_run(self, request: Request, run_id: str) -> Any:
        self._query(request, api.RunServiceApi.run_service_get_run)
        self.before_run_is_told()
        run = self._made_run(run_id)
        if not self.script:
            return run
        self._moment = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        run.state = self._moment.run["state"]
        return self._moment.run | {"run_id": run_id, "display_name": run.display_name}

    def _get_old_run(self, request: Request, version: str, run_id: str) -> Any:
        run = self._made_run(run_id)
        if version in self.missing:
            raise Wrong(404, "Not Found")
        manifest = self._moment.manifest
        runtime = {} if manifest is None else {"workflow_manifest": json.dumps(manifest)}
        return {"run": {"id": run_id, "name": run.display_name}, "pipeline_runtime": runtime}

    def _get_log(self, request: Request, version: str, run_id: str, pod: str) -> Any:
        self._made_run(run_id)
        log = self._moment.log(pod)
        if version in self.missing or log is None:
            raise Wrong(404 if version in self.missing else 500, "Not Found")
        return Answer(200, [("Content-Type", self.log_type)], log.encode())

    def _made_run(self, run_id: str) -> Any:
        run = next((each for each in self.runs if each.run_id == run_id), None)
        if run is None:
            raise Wrong(404, f"Run {run_id} not found")
        return run

    # What they have in common.

    def _shows(self, kind: str) -> bool:
        if kind in self.hidden_once:
            self.hidden_once.remove(kind)
            return False
        return True

    def _make(self, things: list[Any], thing: Any, kind: str, *unique: str) -> Any:
        """Keep a thing under a new id, unless one is the same in these fields."""
        if len(getattr(thing, "name", "")) > (longest := _LONGEST.get(kind, 1000)):
            raise Wrong(400, f"the name of a {kind} cannot be longer than {longest}")
        if unique and any(all(getattr(each, key) == getattr(thing, key) for key in unique) for each in things):
            raise Wrong(409, f"Already exist error: The name {getattr(thing, unique[0])} already exists.")
        self._made += 1
        new_id = str(UUID(int=self._made)) if kind == "run" else f"{kind}-{self._made:04}"
        setattr(thing, f"{kind}_id", new_id + self.id_suffix)
        thing.created_at = (_BEGAN + timedelta(seconds=self._made)).isoformat()
        things.append(thing)
        return thing

    def _namespace(self, namespace: str, *, needed: bool = True) -> str:
        if not self.namespaces:
            if namespace:
                raise Wrong(400, "In single-user mode, a request cannot have a namespace.")
        elif not namespace and needed:
            raise Wrong(400, "Invalid input error: A resource must have a namespace in multi-user mode.")
        elif namespace in self.forbidden:
            raise Wrong(403, f"User is not authorized in namespace {namespace}")
        elif namespace and namespace not in self.namespaces:
            raise Wrong(404, f"Namespace {namespace} not found")
        return namespace

    def _query(self, request: Request, method: Any) -> dict[str, str]:
        """The query, whose names are those of the method's parameters."""
        known = set(re.findall(r":param (\w+):", method.__doc__))
        for name in request.query.keys() - known:
            self.problems.append(f"{request.path}: no parameter {name}")
        return request.query

    def _page(self, query: dict[str, str], response: Any, **found: list[Any]) -> Any:
        ((key, rows),) = found.items()
        if "filter" in query:
            for predicate in self._model(json.loads(_unescaped(query["filter"])), "V2beta1Filter", "filter").predicates:
                assert predicate.operation == "EQUALS"
                rows = [row for row in rows if getattr(row, predicate.key) == predicate.string_value]
        start = int(query.get("page_token") or 0)
        end = start + int(query.get("page_size") or 10)
        token = str(end) if end < len(rows) else ""
        return response(**{key: rows[start:end]}, next_page_token=token, total_size=len(rows))

    def _body(self, request: Request, model: str) -> Any:
        if request.header("Content-Type") != "application/json":
            self.problems.append(f"{request.path}: is no JSON")
        return self._model(json.loads(request.body), model, request.path)

    def _model(self, value: Any, kind: str, where: str) -> Any:
        """A JSON value as a model of the description, or what it contains; every deviation is a problem."""
        if kind.startswith("list["):
            return [self._model(item, kind[5:-1], where) for item in value]
        if kind.startswith("dict("):
            return {name: self._model(item, kind.split(", ")[1][:-1], where) for name, item in value.items()}
        if kind in _PLAIN:
            if not isinstance(value, _PLAIN[kind]):
                self.problems.append(f"{where}: {value!r} is no {kind}")
            return value
        model = getattr(api, kind)
        if hasattr(model, "allowable_values"):
            if value not in model.allowable_values:
                self.problems.append(f"{where}: {value!r} is no {kind}")
            return value
        attributes = {key: name for name, key in model.attribute_map.items()}
        for key in value.keys() - attributes.keys():
            self.problems.append(f"{where}: {kind} has no {key}")
        given = {attributes[key]: item for key, item in value.items() if key in attributes}
        types = model.openapi_types
        return model(**{name: self._model(item, types[name], f"{where}.{name}") for name, item in given.items()})

    def _uploaded(self, request: Request) -> list[Any]:
        """The documents of an uploaded file, each parsed strictly."""
        head = f"Content-Type: {request.header('Content-Type')}\r\n\r\n".encode()
        (part,) = message_from_bytes(head + request.body, policy=HTTP).iter_parts()
        if part.get_param("name", header="Content-Disposition") != "uploadfile":
            self.problems.append(f"{request.path}: the file is not called uploadfile")
        if not str(part.get_filename()).endswith((".yaml", ".zip", ".tar.gz")):
            raise Wrong(400, "Unexpected pipeline file format. Support .zip, .tar.gz, .json or YAML.")
        content: Any = part.get_payload(decode=True)
        documents = list(yaml.safe_load_all(content))
        try:
            messages = [json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())]
            messages += [json_format.ParseDict(each, pipeline_spec_pb2.PlatformSpec()) for each in documents[1:]]
        except json_format.ParseError as error:
            self.problems.append(f"{request.path}: {error}")
            raise Wrong(400, f"Failed to parse: {error}") from error
        return messages


def _stored(messages: list[Any], parent: Any) -> Any:
    """What the server keeps: the messages, under a name of its own."""
    prefix = f"namespace/{parent.namespace}/" if parent.namespace else ""
    messages[0].pipeline_info.name = f"{prefix}pipeline/{parent.name}"
    spec, *platforms = (json_format.MessageToDict(message) for message in messages)
    return {"pipeline_spec": spec, "platform_spec": platforms[0]} if platforms else spec


def _unescaped(text: str) -> str:
    """A filter as the server reads it: decoded, as every parameter is, and then once more."""
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise Wrong(400, f"failed to parse valid filter from {text!r}: invalid URL escape")
    return unquote_plus(text)


def _plain(model: Any) -> Any:
    return api.ApiClient.sanitize_for_serialization(api.ApiClient(), model)


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": message, "code": _CODES.get(status, 2), "message": message, "details": []}


def _json(status: int, document: Any) -> Answer:
    return Answer(status, [("Content-Type", "application/json")], json.dumps(document).encode())
