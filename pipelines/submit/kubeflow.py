"""Kubeflow Pipelines as a platform that pipelines are uploaded and submitted to, by its REST API.

kfp.Client's own methods take no timeout, print, and read the cookie that another program kept for another host.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

import requests
from google.protobuf import json_format  # type: ignore[import-untyped] # stubs are not installed
from kfp.pipeline_spec import pipeline_spec_pb2
from requests.exceptions import InvalidProxyURL, InvalidSchema, RequestException
from urllib3.exceptions import HTTPError, LocationValueError

from components.shared.errors import (
    InputError,
    PlatformRefusedError,
    PlatformUnavailableError,
    RetryableError,
    causes_of,
)
from components.shared.events.redaction import redact
from components.shared.kubeflow.run import read_run
from components.shared.retry import retry_after_s
from pipelines.compiled import CompiledPipeline
from pipelines.submit.connection import LONGEST_REQUEST_S, connection_error, proxy_refusal, retried
from pipelines.submit.inputs import as_sent, check_name, version_name, without_cache
from pipelines.submit.kubeflow_access import HOW_TO_SIGN_IN, Access, api_addresses
from pipelines.submit.platform import Progress, RunRequest, Submitted, Uploaded
from pipelines.submit.run_text import message_text
from pipelines.watch_text import printable

LARGEST_LOG = 256 * 1024 * 1024  # where reading it is given up
_API, _OLD_API, _LOGS_API = "/apis/v2beta1", "/apis/v1beta1", "/apis/v1alpha1"
_CONNECT_S = 10.0
_PIECE, _TAIL = 64 * 1024, 1024 * 1024
_LONGEST = 600  # characters of a server's message
_FAILURES = (RequestException, HTTPError)

Thing = dict[str, Any]


class AlreadyExistsError(PlatformRefusedError):
    """Something of that name is there."""


class KubeflowPlatform:
    """Implements :class:`pipelines.submit.platform.Platform`.

    Kubeflow knows versions by their name, and runs by an id of its own: every request for a run is preceded by a look,
    and two that submit the same at the same moment get two runs. Each argument is its option.
    """

    def __init__(
        self,
        access: Access,
        *,
        host: str | None,
        namespace: str | None = None,
        experiment: str | None = None,
        service_account: str | None = None,
    ) -> None:
        self._host, self._ui = api_addresses(host)
        self._namespace, self._service_account = namespace, service_account
        self._owner = {} if namespace is None else {"namespace": namespace}
        self._experiment = "shutterline" if experiment is None else experiment
        check_name("--experiment", self._experiment)
        self._access = access
        self._session = requests.Session()
        self._answered = False
        self._has_workflows = False

    def plan(self, pipeline: CompiledPipeline, name: str, version: str) -> dict[str, Any]:
        """Where and as what a version and its runs would be sent; see Platform."""
        _messages_of_file(pipeline)
        to = {"host": self._host, "namespace": self._namespace, "experiment": self._experiment}
        return {"place": self._host} | to | {"service_account": self._service_account}

    def upload(self, pipeline: CompiledPipeline, name: str, version: str) -> Uploaded:
        """Make the file a version of the pipeline of that name, which is made if it is missing."""
        return self._upload(pipeline, name, version)[0]

    def submit(self, request: RunRequest) -> Submitted:
        """Start a run of the pipeline's version, which is uploaded first, unless a run of that name is there."""
        # A run that refers to a version cannot turn the cache off, hence a version of its own.
        pipeline = request.pipeline if request.use_cache else without_cache(request.pipeline)
        _, pipeline_id, version_id = self._upload(pipeline, pipeline.name, version_name(pipeline))
        experiment = self._find_or_make_experiment()
        found = retried(lambda timeout_s: self._find_run(request.name, timeout_s, experiment_id=experiment))
        run = found or self._start(request, experiment, pipeline_id, version_id)
        run_id, state = self._id(run, "run_id"), read_run(run).state
        state = "cancelled" if state == "cancelling" else state
        if found and state not in ("failed", "cancelled"):
            self._check_same(found, request, version_id)
        return Submitted(run_id, request.name, state, self._page(run_id), existed=found is not None)

    def progress(self, run: str, timeout_s: float) -> Progress:
        """How the run of that id is doing, by v2beta1 and, where it is there, v1beta1."""
        path = f"runs/{quote(run, safe='')}"
        found = self._json("GET", f"{_API}/{path}", timeout_s)
        self._id(found, "run_id")
        workflow = None
        try:
            workflow = self._json("GET", f"{_OLD_API}/{path}", timeout_s)
            self._has_workflows = True
        except RetryableError:  # an outage, or a gateway that has nobody to ask: 503 for ever
            if self._has_workflows:
                raise
        except (InputError, PlatformUnavailableError):  # 404, 403 or a page; 500, 501
            pass
        report = read_run(found, workflow)
        failed = [step for step in report.tasks.values() if step.state == "failed" and not step.exit_task]
        errors = [f"{step.name}: {message_text(step.message)}" for step in failed if step.message]
        if not errors and report.state == "failed" and report.message:
            errors.append(message_text(report.message))
        return Progress(report.state, report.tasks, "; ".join(errors), report.retried)

    def find(self, run: str) -> Submitted:
        """The run of that id, or the newest of that name."""

        def ask(timeout_s: float) -> Thing | None:
            if _is_id(run):
                return self._json("GET", f"{_API}/runs/{quote(run, safe='')}", timeout_s)
            return self._find_run(run, timeout_s, namespace=self._namespace)

        if (found := retried(ask)) is None:
            where = f" in namespace {self._namespace}" if self._namespace else ""
            raise PlatformRefusedError(f"{self._host}: there is no run of the name or id {printable(run, 60)}{where}")
        run_id, name = self._id(found, "run_id"), printable(str(found.get("display_name") or run), 128)
        return Submitted(run_id, name, read_run(found).state, self._page(run_id), existed=True)

    def log(self, run: str, pod: str, timeout_s: float) -> str | None:
        """The last MiB of a pod's log; None where it is not to be had, for whatever reason, or has no end by then."""
        end, kept, total = time.monotonic() + timeout_s, b"", 0
        path = f"{_LOGS_API}/runs/{quote(run, safe='')}/nodes/{quote(pod, safe='')}/log"
        try:
            with self._request("GET", path, timeout_s, stream=True) as response:
                if not response.ok or "html" in response.headers.get("Content-Type", ""):
                    return None
                for piece in response.iter_content(_PIECE):
                    kept, total = (kept + piece)[-_TAIL:], total + len(piece)
                    if total > LARGEST_LOG or time.monotonic() > end:
                        return None
        except _FAILURES:
            return None
        return kept.decode("utf-8", "replace")

    def _page(self, run: str) -> str:
        return f"{self._ui}/#/runs/details/{run}"

    def _upload(self, pipeline: CompiledPipeline, name: str, version: str) -> tuple[Uploaded, str, str]:
        """The version, and the ids of its pipeline and of itself."""
        ours = _messages_of_file(pipeline)
        described = {"description": pipeline.description} if pipeline.description else {}
        # By the key "name", which is unique; "display_name" is not in every version of Kubeflow.
        made = {"name": name, "display_name": name} | described | self._owner
        parent, _ = self._find_or_make("pipeline", "pipelines", "name", name, self._owner, json=made)
        pipeline_id = self._id(parent, "pipeline_id")
        found, existed = self._find_or_make(
            "version",
            f"pipelines/{pipeline_id}/versions",
            "name",
            version,
            make="pipelines/upload_version",
            params={"name": version, "pipelineid": pipeline_id} | described,
            # Kubeflow looks at the name's ending.
            files={"uploadfile": ("pipeline.yaml", as_sent(pipeline), "application/yaml")},
        )
        version_id = self._id(found, "pipeline_version_id")
        if existed and _messages_of_version(found.get("pipeline_spec")) != ours:
            raise PlatformRefusedError(
                f"{self._host}: version {version} of pipeline {name} is there with other content than {pipeline.file} "
                "has; choose another name by --version-name"
            )
        place = f"{self._ui}/#/pipelines/details/{pipeline_id}/version/{version_id}"
        return Uploaded(name, version, place, existed), pipeline_id, version_id

    def _find_or_make_experiment(self) -> str:
        name, made = self._experiment, {"display_name": self._experiment} | self._owner
        found, _ = self._find_or_make("experiment", "experiments", "display_name", name, self._owner, json=made)
        if found.get("storage_state") == "ARCHIVED":
            raise PlatformRefusedError(
                f"{self._host}: experiment {name} is archived and takes no runs; restore it, or choose another by "
                "--experiment"
            )
        return self._id(found, "experiment_id")

    def _find_or_make(
        self, what: str, path: str, field: str, name: str, query: dict[str, str] | None = None, *, make: str = "",
        **content: Any,
    ) -> tuple[Thing, bool]:  # fmt: skip
        """What is there, or else is made, and whether it was there; names are unique, so all of it may be repeated."""

        def find(timeout_s: float) -> Thing | None:
            return self._first(path, timeout_s, field, name, **query or {})

        def attempt(timeout_s: float) -> tuple[Thing, bool]:
            if (found := find(timeout_s)) is not None:
                return found, True
            try:
                return self._json("POST", f"{_API}/{make or path}", timeout_s, **content), False
            except AlreadyExistsError as taken:  # somebody else was faster
                if (found := find(timeout_s)) is not None:
                    return found, True
                raise PlatformRefusedError(
                    f"{self._host}: the name of {what} {name} is taken by something that you cannot see: {taken}; "
                    "choose another name"
                ) from taken

        return retried(attempt)

    def _find_run(self, name: str, timeout_s: float, **query: str | None) -> Thing | None:
        """The newest run of that name, of an experiment or any: Kubeflow allows several."""
        return self._first("runs", timeout_s, "display_name", name, sort_by="created_at desc", **query)

    def _start(self, request: RunRequest, experiment: str, pipeline_id: str, version_id: str) -> Thing:
        body = {
            "display_name": request.name,
            "experiment_id": experiment,
            "pipeline_version_reference": {"pipeline_id": pipeline_id, "pipeline_version_id": version_id},
            "runtime_config": {"parameters": dict(request.values)},
        }
        if self._service_account is not None:
            body["service_account"] = self._service_account
        try:
            return self._json("POST", f"{_API}/runs", LONGEST_REQUEST_S, json=body)
        except RetryableError as error:  # not repeated: a second request could make a second run
            raise PlatformUnavailableError(
                f"{error}; whether run {request.name} was made is not known: repeat the command, without --again, "
                "which finds it if it was"
            ) from error

    def _check_same(self, run: Thing, request: RunRequest, version_id: str) -> None:
        """See that a run of the request's name is the one that is asked for; what it does not say is taken for that."""
        version = (run.get("pipeline_version_reference") or {}).get("pipeline_version_id")
        others = (run.get("runtime_config") or {}).get("parameters") or {}
        # Where no account is asked for, a run has the deployment's own, whichever that is.
        account = self._service_account and run.get("service_account")
        if (
            version not in (None, version_id)
            or any(others.get(name, value) != value for name, value in request.values.items())
            or (account and account != self._service_account)
        ):
            raise PlatformRefusedError(
                f"--name {request.name}: another run has that name, of another pipeline or with other values or "
                f"account; choose another name, or leave it out ({self._page(run['run_id'])})"
            )

    # Requests, each one attempt.

    def _first(self, path: str, timeout_s: float, field: str, value: str, **query: str | None) -> Thing | None:
        """The first thing in a list whose field has that value; None: there is none."""
        predicate = {"operation": "EQUALS", "key": field, "string_value": value}
        # The server takes what it was sent for encoded once more.
        text = json.dumps({"predicates": [predicate]}).replace("+", r"\u002b").replace("%", r"\u0025")
        found = self._json("GET", f"{_API}/{path}", timeout_s, params=query | {"filter": text, "page_size": "1"})
        things = found.get("pipeline_versions" if path.endswith("/versions") else path)
        return things[0] if isinstance(things, list) and things and isinstance(things[0], dict) else None

    def _json(self, method: str, path: str, timeout_s: float, **content: Any) -> Thing:
        try:
            response = self._request(method, path, timeout_s, **content)
        except _FAILURES as failure:
            raise self._unanswered(failure) from failure
        document = _object(response)
        if response.status_code >= 300:
            raise self._refusal(response, document or {}, is_page=document is None)
        if document is None:
            raise self._no_api("answers with a page")
        self._answered = True
        return document

    def _request(self, method: str, path: str, timeout_s: float, **content: Any) -> requests.Response:
        return self._session.request(
            method,
            f"{self._host}{path}",
            auth=self._access,
            verify=str(self._access.ca_file) if self._access.ca_file else True,
            timeout=(min(_CONNECT_S, timeout_s), timeout_s),
            allow_redirects=False,  # a page to sign in
            **content,
        )

    def _id(self, thing: Thing, key: str) -> str:
        """The id of what the API answered: other services answer with JSON as well."""
        if not thing.get(key):
            raise self._no_api(f"answers without a {key}")
        return str(thing[key])

    def _unanswered(self, failure: BaseException) -> Exception:
        if any(isinstance(each, InvalidProxyURL | InvalidSchema | LocationValueError) for each in causes_of(failure)):
            scheme = self._host.partition(":")[0].upper()
            return PlatformRefusedError(
                f"{scheme}_PROXY: is no address of a proxy; allowed is http(s)://HOST[:PORT], perhaps with "
                "USER:PASSWORD@ before the host"
            )
        trust = "name its authority's certificate by --ca-file"
        return connection_error(failure, self._host, answered=self._answered, trust=trust)

    def _no_api(self, what: str) -> PlatformRefusedError:
        below = f"Kubeflow's API is below /pipeline: {self._host}/pipeline"
        causes = [] if self._host.endswith("/pipeline") else [below]
        if kinds := self._access.kinds:
            causes.append(f"or that is a page to sign in, and the {kinds} is not valid, or no longer")
        else:
            causes.append(f"or that is a page to sign in: {HOW_TO_SIGN_IN}")
        return PlatformRefusedError(f"{self._host}: is no Kubeflow Pipelines API: it {what}; {', '.join(causes)}")

    def _refusal(self, answer: requests.Response, document: Thing, *, is_page: bool) -> Exception:
        status, namespace, kinds = answer.status_code, self._namespace, self._access.kinds
        # The API's own, the upload's, and what proxies use.
        keys = ("message", "error_details", "error_message", "error")
        text = next((text for key in keys if isinstance(text := document.get(key), str) and text), "")
        message = printable(redact(text), _LONGEST)
        answered = f"{self._host} answers {status}" + (f": {message}" if message else "")
        if status == 407:
            return proxy_refusal(self._host, status)
        if status in (429, 502, 503, 504):
            quota = " (a quota is used up)" if status == 429 else ""
            return RetryableError(f"{answered}{quota}", retry_after_s(answer.headers.get("Retry-After", "")))
        # Where files are uploaded, some versions have other codes for a name that is taken.
        taken = status == 409 or (status in (400, 500) and "already exist" in message.lower())
        if answer.request.method == "POST" and taken:
            return AlreadyExistsError(message)
        if status >= 500:
            return PlatformUnavailableError(answered)
        if status not in (401, 403) and is_page:
            return self._no_api(f"answers {status} with a page" if status >= 400 else f"leads elsewhere ({status})")
        advice = ""
        if status == 401:
            advice = f"; it does not accept the {kinds}" if kinds else "; it wants to know who asks"
            advice += f": {HOW_TO_SIGN_IN}"
        elif status == 403:
            where = f" in namespace {namespace}" if namespace else ""
            advice = f"; ask for the role kubeflow-edit{where}, or choose another namespace by --namespace"
            advice += "" if kinds else f"; nothing was sent to sign in: {HOW_TO_SIGN_IN}"
        elif "namespace" in message.lower() and namespace is None:
            advice = "; name yours by --namespace"
        elif status == 404 and namespace:
            advice = f"; is --namespace {namespace} right?"
        return PlatformRefusedError(f"{answered}{advice}")


def _object(response: requests.Response) -> Thing | None:
    """The JSON object that an answer is; None: it is another thing, such as a page."""
    try:
        document = json.loads(response.content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _messages(spec: Mapping[str, Any], platforms: Mapping[str, Any]) -> list[Any]:
    """A pipeline as Kubeflow keeps it: the protobuf messages, with a name of its own in them."""
    pipeline = json_format.ParseDict(dict(spec), pipeline_spec_pb2.PipelineSpec())
    pipeline.pipeline_info.name = ""
    return [pipeline, json_format.ParseDict({"platforms": dict(platforms)}, pipeline_spec_pb2.PlatformSpec())]


def _messages_of_file(pipeline: CompiledPipeline) -> list[Any]:
    try:
        return _messages(pipeline.spec, pipeline.platforms)
    except json_format.ParseError as error:
        raise InputError(
            f"{pipeline.file}: is no pipeline spec that kfp understands: {' '.join(str(error).split())}; compile it "
            "again with `shutterline compile`"
        ) from error


def _messages_of_version(content: Any) -> list[Any] | None:
    """The same of what Kubeflow says a version holds: a pipeline, or a pipeline and its platforms."""
    try:
        if "pipeline_spec" in content:
            return _messages(content["pipeline_spec"], (content.get("platform_spec") or {}).get("platforms", {}))
        return _messages(content, {})
    # Made by another version of kfp, or not even a pipeline; different it is in any case.
    except (json_format.ParseError, AttributeError, TypeError, ValueError):
        return None
