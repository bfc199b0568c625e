"""Vertex AI as a platform that pipelines are uploaded and submitted to."""

from __future__ import annotations

import json
from typing import Any

from components.shared.command import tell
from components.shared.errors import InputError, PlatformRefusedError, StorageRefusedError
from pipelines.compiled import CompiledPipeline
from pipelines.submit.names import version_name
from pipelines.submit.patience import Later, Patience
from pipelines.submit.platform import Progress, RunRequest, Submitted, Uploaded
from pipelines.submit.vertex.request import (
    REQUEST_LABEL,
    Project,
    check_file,
    check_part,
    check_request,
    staging_place,
)

try:
    from google.cloud.aiplatform_v1.types import PipelineJob

    from pipelines.submit.vertex import experiment as experiments
    from pipelines.submit.vertex import staging as bucket
    from pipelines.submit.vertex.api_errors import AlreadyExists, NotFound
    from pipelines.submit.vertex.job import console_url, endpoint_of, job_of
    from pipelines.submit.vertex.progress import is_ending, progress_of, state_of
    from pipelines.submit.vertex.service import Service
except ImportError as error:
    raise InputError(
        f"Vertex AI needs google-cloud-aiplatform; pip install 'shutterline[vertex]' ({error.name} is missing)"
    ) from error


class VertexPlatform:
    """One project and location of Vertex AI.

    Args:
        project: The project's id.
        location: The region, such as europe-west4.
        staging_bucket: ``gs://bucket`` or ``gs://bucket/prefix``: for compiled pipelines and what runs write.
        service_account: The account that runs have; None: the project's default one.
        network: The network that their machines are in: ``projects/NUMBER/global/networks/NAME``; None: none.
        endpoint: Host, and perhaps port, that answer in the place of the location's own.
        experiment: The experiment that runs belong to, made if it is not there; None: none.

    Raises:
        InputError: One of them cannot be right.
    """

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
        self._project = Project(
            project, location, staging_place(staging_bucket), service_account, network, endpoint, experiment
        )
        self._endpoint = endpoint_of(self._project)
        self._service: Service | None = None
        self._uploaded = ""  # a digest

    def upload(self, pipeline: CompiledPipeline, name: str, version: str) -> Uploaded:
        """Put the file at ``<staging>/pipelines/<name>/<version>/pipeline.yaml``, from where runs can be started.

        Raises:
            InputError: The file, a name, the bucket or the credentials cannot be used; something else is there.
            PlatformUnavailableError: The store does not answer.
        """
        self._check_upload(pipeline, name, version)
        return bucket.upload(self._project.staging, pipeline, name, version)

    def upload_requests(self, pipeline: CompiledPipeline, name: str, version: str) -> list[dict[str, Any]]:
        """What `upload` sends if nothing is there.

        Raises:
            InputError: The file or a name cannot be used.
        """
        self._check_upload(pipeline, name, version)
        return bucket.upload_requests(self._project.staging, pipeline, name, version)

    def submit(self, request: RunRequest) -> Submitted:
        """Upload the pipeline's version, and make a job of the request's name, unless the same one is there.

        Raises:
            InputError: The request or the credentials cannot be used, Vertex AI refuses it, or something else is in
                the version's place, or another job of that name is there.
            PlatformUnavailableError: Vertex AI or the store does not answer.
        """
        job = job_of(self._project, request, check_request(self._project, request))
        patience = Patience()
        service = self._connected()
        bucket.check_bucket(self._project.staging, self._project.project, service.credentials, patience)
        if self._project.experiment:
            experiments.ensure(service, self._project, self._project.experiment, patience)
        self._upload_version(request.pipeline)
        made, existed = self._made(service, job, request, patience)
        if self._project.experiment:
            experiments.associate(service, self._project, self._project.experiment, made, patience)
        return Submitted(
            id=made.name,
            name=request.name,
            # As on Kubeflow: one that is being cancelled is not the run that is asked for.
            state="cancelled" if is_ending(made) else state_of(made),
            url=console_url(made),
            existed=existed,
        )

    def submit_requests(self, request: RunRequest) -> list[dict[str, Any]]:
        """What `submit` sends if nothing is there; it looks for the bucket and the rest before.

        Raises:
            InputError: The request cannot be used.
        """
        job = job_of(self._project, request, check_request(self._project, request))
        # The API takes enumerations by number, and the client sends them so.
        body = PipelineJob.to_dict(job, preserving_proto_field_name=False, always_print_fields_with_no_presence=False)
        filing = []
        if self._project.experiment:
            filing = experiments.requests(self._project, self._endpoint, self._project.experiment)
        return [
            *filing[:1],
            *bucket.upload_requests(self._project.staging, *_version_of(request.pipeline), as_checked=True),
            {
                "method": "POST",
                "url": f"https://{self._endpoint}/v1/{self._project.parent}/pipelineJobs?pipelineJobId={request.name}",
                # A message keeps no order of its own.
                "body": json.loads(json.dumps(body, sort_keys=True)),
            },
            *filing[1:],
        ]

    def progress(self, run: str, patience: Patience | None = None) -> Progress:
        """How a job is doing.

        Raises:
            InputError: There is no such job, or the credentials cannot be used.
            PlatformUnavailableError: Vertex AI does not answer.
        """
        patience = patience or Patience()
        service = self._connected()
        try:
            return progress_of(patience.persist(lambda: service.get(run, patience)))
        except NotFound as error:
            raise PlatformRefusedError(f"Vertex AI has no run {run}, or no longer") from error

    def find(self, run: str) -> Submitted:
        """The job of that id or resource name.

        Raises:
            InputError: There is no such job, or the credentials cannot be used.
            PlatformUnavailableError: Vertex AI does not answer.
        """
        patience = Patience()
        service = self._connected()
        name = run if "/" in run else f"{self._project.parent}/pipelineJobs/{run}"
        try:
            job = patience.persist(lambda: service.get(name, patience))
        except NotFound as error:
            raise PlatformRefusedError(f"Vertex AI has no run {name}, or no longer") from error
        return Submitted(job.name, job.name.rpartition("/")[2], state_of(job), console_url(job), existed=True)

    def log(self, run: str, pod: str, patience: Patience) -> str | None:
        """None: Vertex AI keeps logs in Cloud Logging, to which its error messages lead."""
        return None

    def _check_upload(self, pipeline: CompiledPipeline, name: str, version: str) -> None:
        check_file(pipeline)
        check_part("--name", name)
        check_part("--version-name", version)

    def _upload_version(self, pipeline: CompiledPipeline) -> None:
        """Put the file of a run where whoever starts the next one finds it, if we may; once, however many are tried.

        The run itself is sent whole and needs no file, and its account may write where whoever submits it may not.
        """
        if pipeline.digest == self._uploaded:
            return
        try:
            bucket.upload(self._project.staging, *_version_of(pipeline), as_checked=True)
        except StorageRefusedError as error:
            tell(f"warning: not uploaded, and started all the same: {error}")
        self._uploaded = pipeline.digest

    def _connected(self) -> Service:
        self._service = self._service or Service(self._project, self._endpoint)
        return self._service

    def _made(
        self, service: Service, job: PipelineJob, request: RunRequest, patience: Patience
    ) -> tuple[PipelineJob, bool]:
        """The job, and whether it was there before this call.

        Every attempt begins with a look: so one that was there is not taken for one whose answer was lost.
        """
        name = f"{self._project.parent}/pipelineJobs/{request.name}"
        perhaps_made = False

        def attempt() -> tuple[PipelineJob, bool]:
            nonlocal perhaps_made
            if (found := self._found(service, name, patience)) is not None:
                return found, not perhaps_made
            try:
                return service.create(job, request.name, patience), False
            except AlreadyExists:
                found = self._found(service, name, patience)
                if found is None:
                    raise Later(f"{name} is there, and then it is not") from None
                return found, not perhaps_made
            except Later as error:
                perhaps_made = perhaps_made or error.done
                raise

        made, existed = patience.persist(
            attempt, lost="The run may have been started: repeat the same command, which finds it then"
        )
        if made.labels.get(REQUEST_LABEL) != job.labels[REQUEST_LABEL]:
            raise PlatformRefusedError(
                f"--name {request.name}: another run has that name, of another pipeline, or with other values, "
                f"account, network or staging bucket; choose another name, or leave it out ({console_url(made)})"
            )
        return made, existed

    def _found(self, service: Service, name: str, patience: Patience) -> PipelineJob | None:
        try:
            return service.get(name, patience)
        except NotFound:
            return None
        except Later as error:
            error.done = False  # to look starts no run
            raise


def _version_of(pipeline: CompiledPipeline) -> tuple[CompiledPipeline, str, str]:
    """What a run's pipeline is uploaded as: itself, its name and its version's."""
    return pipeline, pipeline.name, version_name(pipeline)
