"""Kubeflow Pipelines as a platform that pipelines are uploaded and submitted to."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID

from kfp_server_api import (  # type: ignore[import-untyped] # it publishes no types
    ApiClient,
    V2beta1Experiment,
    V2beta1Filter,
    V2beta1Pipeline,
    V2beta1PipelineVersionReference,
    V2beta1Predicate,
    V2beta1Run,
    V2beta1RuntimeConfig,
)

from components.shared.errors import InputError, PlatformRefusedError, PlatformUnavailableError
from components.shared.kubeflow.run import RunReport, read_run
from pipelines.compiled import PLATFORM_TITLES, CompiledPipeline
from pipelines.submit.kubeflow_access import Access, api_host, experiment_name, ui_address
from pipelines.submit.kubeflow_api_errors import AlreadyExists, Answers
from pipelines.submit.kubeflow_client import KubeflowClient
from pipelines.submit.kubeflow_content import as_sent, digest_of_file, digest_of_version, with_caching
from pipelines.submit.kubeflow_proxy import proxy_to
from pipelines.submit.names import check_name, version_name
from pipelines.submit.patience import Later, Patience
from pipelines.submit.platform import Progress, RunRequest, Submitted, Uploaded
from pipelines.submit.step_text import message_words
from pipelines.submit.values import check_no_secret
from pipelines.watch_text import printable

_API = "/apis/v2beta1"
_OLD_API = "/apis/v1beta1"
_LOGS_API = "/apis/v1alpha1"
_PLAIN = ApiClient.sanitize_for_serialization
_SHOWN = 12  # digits of a digest
_MOST_REFUSALS = 3  # of v1beta1, where it has never answered, before the rest is shown without it

T = TypeVar("T")


class KubeflowPlatform:
    """Implements :class:`pipelines.submit.platform.Platform` through kfp.Client.

    Kubeflow knows versions by their name, and runs by an id of its own. Every request for a run is preceded by a look;
    two that submit the same at the same moment get two runs, as does a server that begins a run after the request for
    it was given up.

    Args:
        host: Address of the API; None: ``KF_PIPELINES_ENDPOINT`` says it.
        access: Credentials.
        namespace: Of the user, where Kubeflow has several; None: it has not.
        experiment: What its runs are filed under; made if missing.
        service_account: Kubernetes service account of the runs; None: the deployment's default.

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
        check_no_secret(named_by, self._experiment)
        self._service_account = service_account
        self._ui = ui_address(self._host)
        self._tells_workflows = True
        self._told_workflow = False
        self._refusals = 0
        answers = Answers(self._host, namespace, access.told, proxy_to(self._host))
        self._client = KubeflowClient(self._host, access, answers)

    # What a platform does.

    def upload(self, pipeline: CompiledPipeline, name: str, version: str) -> Uploaded:
        """Make the file a version of the pipeline of that name, which is made if it is missing."""
        uploaded, _, _ = self._upload(Patience(), pipeline, name, version)
        return uploaded

    def submit(self, request: RunRequest) -> Submitted:
        """Start a run of the pipeline's version, which is uploaded first, unless a run of that name is there."""
        patience = Patience()
        pipeline = _with_caching_of(request)
        _, pipeline_id, version_id = self._upload(patience, pipeline, pipeline.name, version_name(pipeline))
        experiment = self._find_or_make_experiment(patience)
        run, existed = self._make(
            patience,
            lambda: self._find_run(patience, experiment.experiment_id, request.name),
            lambda: self._client.create(
                patience,
                self._client.api.runs.run_service_create_run,
                self._run(request, experiment.experiment_id, pipeline_id, version_id),
            ),
            f"run {request.name}",
            "run_id",
        )
        state = read_run(_plain(run)).state
        state = "cancelled" if state == "cancelling" else state
        if existed and state not in ("failed", "cancelled"):
            self._check_same(run, request, version_id)
        return Submitted(run.run_id, request.name, state, self._page(run.run_id), existed)

    def progress(self, run: str, patience: Patience | None = None) -> Progress:
        """How the run of that id is doing."""
        patient = patience or Patience()
        return _progress_of(read_run(*patient.persist(lambda: self._answers_for(patient, run))))

    def find(self, run: str) -> Submitted:
        """The run of that id, or the newest of that name.

        Raises:
            PlatformRefusedError: There is none.
        """
        patience = Patience()
        if _is_id(run):
            found = patience.persist(lambda: self._client.get(patience, f"{_API}/runs/{quote(run, safe='')}"))
        else:
            found = _plain(patience.persist(lambda: self._find_run(patience, None, run)) or {})
        if not found:
            where = f" in namespace {self._namespace}" if self._namespace else ""
            raise PlatformRefusedError(f"{self._host}: there is no run of the name or id {printable(run, 60)}{where}")
        self._client.identified(found, "run_id")
        name = printable(str(found.get("display_name") or run), 128)
        return Submitted(found["run_id"], name, read_run(found).state, self._page(found["run_id"]), True)

    def log(self, run: str, pod: str, patience: Patience) -> str | None:
        """The end of a pod's log; None where the API or a gateway does not give it, or the pod is gone."""
        return self._client.tail(patience, f"{_LOGS_API}/runs/{quote(run, safe='')}/nodes/{quote(pod, safe='')}/log")

    def _answers_for(self, patience: Patience, run: str) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """What v2beta1 and, where it is there, v1beta1 answer for a run."""
        place = f"runs/{quote(run, safe='')}"
        found = self._client.identified(self._client.get(patience, f"{_API}/{place}"), "run_id")
        if not self._tells_workflows:
            return found, None
        try:
            workflow = self._client.get(patience, f"{_OLD_API}/{place}")
            self._told_workflow = True
            return found, workflow
        except Later:  # an outage, or a gateway that has nobody to ask: 503 for ever
            self._refusals += 1
            if self._told_workflow or self._refusals < _MOST_REFUSALS:
                raise
        except InputError:  # 404, 403 or a page
            self._tells_workflows = False
        except PlatformUnavailableError:  # 500, 501
            pass
        return found, None

    def _page(self, run: str) -> str:
        """Where a person sees a run."""
        return f"{self._ui}/#/runs/details/{run}"

    # Dry runs. Ids that the API gives are in braces.

    def upload_requests(self, pipeline: CompiledPipeline, name: str, version: str) -> list[dict[str, Any]]:
        """What `upload` would send if nothing were there yet; what it asks is left out."""
        digest_of_file(pipeline)
        pipelines = f"{self._host}{_API}/pipelines"
        return [
            {"method": "POST", "url": pipelines, "body": _plain(self._pipeline(pipeline, name))},
            {
                "method": "POST",
                "url": f"{pipelines}/upload_version",
                "query": {"name": version, "pipelineid": "{pipeline_id}"} | _description(pipeline),
                "body": {"uploadfile": _documents(pipeline)},
            },
        ]

    def submit_requests(self, request: RunRequest) -> list[dict[str, Any]]:
        """What `submit` would send, likewise."""
        pipeline = _with_caching_of(request)
        run = self._run(request, "{experiment_id}", "{pipeline_id}", "{pipeline_version_id}")
        return [
            *self.upload_requests(pipeline, pipeline.name, version_name(pipeline)),
            {"method": "POST", "url": f"{self._host}{_API}/experiments", "body": _plain(self._new_experiment())},
            {"method": "POST", "url": f"{self._host}{_API}/runs", "body": _plain(run)},
        ]

    # What is sent.

    def _pipeline(self, pipeline: CompiledPipeline, name: str) -> Any:
        return V2beta1Pipeline(
            name=name, display_name=name, description=pipeline.description or None, namespace=self._namespace
        )

    def _new_experiment(self) -> Any:
        return V2beta1Experiment(display_name=self._experiment, namespace=self._namespace)

    def _run(self, request: RunRequest, experiment_id: str, pipeline_id: str, version_id: str) -> Any:
        return V2beta1Run(
            display_name=request.name,
            experiment_id=experiment_id,
            pipeline_version_reference=V2beta1PipelineVersionReference(
                pipeline_id=pipeline_id, pipeline_version_id=version_id
            ),
            runtime_config=V2beta1RuntimeConfig(parameters=dict(request.values)),
            service_account=self._service_account,
        )

    # Find or make.

    def _upload(
        self, patience: Patience, pipeline: CompiledPipeline, name: str, version: str
    ) -> tuple[Uploaded, str, str]:
        """The version, and the ids of its pipeline and of itself."""
        if pipeline.target == "vertex":
            raise PlatformRefusedError(
                f"{pipeline.file}: compiled for {PLATFORM_TITLES['vertex']}; compile it with --target kubeflow"
            )
        ours = digest_of_file(pipeline)
        parent, _ = self._make(
            patience,
            lambda: self._find_pipeline(patience, name),
            lambda: self._client.create(
                patience,
                self._client.api.pipelines.pipeline_service_create_pipeline,
                self._pipeline(pipeline, name),
            ),
            f"pipeline {name}",
            "pipeline_id",
        )
        found, existed = self._make(
            patience,
            lambda: self._find_version(patience, parent.pipeline_id, version),
            lambda: self._send_file(patience, pipeline, parent.pipeline_id, version),
            f"version {version} of pipeline {name}",
            "pipeline_version_id",
        )
        theirs = digest_of_version(found.pipeline_spec) if existed else ours
        if theirs != ours:
            raise PlatformRefusedError(
                f"{self._host}: version {version} of pipeline {name} is there with other content: sha256 "
                f"{theirs[:_SHOWN]}…, and {pipeline.file} has {ours[:_SHOWN]}…; choose another name by --version-name"
            )
        place = f"{self._ui}/#/pipelines/details/{parent.pipeline_id}/version/{found.pipeline_version_id}"
        return Uploaded(name, version, place, existed), parent.pipeline_id, found.pipeline_version_id

    def _send_file(self, patience: Patience, pipeline: CompiledPipeline, pipeline_id: str, version: str) -> Any:
        # What was read and checked, whatever became of the file since; and Kubeflow looks at the name's ending.
        with tempfile.TemporaryDirectory(prefix="shutterline-") as directory:
            file = Path(directory) / "pipeline.yaml"
            file.write_text(as_sent(pipeline), encoding="utf-8")
            return self._client.create(
                patience,
                self._client.api.pipeline_uploads.upload_pipeline_version,
                str(file),
                name=version,
                pipelineid=pipeline_id,
                **_description(pipeline),
            )

    def _find_pipeline(self, patience: Patience, name: str) -> Any | None:
        # By the key "name", which is unique; "display_name" is not in every version of Kubeflow.
        found = self._client.listed(
            patience,
            self._client.api.pipelines.pipeline_service_list_pipelines,
            "pipelines",
            filter=_named("name", name),
            namespace=self._namespace,
        )
        return next(found, None)

    def _find_version(self, patience: Patience, pipeline_id: str, version: str) -> Any | None:
        found = self._client.listed(
            patience,
            self._client.api.pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline_id,
            filter=_named("name", version),
        )
        return next(found, None)

    def _find_or_make_experiment(self, patience: Patience) -> Any:
        def find() -> Any | None:
            found = self._client.listed(
                patience,
                self._client.api.experiments.experiment_service_list_experiments,
                "experiments",
                filter=_named("display_name", self._experiment),
                namespace=self._namespace,
            )
            return next(found, None)

        def make() -> Any:
            create = self._client.api.experiments.experiment_service_create_experiment
            return self._client.create(patience, create, self._new_experiment())

        experiment, _ = self._make(patience, find, make, f"experiment {self._experiment}", "experiment_id")
        if experiment.storage_state == "ARCHIVED":
            raise PlatformRefusedError(
                f"{self._host}: experiment {self._experiment} is archived and takes no runs; restore it, or choose "
                "another by --experiment"
            )
        return experiment

    def _find_run(self, patience: Patience, experiment_id: str | None, name: str) -> Any | None:
        """The newest run of that name, of an experiment or any: Kubeflow allows several."""
        found = self._client.listed(
            patience,
            self._client.api.runs.run_service_list_runs,
            "runs",
            experiment_id=experiment_id,
            namespace=self._namespace if experiment_id is None else None,
            filter=_named("display_name", name),
            sort_by="created_at desc",
        )
        return next(found, None)

    def _check_same(self, run: Any, request: RunRequest, version_id: str) -> None:
        """See that a run of the request's name is the one that is asked for; what it does not say is taken for that."""
        reference, config = run.pipeline_version_reference, run.runtime_config
        others = {} if config is None or config.parameters is None else config.parameters
        # Where no account is asked for, a run has the deployment's own, whichever that is.
        account = self._service_account and run.service_account
        if (
            (reference is not None and reference.pipeline_version_id not in (None, version_id))
            or any(others.get(name, value) != value for name, value in request.values.items())
            or (account and account != self._service_account)
        ):
            raise PlatformRefusedError(
                f"--name {request.name}: another run has that name, of another pipeline or with other values or "
                f"account; choose another name, or leave it out ({self._page(run.run_id)})"
            )

    def _make(
        self, patience: Patience, find: Callable[[], T | None], create: Callable[[], T], what: str, key: str
    ) -> tuple[T, bool]:
        """What is there, or else is made, which has an id by that key; and whether it was there before.

        Every attempt begins with a look, so that one whose answer was lost is not repeated.
        """
        uncertain = False

        def attempt() -> tuple[T, bool]:
            nonlocal uncertain
            if (found := find()) is not None:
                return found, not uncertain
            try:
                return create(), False
            except Later as error:
                uncertain = uncertain or error.done
                raise
            except AlreadyExists as taken:
                if (found := find()) is not None:
                    return found, not uncertain
                raise PlatformRefusedError(
                    f"{self._host}: the name of {what} is taken by something that you cannot see: {taken}; choose "
                    "another name"
                ) from taken

        made, existed = patience.persist(
            attempt, lost=f"Whether {what} was made is not known; to repeat this is harmless"
        )
        return self._client.identified(made, key), existed


def _progress_of(report: RunReport) -> Progress:
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


def _with_caching_of(request: RunRequest) -> CompiledPipeline:
    return request.pipeline if request.caching is None else with_caching(request.pipeline, request.caching)


def _description(pipeline: CompiledPipeline) -> dict[str, str]:
    return {"description": pipeline.description} if pipeline.description else {}


def _documents(pipeline: CompiledPipeline) -> list[dict[str, Any]]:
    return [json.loads(document) for document in as_sent(pipeline).split("\n---\n")]


def _plain(model: Any) -> Any:
    return _PLAIN(ApiClient(), model)


def _named(key: str, name: str) -> str:
    predicate = V2beta1Predicate(operation="EQUALS", key=key, string_value=name)
    # The server takes what it was sent for encoded once more.
    text = json.dumps(_plain(V2beta1Filter(predicates=[predicate])))
    return text.replace("+", r"\u002b").replace("%", r"\u0025")
