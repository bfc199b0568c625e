"""Which run a step belongs to: the environment says it, or the platform; a step by itself is a run of its own."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import tempfile
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from uuid import uuid4

from components.shared.errors import InputError
from components.shared.events.event import is_run_id
from components.shared.process_group import is_started_by_elastic, member
from components.shared.storage.location import AnyPath, Location, parse_location

RUN_VARIABLE = "SHUTTERLINE_RUN_ID"
EVENTS_VARIABLE = "SHUTTERLINE_EVENTS"
PIPELINE_NAME = "shutterline-image-classifier"
AUTO = "auto"  # for checkpoints, or events: beside the run's artifacts, wherever the platform keeps them
# Kubeflow Pipelines sets these in every step. The index starts at 0 again after a retry by hand, when the pod has its
# old name; the UID is new. A pod's host name is no name: Kubernetes cuts it at 63 characters, the same for every step.
RETRY_VARIABLE, POD_NAME_VARIABLE, POD_UID_VARIABLE = "KFP_RETRY_INDEX", "KFP_POD_NAME", "KFP_POD_UID"
_ELASTIC_RUN_VARIABLE = "TORCHELASTIC_RUN_ID"  # torchrun's: the same for every start of a group

_RETRY = re.compile("[0-9]{1,6}")  # an event's id has room for nine digits
_ITERATION = re.compile("for-loop-[0-9]+-iteration-[0-9]+")  # the folder that kfp's local runners give each
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


# Id of the run whose step this process is doing; empty outside a step.
current_run: ContextVar[str] = ContextVar("current_run", default="")


@dataclass(frozen=True)
class StepRun:
    """One start of one step.

    Attributes:
        pipeline: Name of the pipeline; None for a step that was started by itself.
        attempt: The platform's number of this attempt, from 0; status counts on from the attempts it learns of.
        events: Directory for the spool.
        shared: Whether the other steps of the run keep their events there too.
        host: Machine, or the pod's name.
        process: Id that no other process has.
        bucket: What in a bucket the directory is a copy of.
        platform_run: The platform's own id of the run; empty where it has none.
        part: Which part of a step that is shared by several, from 0, and how many there are; None: it is a whole step.
        joins: Whether it is a step that goes on from such parts.
    """

    run: str
    pipeline: str | None
    attempt: int
    events: Path | None
    shared: bool
    host: str
    process: str = field(default_factory=lambda: _process_id(), compare=False)
    bucket: Location | None = None
    platform_run: str = ""
    part: tuple[int, int] | None = None
    joins: bool = False

    @property
    def is_new(self) -> bool:
        """Whether nobody named the run, so that nothing of it can have happened before."""
        return not (self.platform_run or os.environ.get(RUN_VARIABLE) or _elastic_run())


def step_run(
    output: AnyPath | None = None,
    *,
    in_pipeline: bool = False,
    artifact: str = "",
    platform_run: str = "",
    durable: AnyPath | None = None,
) -> StepRun:
    """Which run this process is a step of.

    Args:
        output: What the step makes; without a location named by the environment, events are kept beside it. Where it
            is in a bucket they are kept among this machine's temporary files.
        in_pipeline: Whether the step runs as part of the pipeline.
        artifact: Where the platform keeps one of the step's artifacts, which gives the run's id and its location.
        platform_run: The platform's id of the run, where it is known otherwise.
        durable: Where the step's events are kept instead, as with its checkpoints: there the next attempt finds them.

    Raises:
        InputError: The environment's run id or location for events cannot be one.
    """
    named = os.environ.get(RUN_VARIABLE)
    if named and not is_run_id(named):
        raise InputError(f"{RUN_VARIABLE}: must be 1 to 128 letters, digits or the characters ._-, got {named!r}")
    shared = _located(EVENTS_VARIABLE, os.environ.get(EVENTS_VARIABLE, ""), artifact, "events")
    platform_run = run_of_artifact(artifact) or as_run_id(platform_run)
    location = shared or durable
    events = location if isinstance(location, Path) else None
    if isinstance(location, Location):  # the copy is this process's: in a container another may have the same number
        digest = hashlib.sha256(str(location).encode()).hexdigest()[:16]
        events = _temporary() / f"events-{digest}-{uuid4().hex}"
    elif events is None and output:
        events = (output.absolute().parent if isinstance(output, Path) else _temporary()) / "events"
    # Torch elastic's starts of a group count within the platform's attempt.
    retry, process = os.environ.get(RETRY_VARIABLE, ""), member()
    attempt = int(retry) if _RETRY.fullmatch(retry) else 0
    return StepRun(
        run=named or platform_run or _elastic_run() or new_run_id(),
        pipeline=PIPELINE_NAME if in_pipeline else None,
        attempt=attempt * (process.max_restarts + 1) + process.restarts,
        events=events,
        shared=shared is not None,
        host=os.environ.get(POD_NAME_VARIABLE) or socket.gethostname(),
        bucket=location if isinstance(location, Location) else None,
        platform_run=platform_run,
    )


def _located(option: str, named: str, artifact: str, name: str) -> AnyPath | None:
    """The location that an option names, ``auto``: beside the run's artifacts; InputError with the option's name."""
    try:
        return None if not named else beside_artifacts(artifact, name) if named == AUTO else parse_location(named)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error


def _process_id() -> str:
    pod = os.environ.get(POD_UID_VARIABLE, "")
    return pod if pod and not is_started_by_elastic() else uuid4().hex  # elastic starts several processes in a pod


def _elastic_run() -> str:
    named = os.environ.get(_ELASTIC_RUN_VARIABLE, "")
    return "" if named == "none" else as_run_id(named)


def _temporary() -> Path:
    """A directory of this process's own among the machine's temporary files."""
    try:
        return _made_in(tempfile.gettempdir())
    except OSError as error:
        raise InputError(
            f"no temporary file can be made ({error.strerror or error}); TMPDIR names a directory for them, and "
            f"{EVENTS_VARIABLE} one for events"
        ) from error


@cache
def _made_in(folder: str) -> Path:
    return Path(tempfile.mkdtemp(prefix="shutterline-events-", dir=folder))


def new_run_id() -> str:
    """An id that no other run has."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def as_run_id(text: str) -> str:
    """A platform's name as a run id: characters that cannot be in one become hyphens; empty stays empty."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:128]


def run_of_artifact(uri: str) -> str:
    """The platform's run id, from the location of an artifact; empty if it is not there.

    Passing the id to every step as an input would spoil caching, because inputs are part of a step's cache key; where
    its artifacts are is not. Kubeflow: ``ROOT/PIPELINE/RUN/TASK/UUID/ARTIFACT``, where RUN is a UUID. Vertex AI and
    kfp's local runners: ``ROOT/…/RUN/TASK/ARTIFACT``; the latter have a further folder above TASK in a loop.
    """
    parts = [part for part in uri.split("?")[0].split("/") if part and not _ITERATION.fullmatch(part)]
    if len(parts) >= 5 and _UUID.fullmatch(parts[-2]) and _UUID.fullmatch(parts[-4]):
        return as_run_id(parts[-4])
    return as_run_id(parts[-3]) if len(parts) >= 4 else ""


def run_id_of(artifact: str) -> str:
    """The id of the run that an artifact is of, as the environment and the platform have it; empty: neither has one.

    What is wrong with the environment's is reported where the step begins.
    """
    with suppress(InputError):
        return step_run(artifact=artifact).run
    return run_of_artifact(artifact)


def checkpoints_beside(model: AnyPath) -> AnyPath:
    """Where a model's checkpoints are kept that have no location of their own."""
    name = f"{model.name}-checkpoints"
    return model.with_name(name) if isinstance(model, Path) else replace(model, key=f"{model.key}-checkpoints")


def checkpoints_of_run(named: str, artifact: str, training: str) -> AnyPath | None:
    """Where a run's training keeps its checkpoints, the same for every attempt.

    Args:
        named: What the user named: a location, ``auto``: ``checkpoints`` beside the run's artifacts, or nothing. All
            runs may share a location: each pair of params and dataset has a directory of its own there.
        artifact: As for :func:`run_of_artifact`.
        training: Name of the directory for this pair of params and dataset.

    Raises:
        InputError: It is no location, or the artifact's does not contain the run's id.
    """
    found = _located("checkpoints", named, artifact, "checkpoints")
    return found if found is None or named == AUTO else _child(found, training)


def events_of_checkpoints(named: str, artifact: str) -> AnyPath | None:
    """Where events are kept that outlive the pod as checkpoints do; None where those end with the pod.

    The arguments are those of :func:`checkpoints_of_run`.
    """
    try:
        found = _located("checkpoints", named, artifact, "events")
        if isinstance(found, Path):
            path = found.absolute()
            there = next(parent for parent in (path, *path.parents) if parent.exists())
            if not os.access(there, os.W_OK, effective_ids=True):
                return None
    except (InputError, OSError):  # which is reported where the checkpoints are opened
        return None
    return found if found is None or named == AUTO else _child(found, "events")


def _child(path: AnyPath, name: str) -> AnyPath:
    return path / name if isinstance(path, Path) else path.child(name)


def beside_artifacts(artifact: str, name: str) -> AnyPath:
    """The location `name` beside a run's artifacts, the same for every step and attempt; or InputError."""
    address, run = artifact.split("?")[0], run_of_artifact(artifact)
    parts = [part for part in address.split("/") if not _ITERATION.fullmatch(part)]
    depth = next((index for index in (-4, -3) if len(parts) >= -index and as_run_id(parts[index]) == run), None)
    if not run or depth is None:
        raise InputError(f"auto needs the location of a run's artifacts, and {address or 'nothing'} is none; name one")
    return parse_location("/".join([*parts[: depth + 1], name]))


def run_of_placeholders(job_id: str, job_name: str) -> str:
    """The same id from what a platform puts for the placeholders of a pipeline's job.

    Kubeflow's job id is the UUID that its artifacts are below; elsewhere the name is.
    """
    return as_run_id(job_id) if _UUID.fullmatch(job_id) else as_run_id(job_name)
