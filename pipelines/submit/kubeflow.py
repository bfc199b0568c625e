"""Kubeflow Pipelines as a platform that pipelines are uploaded and submitted to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

from google.protobuf import json_format  # type: ignore[import-untyped] # stubs are not installed
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.errors import InputError, PlatformRefusedError, PlatformUnavailableError
from components.shared.kubeflow.report import RunReport
from components.shared.kubeflow.run import read_run
from pipelines.compiled import CompiledPipeline
from pipelines.submit.connection import RetryableError, retried
from pipelines.submit.inputs import as_sent, check_name, version_name, without_cache
from pipelines.submit.kubeflow_access import Access, api_host, experiment_name, ui_address
from pipelines.submit.kubeflow_api import API, OLD_API, AlreadyExistsError, KubeflowApi
from pipelines.submit.platform import Progress, RunRequest, Submitted, Uploaded
from pipelines.submit.run_text import message_words
from pipelines.watch_text import printable

_SHOWN = 12  # digits of a digest
_MOST_REFUSALS = 3  # of v1beta1, where it has never answered, before the rest is shown without it

Thing = dict[str, Any]


class KubeflowPlatform:
    """Implements :class:`pipelines.submit.platform.Platform`.

    Kubeflow knows versions by their name, and runs by an id of its own: every request for a run is preceded by a look,
    and two that submit the same at the same moment get two runs. Each argument is its option.

    Raises:
        InputError: The host, its user interface's or its proxy's address, or the experiment cannot be right.
    """

    def __init__(
        self,
        host: str | None,
        access: Access,
        *,
        namespace: str | None = None,
        experiment: str | None = None,
        service_account: str | None = None,
    ) -> None:
        self._host = api_host(host)
        self._namespace = namespace
        self._experiment, named_by = experiment_name(experiment)
        check_name(named_by, self._experiment)
        self._service_account = service_account
        self._ui = ui_address(self._host)
        self._has_workflows: bool | None = None  # None: not known yet
        self._refusals = 0
        self._api = KubeflowApi(self._host, access, namespace)

    def plan(self, pipeline: CompiledPipeline, name: str, version: str) -> dict[str, Any]:
        """Where and as what a version and its runs would be sent; see Platform."""
        _digest_of_file(pipeline)
        to = {"host": self._host, "namespace": self._namespace, "experiment": self._experiment}
        return {"place": self._host} | to | {"service_account": self._service_account}

    def upload(self, pipeline: CompiledPipeline, name: str, version: str) -> Uploaded:
        """Make the file a version of the pipeline of that name, which is made if it is missing."""
        uploaded, _, _ = self._upload(pipeline, name, version)
        return uploaded

    def submit(self, request: RunRequest) -> Submitted:
        """Start a run of the pipeline's version, which is uploaded first, unless a run of that name is there."""
        # A run that refers to a version cannot turn the cache off, hence a version of its own.
        pipeline = request.pipeline if request.use_cache else without_cache(request.pipeline)
        _, pipeline_id, version_id = self._upload(pipeline, pipeline.name, version_name(pipeline))
        experiment = self._find_or_make_experiment()
        body = {
            "display_name": request.name,
            "experiment_id": experiment,
            "pipeline_version_reference": {"pipeline_id": pipeline_id, "pipeline_version_id": version_id},
            "runtime_config": {"parameters": dict(request.values)},
        }
        if self._service_account is not None:
            body["service_account"] = self._service_account
        what = f"run {request.name}"
        run, existed = self._find_or_make(
            lambda: self._find_run(experiment, request.name),
            lambda: self._api.create("runs", what, body),
            what,
            "run_id",
        )
        state = read_run(run).state
        state = "cancelled" if state == "cancelling" else state
        if existed and state not in ("failed", "cancelled"):
            self._check_same(run, request, version_id)
        return Submitted(run["run_id"], request.name, state, self._page(run["run_id"]), existed)

    def progress(self, run: str, timeout_s: float) -> Progress:
        """How the run of that id is doing, by v2beta1 and, where it is there, v1beta1."""
        path = f"runs/{quote(run, safe='')}"
        found = self._api.identified(self._api.get(f"{API}/{path}", timeout_s), "run_id")
        workflow = None
        if self._has_workflows is not False:
            try:
                workflow = self._api.get(f"{OLD_API}/{path}", timeout_s)
                self._has_workflows = True
            except RetryableError:  # an outage, or a gateway that has nobody to ask: 503 for ever
                self._refusals += 1
                if self._has_workflows or self._refusals < _MOST_REFUSALS:
                    raise
            except InputError:  # 404, 403 or a page
                self._has_workflows = False
            except PlatformUnavailableError:  # 500, 501
                pass
        return _progress(read_run(found, workflow))

    def find(self, run: str) -> Submitted:
        """The run of that id, or the newest of that name.

        Raises:
            PlatformRefusedError: There is none.
        """
        found: Thing | None
        if _is_id(run):
            found = retried(lambda timeout_s: self._api.get(f"{API}/runs/{quote(run, safe='')}", timeout_s))
        else:
            found = self._find_run(None, run)
        if found is None:
            where = f" in namespace {self._namespace}" if self._namespace else ""
            raise PlatformRefusedError(f"{self._host}: there is no run of the name or id {printable(run, 60)}{where}")
        run_id = self._api.identified(found, "run_id")["run_id"]
        name = printable(str(found.get("display_name") or run), 128)
        return Submitted(run_id, name, read_run(found).state, self._page(run_id), True)

    def log(self, run: str, pod: str, timeout_s: float) -> str | None:
        """The end of a pod's log; None where the API or a gateway does not give it, or the pod is gone."""
        return self._api.log(run, pod, timeout_s)

    def _page(self, run: str) -> str:
        return f"{self._ui}/#/runs/details/{run}"

    def _upload(self, pipeline: CompiledPipeline, name: str, version: str) -> tuple[Uploaded, str, str]:
        """The version, and the ids of its pipeline and of itself."""
        ours = _digest_of_file(pipeline)
        described = {"description": pipeline.description} if pipeline.description else {}
        body = {"name": name, "display_name": name} | described
        if self._namespace is not None:
            body["namespace"] = self._namespace
        parent, _ = self._find_or_make(
            # By the key "name", which is unique; "display_name" is not in every version of Kubeflow.
            lambda: self._api.first("pipelines", "pipelines", ("name", name), namespace=self._namespace),
            lambda: self._api.create("pipelines", f"pipeline {name}", body),
            f"pipeline {name}",
            "pipeline_id",
        )
        pipeline_id, what = parent["pipeline_id"], f"version {version} of pipeline {name}"
        query = {"name": version, "pipelineid": pipeline_id} | described
        found, existed = self._find_or_make(
            lambda: self._api.first(f"pipelines/{pipeline_id}/versions", "pipeline_versions", ("name", version)),
            lambda: self._api.create("pipelines/upload_version", what, file=as_sent(pipeline), **query),
            what,
            "pipeline_version_id",
        )
        version_id = found["pipeline_version_id"]
        theirs = _digest_of_version(found.get("pipeline_spec")) if existed else ours
        if theirs != ours:
            raise PlatformRefusedError(
                f"{self._host}: {what} is there with other content: sha256 {theirs[:_SHOWN]}…, and {pipeline.file} has "
                f"{ours[:_SHOWN]}…; choose another name by --version-name"
            )
        place = f"{self._ui}/#/pipelines/details/{pipeline_id}/version/{version_id}"
        return Uploaded(name, version, place, existed), pipeline_id, version_id

    def _find_or_make_experiment(self) -> str:
        name, namespace = self._experiment, self._namespace
        what, body = f"experiment {name}", {"display_name": name}
        if namespace is not None:
            body["namespace"] = namespace
        experiment, _ = self._find_or_make(
            lambda: self._api.first("experiments", "experiments", ("display_name", name), namespace=namespace),
            lambda: self._api.create("experiments", what, body),
            what,
            "experiment_id",
        )
        if experiment.get("storage_state") == "ARCHIVED":
            raise PlatformRefusedError(
                f"{self._host}: {what} is archived and takes no runs; restore it, or choose another by --experiment"
            )
        return str(experiment["experiment_id"])

    def _find_run(self, experiment: str | None, name: str) -> Thing | None:
        """The newest run of that name, of an experiment or any: Kubeflow allows several."""
        namespace = self._namespace if experiment is None else None
        query = {"experiment_id": experiment, "namespace": namespace, "sort_by": "created_at desc"}
        return self._api.first("runs", "runs", ("display_name", name), **query)

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

    def _find_or_make(
        self, find: Callable[[], Thing | None], make: Callable[[], Thing], what: str, key: str
    ) -> tuple[Thing, bool]:
        """What is there, or else is made, with an id at `key`; and whether it was there before."""
        if (found := find()) is not None:
            return self._api.identified(found, key), True
        try:
            return self._api.identified(make(), key), False
        except AlreadyExistsError as taken:  # somebody else was faster
            if (found := find()) is not None:
                return self._api.identified(found, key), True
            raise PlatformRefusedError(
                f"{self._host}: the name of {what} is taken by something that you cannot see: {taken}; choose "
                "another name"
            ) from taken


def _progress(report: RunReport) -> Progress:
    failed = [step for step in report.tasks.values() if step.state == "failed" and not step.exit_task]
    errors = [f"{step.name}: {message_words(step.message)}" for step in failed if step.message]
    if not errors and report.state == "failed" and report.message:
        errors.append(message_words(report.message))
    return Progress(report.state, report.tasks, "; ".join(errors), report.retried)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _content_digest(spec: Mapping[str, Any], platforms: Mapping[str, Any]) -> str:
    """SHA-256 of a pipeline as Kubeflow keeps it: the protobuf messages, with a name of its own in them."""
    pipeline = json_format.ParseDict(dict(spec), pipeline_spec_pb2.PipelineSpec())
    pipeline.pipeline_info.name = ""
    platform = json_format.ParseDict({"platforms": dict(platforms)}, pipeline_spec_pb2.PlatformSpec())
    return _digest([json_format.MessageToDict(message) for message in (pipeline, platform)])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _digest_of_file(pipeline: CompiledPipeline) -> str:
    try:
        return _content_digest(pipeline.spec, pipeline.platforms)
    except json_format.ParseError as error:
        raise InputError(
            f"{pipeline.file}: is no pipeline spec that kfp understands: {' '.join(str(error).split())}; compile it "
            "again with `shutterline compile`"
        ) from error


def _digest_of_version(content: object) -> str:
    """The same of what Kubeflow says a version holds: a pipeline, or a pipeline and its platforms."""
    try:
        spec: Any = content
        platforms: Any = {}
        if isinstance(content, Mapping) and "pipeline_spec" in content:
            spec, platforms = content["pipeline_spec"], (content.get("platform_spec") or {}).get("platforms", {})
        return _content_digest(spec, platforms)
    # Made by another version of kfp, or not even a pipeline; different it is in any case.
    except (json_format.ParseError, AttributeError, TypeError, ValueError):
        return _digest(content)
