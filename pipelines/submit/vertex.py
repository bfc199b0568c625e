"""Vertex AI as a platform that pipelines are uploaded and submitted to."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from google.cloud.aiplatform_v1.types import Context, PipelineJob, PipelineState

from components.shared.command import print_message
from components.shared.errors import InputError, PlatformRefusedError, PlatformUnavailableError, RetryableError
from components.shared.events.redaction import redact
from components.shared.kubeflow.report import ENDED, PodAttempt, PodState, RunState, TaskReport, TaskState
from components.shared.storage.location import Location, key_problem, parse_location
from components.shared.strict_yaml import DocumentError
from components.shared.text import shortened
from pipelines.compiled import LARGEST, CompiledPipeline, parse_compiled
from pipelines.submit.connection import retried
from pipelines.submit.inputs import as_sent, version_name, without_cache
from pipelines.submit.options import spelling
from pipelines.submit.platform import Progress, RunRequest, Submitted, Uploaded
from pipelines.submit.vertex_api import AnswerError, VertexApi
from pipelines.vertex_limits import PIPELINE_NAME

# By it a job that is there is known as the one that is asked for again.
REQUEST_LABEL = "shutterline-request"
_LONGEST = 1000  # characters of an error
# Option, its rule and an example. Of project ids Google's, with the domain that the ids of some old ones begin with.
_OPTIONS = {
    "project": (r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]+", "a project's id, such as my-project"),
    "location": (r"[a-z]+(-[a-z]+[0-9]+)?", "a region, such as europe-west4"),
    "service_account": (r"[^@\s/]+@[^@\s/]+\.[^@\s/]+", "name@project.iam.gserviceaccount.com"),
    "network": (
        r"projects/[0-9]+/global/networks/[a-z]([-a-z0-9]*[a-z0-9])?",
        "projects/NUMBER/global/networks/NAME, with the project's number",
    ),
    "experiment": (r"[a-z0-9][a-z0-9-]{0,127}", "small letters, digits and '-', up to 128"),
    "endpoint": (r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", "a host, or host:port, asked by https"),
}
# What the console takes for an experiment, as google-cloud-aiplatform makes one.
_EXPERIMENT = {
    "schema_title": "system.Experiment",
    "schema_version": "0.0.1",
    "metadata": {"experiment_deleted": False},
}
# Where the API's names of states are not ours. A run that is cancelling may still succeed or fail.
_RUN_STATES: dict[str, RunState] = {"queued": "pending", "cancelling": "running"}
_TASK_STATES: dict[str, TaskState] = {
    "pending": "waiting",
    "cancel_pending": "running",
    "cancelling": "running",
    "skipped": "cached",  # "Specifies task was skipped due to cache hit", says the API's reference
    "not_triggered": "skipped",
}
# What a condition in the pipeline is called, also where none of its tasks ran.
_CONDITION = re.compile(r"condition-\d+")
_ATTEMPTS: dict[TaskState, PodState] = {
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "failed",
}


class VertexPlatform:
    """Implements `pipelines.submit.platform.Platform` for one project and location; each argument is its option."""

    def __init__(
        self,
        *,
        project: str,
        location: str,
        staging_bucket: str,
        service_account: str | None = None,
        network: str | None = None,
        endpoint: str | None = None,
        experiment: str | None = None,
    ) -> None:
        self._staging = _staging_location(staging_bucket)
        self._asked = {
            "project": project,
            "location": location,
            "service_account": service_account,
            "network": network,
            "endpoint": endpoint,
            "experiment": experiment,
        }
        for name, value in self._asked.items():
            rule, example = _OPTIONS[name]
            if value is not None and re.fullmatch(rule, value) is None:
                # What stands before the '@' of an address may be a password.
                shown = value if name == "service_account" else re.sub(r".*@", "…@", value)
                raise InputError(f"{spelling(name)} {_shown(shown)}: must be {example}")
        self._service_account, self._network, self._experiment = service_account, network, experiment
        self._parent = f"projects/{project}/locations/{location}"
        self._store = f"{self._parent}/metadataStores/default"
        self._api = VertexApi(project, location, endpoint or f"{location}-aiplatform.googleapis.com")
        self._uploaded = ""  # a digest

    def plan(self, pipeline: CompiledPipeline, name: str, version: str) -> dict[str, Any]:
        """Where and as what a version and its runs would be sent; see Platform."""
        if pipeline.documents != 1:
            raise PlatformRefusedError(
                f"{pipeline.file}: has {pipeline.documents} documents, and Vertex AI reads files with one; compile it "
                "with `shutterline compile --target vertex`"
            )
        if PIPELINE_NAME.fullmatch(pipeline.name) is None:
            raise PlatformRefusedError(
                f"{pipeline.file}: the pipeline's name {_shown(pipeline.name)} is none for Vertex AI: up to 128 small "
                "letters, digits and '-', a letter or digit first"
            )
        for option, part in (("--name", name), ("--version-name", version)):
            if problem := "it has a '/'" if "/" in part else key_problem(part):
                raise PlatformRefusedError(f"{option} {_shown(part)}: cannot be part of a bucket's key: {problem}")
        return {"place": str(self._version(name, version)), "staging_bucket": str(self._staging)} | self._asked

    def upload(self, pipeline: CompiledPipeline, name: str, version: str) -> Uploaded:
        """Put the file at ``<staging>/pipelines/<name>/<version>/pipeline.yaml``, from where runs can be started."""
        location, store = self._version(name, version), self._api.storage
        blob, host = store.bucket(location.bucket).blob(location.key), store.api_endpoint
        content = {"data": as_sent(pipeline).encode(), "content_type": "application/yaml", "checksum": "crc32c"}
        try:
            self._api.ask(blob.upload_from_string, host, if_generation_match=0, **content)
        except AnswerError as error:
            if error.code != 412:
                raise self._of_bucket(error) from error
        else:
            return Uploaded(name, version, str(location), existed=False)
        found, digest = self._api.ask(blob.download_as_bytes, host, end=LARGEST), None
        with suppress(DocumentError, UnicodeDecodeError):
            digest = parse_compiled(found.decode("utf-8"), Path(location.name)).digest
        if digest != pipeline.digest:
            is_there = f"with the digest {digest[:12]}" if digest else "that is no compiled pipeline"
            raise PlatformRefusedError(
                f"{location}: something else is there, {is_there}, and {pipeline.file} has the digest "
                f"{pipeline.digest[:12]}; remove it, or name another version by --version-name"
            )
        return Uploaded(name, version, str(location), existed=True)

    def submit(self, request: RunRequest) -> Submitted:
        """Upload the pipeline's version, and make a job of the request's name, unless the same one is there."""
        job = self._job(request)
        if self._experiment:
            self._check_experiment(self._experiment)
        self._upload_for_run(request.pipeline)
        name = f"{self._parent}/pipelineJobs/{request.name}"
        found = self._found(name)
        existed = found is not None
        if found is None:
            create = self._api.pipelines.create_pipeline_job
            try:
                found = self._api.ask(create, parent=self._parent, pipeline_job=job, pipeline_job_id=request.name)
            except AnswerError as error:  # by this request, whose answer was lost, or by somebody else's
                if error.code != 409 or (found := self._found(name)) is None:
                    raise
        if found.labels.get(REQUEST_LABEL) != job.labels[REQUEST_LABEL]:
            raise PlatformRefusedError(
                f"--name {request.name}: another run has that name, of another pipeline, or with other values, "
                f"account, network or staging bucket; choose another name, or leave it out ({_console(found)})"
            )
        if self._experiment:
            self._associate(found, self._experiment)
        # As on Kubeflow, one that is cancelling is not the run that is asked for.
        is_cancelling = found.state == PipelineState.PIPELINE_STATE_CANCELLING
        return _submitted(found, "cancelled" if is_cancelling else _run_state(found), existed)

    def progress(self, run: str, timeout_s: float) -> Progress:
        """How a job is doing."""
        try:
            return _progress(self._api.ask_once(self._api.pipelines.get_pipeline_job, timeout_s, name=run))
        except AnswerError as error:
            raise _no_run(run) if error.code == 404 else error from error

    def find(self, run: str) -> Submitted:
        """The job of that id or resource name."""
        name = run if "/" in run else f"{self._parent}/pipelineJobs/{run}"
        if (job := self._found(name)) is None:
            raise _no_run(name)
        return _submitted(job, _run_state(job), existed=True)

    def log(self, run: str, pod: str, timeout_s: float) -> str | None:
        """None: Vertex AI keeps logs in Cloud Logging, to which its error messages lead."""
        return None

    def _version(self, name: str, version: str) -> Location:
        return self._staging.child(f"pipelines/{name}/{version}/pipeline.yaml")

    def _of_bucket(self, error: AnswerError) -> AnswerError:
        why = f"forbidden: grant these credentials the role roles/storage.objectUser ({error})"
        if error.code == 404:
            why = f"there is no bucket {self._staging.bucket}; create it, or check its name"
        return AnswerError(f"--staging-bucket {self._staging}: {why}", error.code)

    def _upload_for_run(self, pipeline: CompiledPipeline) -> None:
        # The run itself is sent whole and needs no file; its account may write where the one that submits it may not.
        if pipeline.digest != self._uploaded:
            try:
                self.upload(pipeline, pipeline.name, version_name(pipeline))
            except AnswerError as error:
                if error.code not in (401, 403):
                    raise
                print_message(f"warning: not uploaded, and started all the same: {error}")
            self._uploaded = pipeline.digest

    def _job(self, request: RunRequest) -> Any:
        pipeline = request.pipeline if request.use_cache else without_cache(request.pipeline)
        # What makes two requests the same.
        asked = [request.pipeline.digest, sorted(request.values.items()), request.use_cache]
        content = json.dumps([*asked, self._service_account, self._network, str(self._staging)])
        try:
            return PipelineJob(
                display_name=request.name,
                pipeline_spec=pipeline.spec,
                runtime_config={
                    "gcs_output_directory": str(self._staging.child("runs")),
                    "parameter_values": dict(request.values),
                },
                labels={REQUEST_LABEL: hashlib.sha256(content.encode()).hexdigest()[:40]},
                service_account=self._service_account,
                network=self._network,
            )
        except (ValueError, TypeError) as error:
            raise PlatformRefusedError(f"{pipeline.file}: cannot be sent as JSON: {error}") from error

    def _found(self, name: str) -> Any | None:
        try:
            return self._api.ask(self._api.pipelines.get_pipeline_job, name=name)
        except AnswerError as error:
            if error.code != 404:
                raise
            return None

    # Experiments: contexts of the project's metadata store, of which a run's own context becomes a child.

    def _check_experiment(self, experiment: str) -> bool:
        """Whether there is such an experiment; something else of that name is refused."""
        try:
            found = self._api.ask(self._api.metadata.get_context, name=f"{self._store}/contexts/{experiment}")
        except AnswerError as error:
            if error.code != 404:
                raise
            return False
        if found.schema_title != _EXPERIMENT["schema_title"]:
            raise PlatformRefusedError(
                f"--experiment {experiment}: is a {found.schema_title or 'context'} of that project and no experiment; "
                "choose another name"
            )
        return True

    def _associate(self, job: Any, experiment: str) -> None:
        """Put a run that was started, or is there, into an experiment; a repetition changes nothing."""
        try:
            context = retried(lambda timeout_s: self._context_of(job, timeout_s))
            if not context:  # a run that ended without one
                return
            metadata = self._api.metadata
            # The project has a metadata store by now: the run's own context is in it.
            if not self._check_experiment(experiment):
                made = Context(display_name=experiment, **_EXPERIMENT)
                try:
                    self._api.ask(metadata.create_context, parent=self._store, context_id=experiment, context=made)
                except AnswerError as error:
                    if error.code != 409:  # somebody else was faster, or it was this request, whose answer was lost
                        raise
            parent = f"{self._store}/contexts/{experiment}"
            self._api.ask(metadata.add_context_children, context=parent, child_contexts=[context])
        except (PlatformRefusedError, PlatformUnavailableError) as error:
            kind = PlatformRefusedError if isinstance(error, InputError) else PlatformUnavailableError
            raise kind(
                f"the run was started, and is not in the experiment {experiment}: {error}; repeat the same command for "
                f"that ({_console(job)})"
            ) from error

    def _context_of(self, job: Any, timeout_s: float) -> str:
        """The run's context, which Vertex AI makes some time after the job."""
        if not job.job_detail.pipeline_run_context.name:
            job = self._api.ask_once(self._api.pipelines.get_pipeline_job, timeout_s, name=job.name)
        context = str(job.job_detail.pipeline_run_context.name)
        if not context and _run_state(job) not in ENDED:
            raise RetryableError(f"{job.name} has no context yet")
        return context


def _staging_location(text: str) -> Location:
    try:
        found = parse_location(text)
    except InputError as error:
        raise InputError(f"--staging-bucket {error}") from error
    if not isinstance(found, Location) or found.scheme != "gs":
        raise InputError(f"--staging-bucket {_shown(text)}: must be gs://bucket or gs://bucket/prefix")
    return found


def _shown(value: str) -> str:
    return shortened(repr(value), 80)


def _console(job: Any) -> str:
    """Where a person sees a job, as google-cloud-aiplatform tells it."""
    _, project, _, location, _, run = job.name.split("/")
    return f"https://console.cloud.google.com/vertex-ai/locations/{location}/pipelines/runs/{run}?project={project}"


def _submitted(job: Any, state: RunState, existed: bool) -> Submitted:
    return Submitted(job.name, job.name.rpartition("/")[2], state, _console(job), existed)


def _no_run(name: str) -> PlatformRefusedError:
    return PlatformRefusedError(f"Vertex AI has no run {name}, or no longer")


def _run_state(job: Any) -> RunState:
    state: RunState = _state(job.state, _RUN_STATES, RunState)
    return state


def _state(value: Any, others: dict[str, Any], states: Any) -> Any:
    """A state's name; the API may have newer states, which are numbers here."""
    name = getattr(value, "name", "").removeprefix("PIPELINE_STATE_").lower()
    state = others.get(name, name)
    return state if state in get_args(states) else "unknown"


def _progress(job: Any) -> Progress:
    details = list(job.job_detail.task_details)
    # The run itself and groups of tasks, such as what an exit handler is for, are in the list as well.
    groups = {detail.parent_task_id for detail in details if detail.parent_task_id}
    job_id = job.name.rpartition("/")[2]
    tasks = [
        detail
        for detail in details
        if detail.task_id not in groups and detail.task_name != job_id and not _CONDITION.fullmatch(detail.task_name)
    ]
    steps: dict[str, TaskReport] = {}
    errors = []
    for detail in sorted(tasks, key=_began):
        name, number = detail.task_name, 2
        while name in steps:  # iterations of a loop
            name, number = f"{detail.task_name} {number}", number + 1
        state = _state(detail.state, _TASK_STATES, TaskState)
        message = detail.error.message if state == "failed" else ""
        made = _ATTEMPTS.get(state)
        # The API names no pods and tells of one attempt.
        attempts = (PodAttempt(0, "", made, "", detail.start_time, detail.end_time),) if made else ()
        steps[name] = TaskReport(name, state, attempts, message)
        errors += [f"{name}: {message}"] if message else []
    error = shortened(redact(" ".join("; ".join(errors or [job.error.message]).split())), _LONGEST)
    return Progress(_run_state(job), steps, error)


def _began(detail: Any) -> tuple[bool, float]:
    """What sorts tasks by when they began, those that have not at the end."""
    when = detail.start_time or detail.create_time
    return when is None, when.timestamp() if when is not None else 0.0
