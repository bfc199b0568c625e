"""A request as the job that Vertex AI's own library makes of it; nothing here needs a network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from google.auth.credentials import AnonymousCredentials

# The library's loggers write to what is the standard output when they are made, which is here.
with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
    from google.cloud import aiplatform
    from google.cloud.aiplatform import initializer

from google.cloud.aiplatform_v1.types import PipelineJob

from components.shared.errors import InputError, PlatformRefusedError
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex.request import Project, labels_of


def endpoint_of(project: Project) -> str:
    """Who answers for a location.

    Raises:
        InputError: The library knows no such location.
    """
    try:
        options = initializer.global_config.get_client_options(location_override=project.location)
    except ValueError as error:
        known = ", ".join(sorted(aiplatform.constants.base.SUPPORTED_REGIONS))
        raise InputError(f"--location {project.location}: Vertex AI is not there; it is in {known}") from error
    return project.endpoint or str(options.api_endpoint)


def job_of(project: Project, request: RunRequest, values: Mapping[str, Any]) -> PipelineJob:
    """The job that is to be made.

    Args:
        project: Where.
        request: What, checked.
        values: The values of its inputs, each of its input's type.

    Raises:
        PlatformRefusedError: The library finds a fault.
    """
    loaded = _load(
        project,
        request,
        display_name=request.name,
        job_id=request.name,
        pipeline_root=str(project.staging.child("runs")),
        parameter_values=dict(values),
        enable_caching=request.caching,
        labels=labels_of(project, request),
    )
    # What the library would send; it has no public name before it is sent, and PipelineJob.submit, which sends it,
    # makes a bucket that is not there, hides what goes wrong in that, and knows neither retries nor a lost answer.
    job: PipelineJob = loaded._gca_resource
    job.service_account = project.service_account or ""
    job.network = project.network or ""
    return job


def console_url(job: PipelineJob) -> str:
    """Where a person sees a job, as the library tells it to whoever submits with it."""
    # Of the resource's name alone: any job's representation makes it.
    made = aiplatform.PipelineJob.__new__(aiplatform.PipelineJob)
    made._gca_resource = job
    return str(made._dashboard_uri())


def _load(project: Project, request: RunRequest, **options: Any) -> aiplatform.PipelineJob:
    with tempfile.TemporaryDirectory(prefix="shutterline-") as directory:
        # What was read and checked, whatever has become of the file since; and in ASCII, since the library reads in the
        # locale's encoding.
        template = Path(directory) / "pipeline.yaml"
        template.write_text(yaml.safe_dump(request.pipeline.spec, sort_keys=False), encoding="ascii")
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                return aiplatform.PipelineJob(
                    template_path=str(template),
                    credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call] # google-auth has few types
                    project=project.project,
                    location=project.location,
                    **options,
                )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PlatformRefusedError(
                f"{request.pipeline.file}: Vertex AI's library cannot read it: {' '.join(str(error).split())}"
            ) from error
