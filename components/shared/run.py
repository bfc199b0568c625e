"""Which run a step belongs to: its id, its attempt, and where the steps of a run keep their events.

The environment comes first, because it can be set wherever containers are started; then what the platform can be asked
for; a step that was started by itself is a run of its own.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from components.shared.errors import InputError
from components.shared.events.event import is_run_id
from components.shared.process_group import is_started_by_elastic, member
from components.shared.storage.location import AnyPath, Location, parse_location

RUN_VARIABLE = "SHUTTERLINE_RUN_ID"
EVENTS_VARIABLE = "SHUTTERLINE_EVENTS"
PIPELINE_NAME = "shutterline-image-classifier"
# A location for checkpoints, or events: beside the run's artifacts, wherever the platform keeps them.
CHECKPOINTS_AUTO = EVENTS_AUTO = "auto"
# Kubeflow Pipelines sets these in every step. The index starts at 0 again after a retry by hand, when the pod has its
# old name; the UID is new. A pod's host name is no name: Kubernetes cuts it at 63 characters, the same for every step.
RETRY_VARIABLE, POD_NAME_VARIABLE, POD_UID_VARIABLE = "KFP_RETRY_INDEX", "KFP_POD_NAME", "KFP_POD_UID"
_ELASTIC_RUN_VARIABLE = "TORCHELASTIC_RUN_ID"  # torchrun's: the same for every start of a group

_NO_DIRECTORY = (errno.ELOOP, errno.ENOTDIR)
_RETRY = re.compile("[0-9]{1,6}")  # an event's id has room for nine digits
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class StepRun:
    """One start of one step.

    Attributes:
        run: The run's id.
        pipeline: Name of the pipeline; None for a step that was started by itself.
        attempt: The platform's number of this attempt, from 0; status counts on from the attempts it learns of.
        events: Directory for the spool; None: there is none.
        shared: Whether the other steps of the run keep their events there too.
        host: Machine, or the pod's name.
        process: Id that no other process has.
        bucket: Location in a bucket that the directory is a copy of; None: there is none.
        platform_run: The platform's own id of the run; empty where it has none.
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
    named, shared = os.environ.get(RUN_VARIABLE), None
    if named and not is_run_id(named):
        raise InputError(f"{RUN_VARIABLE}: must be 1 to 128 letters, digits or the characters ._-, got {named!r}")
    if where := os.environ.get(EVENTS_VARIABLE):
        try:
            shared = beside_artifacts(artifact, "events") if where == EVENTS_AUTO else parse_location(where)
        except InputError as error:
            raise InputError(f"{EVENTS_VARIABLE}: {error}") from error
    platform_run = run_of_artifact(artifact) or as_run_id(platform_run)
    location = shared or durable
    if isinstance(location, Location):  # the copy is this process's: in a container another may have the same number
        digest = hashlib.sha256(str(location).encode()).hexdigest()[:16]
        events: Path | None = _temporary() / f"events-{digest}-{uuid4().hex}"
    else:
        events = location
        if events is None and output:
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


def _process_id() -> str:
    """An id that no other process has: the pod's, where the pod runs one process; else a random one."""
    pod = os.environ.get(POD_UID_VARIABLE, "")
    return pod if pod and not is_started_by_elastic() else uuid4().hex


def _elastic_run() -> str:
    """The id that torchrun's user gave the group, which it keeps when it is started again; empty if there is none."""
    named = os.environ.get(_ELASTIC_RUN_VARIABLE, "")
    return "" if named == "none" else as_run_id(named)


def _temporary() -> Path:
    """This user's own directory among the machine's temporary files, where others may have put something first."""
    try:
        directory = Path(tempfile.gettempdir()) / f"shutterline-{os.getuid()}"
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if (problem := _problem_of(directory)) is None:
            return directory
        made = Path(tempfile.mkdtemp(prefix="shutterline-"))
    except OSError as error:
        raise InputError(
            f"no temporary file can be made ({error.strerror or error}); TMPDIR names a directory for them, and "
            f"{EVENTS_VARIABLE} one for events"
        ) from error
    message = "%s %s, and is not used; events are kept in %s"
    logging.getLogger("shutterline.events").warning(message, directory, problem, made)
    return made


def _problem_of(directory: Path) -> str | None:
    """Why a directory is not this user's own; None, and for nobody else to read, where it is."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return "is a link or a file" if error.errno in _NO_DIRECTORY else str(error.strerror)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            return f"belongs to user {found.st_uid}"
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
        return None
    finally:
        os.close(descriptor)


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
    kfp's local runners: ``ROOT/…/RUN/TASK/ARTIFACT``.
    """
    parts = [part for part in uri.split("?")[0].split("/") if part]
    if len(parts) >= 5 and _UUID.fullmatch(parts[-2]) and _UUID.fullmatch(parts[-4]):
        return as_run_id(parts[-4])
    return as_run_id(parts[-3]) if len(parts) >= 4 else ""


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
    if not named:
        return None
    if named != CHECKPOINTS_AUTO:
        shared = parse_location(named)
        return shared.child(training) if isinstance(shared, Location) else shared / training
    try:
        return beside_artifacts(artifact, "checkpoints")
    except InputError as error:
        raise InputError(f"checkpoints: {error}") from error


def events_of_checkpoints(named: str, artifact: str) -> AnyPath | None:
    """Where events are kept that outlive the pod as checkpoints do; None where those end with the pod.

    The arguments are those of :func:`checkpoints_of_run`.
    """
    try:
        where = (
            beside_artifacts(artifact, "events")
            if named == CHECKPOINTS_AUTO
            else parse_location(named)
            if named
            else None
        )
    except InputError:  # which is reported where the checkpoints are opened
        return None
    if isinstance(where, Path) and not _is_writable(where.absolute()):  # likewise
        return None
    if named == CHECKPOINTS_AUTO or where is None:
        return where
    return where / "events" if isinstance(where, Path) else where.child("events")


def _is_writable(directory: Path) -> bool:
    """Whether a directory is there and may be written, or can be made."""
    try:
        there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    except OSError:  # of one above it that may not be entered
        return False
    return os.access(there, os.W_OK, effective_ids=True)


def beside_artifacts(artifact: str, name: str) -> AnyPath:
    """The location `name` beside a run's artifacts, the same for every step and attempt.

    Raises:
        InputError: The artifact's location does not contain the run's id.
    """
    address, run = artifact.split("?")[0], run_of_artifact(artifact)
    parts = address.split("/")
    depth = next((index for index in (-4, -3) if len(parts) >= -index and as_run_id(parts[index]) == run), None)
    if not run or depth is None:
        raise InputError(f"auto needs the location of a run's artifacts, and {address or 'nothing'} is none; name one")
    return parse_location("/".join([*parts[: depth + 1], name]))


def run_of_placeholders(job_id: str, job_name: str) -> str:
    """The same id from what a platform puts for the placeholders of a pipeline's job.

    Kubeflow's job id is the UUID that its artifacts are below; elsewhere the name is.
    """
    return as_run_id(job_id) if _UUID.fullmatch(job_id) else as_run_id(job_name)
