"""A run's experiment: the context of Vertex AI's metadata store that its own context belongs to.

`PipelineJob.submit(experiment=…)` would do it; see `job.py` for why that is not used.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from google.cloud.aiplatform_v1.types import Context, MetadataStore, PipelineJob

from components.shared.errors import PlatformRefusedError
from components.shared.kubeflow.run import ENDED
from pipelines.submit.patience import Later, Patience
from pipelines.submit.vertex.api_errors import AlreadyExists, NotFound
from pipelines.submit.vertex.job import console_url
from pipelines.submit.vertex.progress import state_of
from pipelines.submit.vertex.request import Project
from pipelines.submit.vertex.service import Service

# What the console takes for an experiment, as the library makes one.
_STORE = "default"
_SCHEMA, _SCHEMA_VERSION = "system.Experiment", "0.0.1"
_METADATA = {"experiment_deleted": False}


def ensure(service: Service, project: Project, experiment: str, patience: Patience) -> None:
    """See that there is such an experiment.

    Raises:
        PlatformRefusedError: Something else has that name, or we may not make one.
        PlatformUnavailableError: Vertex AI does not answer.
    """

    def attempt() -> Context:
        try:
            found: Context = service.metadata("get_context", patience, NotFound, name=_name(project, experiment))
        except NotFound:
            return _create(service, project, experiment, patience)
        return found

    found = patience.persist(attempt)
    if found.schema_title != _SCHEMA:
        raise PlatformRefusedError(
            f"--experiment {experiment}: is a {found.schema_title or 'context'} of that project and no experiment; "
            "choose another name"
        )


def associate(service: Service, project: Project, experiment: str, job: PipelineJob, patience: Patience) -> None:
    """Make a job's run part of an experiment; nothing happens if it is.

    Raises:
        PlatformRefusedError: We may not, or the experiment is no longer there.
        PlatformUnavailableError: Vertex AI does not answer, or has not made the run's context in time.
    """
    started = f"The run was started, and is not in the experiment {experiment}"

    def put() -> None:
        # Vertex AI makes the run's context some time after the job.
        now = job if job.job_detail.pipeline_run_context.name else service.get(job.name, patience)
        run = now.job_detail.pipeline_run_context.name
        if run:
            _add(service, _name(project, experiment), run, patience)
        elif state_of(now) not in ENDED:
            raise Later(f"{job.name} has no context yet", done=True)

    def attempt() -> None:
        try:
            put()
        except Later as error:
            error.done = True  # of the run: it was started whatever becomes of this
            raise
        except NotFound as error:  # of the job
            raise error.refusal from error

    try:
        patience.persist(attempt, lost=f"{started}: repeat the same command for that ({console_url(job)})")
    except PlatformRefusedError as error:
        raise PlatformRefusedError(f"{started}: {error} ({console_url(job)})") from error


def _add(service: Service, experiment: str, run: str, patience: Patience) -> None:
    """Make a run's context a child of an experiment; one that is there already is skipped."""
    try:
        service.metadata("add_context_children", patience, NotFound, context=experiment, child_contexts=[run])
    except NotFound as error:
        raise PlatformRefusedError("it was deleted meanwhile; repeat the same command, which makes it anew") from error


def requests(project: Project, endpoint: str, experiment: str) -> list[dict[str, Any]]:
    """What :func:`ensure` and :func:`associate` send if nothing is there; the run's context is in braces."""
    made = Context.to_dict(
        _context(experiment), preserving_proto_field_name=False, always_print_fields_with_no_presence=False
    )
    contexts = f"https://{endpoint}/v1/{_store(project)}/contexts"
    return [
        {
            "method": "POST",
            "url": f"{contexts}?contextId={experiment}",
            "body": made,
        },
        {
            "method": "POST",
            "url": f"{contexts}/{experiment}:addContextChildren",
            "body": {"childContexts": ["{pipeline_run_context}"]},
        },
    ]


def _context(experiment: str) -> Context:
    return Context(display_name=experiment, schema_title=_SCHEMA, schema_version=_SCHEMA_VERSION, metadata=_METADATA)


def _create(service: Service, project: Project, experiment: str, patience: Patience) -> Context:
    try:
        made: Context = service.metadata(
            "create_context",
            patience,
            AlreadyExists,
            NotFound,
            parent=_store(project),
            context=_context(experiment),
            context_id=experiment,
        )
    except AlreadyExists:
        raise Later(f"the experiment {experiment} is being made") from None
    except NotFound as error:
        # A project that never had a run has no store yet; making one takes some seconds.
        with suppress(AlreadyExists):
            service.metadata(
                "create_metadata_store",
                patience,
                AlreadyExists,
                parent=project.parent,
                metadata_store=MetadataStore(),
                metadata_store_id=_STORE,
            )
        raise Later(f"the metadata store of {project.project} is being made") from error
    return made


def _store(project: Project) -> str:
    return f"{project.parent}/metadataStores/{_STORE}"


def _name(project: Project, experiment: str) -> str:
    return f"{_store(project)}/contexts/{experiment}"
