"""Which run a step belongs to: its id, its attempt, and where the steps of a run keep their events.

The environment has the first word, because whoever starts containers can always set it; then what the platform can be
asked for; a step that was started by itself is a run of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from components.shared.errors import InputError
from components.shared.events.event import is_run_id
from components.shared.member import member
from components.shared.storage.location import Place, place

RUN_VARIABLE = "SHUTTERLINE_RUN_ID"
EVENTS_VARIABLE = "SHUTTERLINE_EVENTS"
PIPELINE_NAME = "shutterline-image-classifier"
CHECKPOINTS_AUTO = "auto"  # a place for checkpoints: beside the run's artifacts, wherever the platform keeps them
_RETRY_VARIABLE = "KFP_RETRY_INDEX"  # Kubeflow's: which attempt of a retried step this is
_ELASTIC_RUN_VARIABLE = "TORCHELASTIC_RUN_ID"  # torchrun's: the same for every start of a group

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class StepRun:
    """One start of one step.

    Attributes:
        run: The run's id.
        pipeline: Name of the pipeline; None for a step that was started by itself.
        attempt: The platform's number of this attempt, from 0.
        events: Directory for the spool; None: there is none.
        shared: Whether the other steps of the run keep their events there too.
        host: Machine or pod.
    """

    run: str
    pipeline: str | None
    attempt: int
    events: Path | None
    shared: bool
    host: str


def step_run(output: Place | None = None, *, in_pipeline: bool = False, platform_run: str = "") -> StepRun:
    """Who we are.

    Args:
        output: What the step makes; without a directory named by the environment, events are kept beside it. Where it
            lies in a bucket they are kept among this machine's temporary files.
        in_pipeline: Whether the step runs as part of the pipeline.
        platform_run: The platform's id of the run, if it is known.

    Raises:
        InputError: The environment's run id cannot be one.
    """
    named = os.environ.get(RUN_VARIABLE)
    if named and not is_run_id(named):
        raise InputError(f"{RUN_VARIABLE}: must be 1 to 128 letters, digits or the characters ._-, got {named!r}")
    directory = os.environ.get(EVENTS_VARIABLE)
    return StepRun(
        run=named or as_run_id(platform_run) or _run_of_group() or new_run_id(),
        pipeline=PIPELINE_NAME if in_pipeline else None,
        attempt=_attempt(),
        events=Path(directory) if directory else _beside(output) if output else None,
        shared=bool(directory),
        host=socket.gethostname(),
    )


def _attempt() -> int:
    """The platform's attempt and, within it, how often torch elastic has started the group again, as one number."""
    retry, one = os.environ.get(_RETRY_VARIABLE, ""), member()
    attempt = int(retry) if retry.isascii() and retry.isdigit() else 0
    return attempt * (one.max_restarts + 1) + one.restarts


def _run_of_group() -> str:
    """The id that torchrun's user gave the group, which it keeps when it is started again; empty if there is none."""
    named = os.environ.get(_ELASTIC_RUN_VARIABLE, "")
    return "" if named == "none" else as_run_id(named)


def _beside(output: Place) -> Path:
    if isinstance(output, Path):
        return output.absolute().parent / "events"
    return Path(tempfile.gettempdir()) / f"shutterline-{os.getuid()}" / "events"


def new_run_id() -> str:
    """An id that no other run has."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def as_run_id(text: str) -> str:
    """A platform's name as a run id: characters that cannot be in one become hyphens; empty stays empty."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:128]


def run_of_artifact(uri: str) -> str:
    """The platform's run id, as the place of an artifact tells it; empty if it does not.

    Passing the id to every step as an input would spoil caching, because inputs are part of a step's cache key; where
    its artifacts lie is not. Kubeflow: ``ROOT/PIPELINE/RUN/TASK/UUID/ARTIFACT``, where RUN is a UUID. Vertex AI and
    kfp's local runners: ``ROOT/…/RUN/TASK/ARTIFACT``.
    """
    parts = [part for part in uri.split("?")[0].split("/") if part]
    if len(parts) >= 5 and _UUID.fullmatch(parts[-2]) and _UUID.fullmatch(parts[-4]):
        return as_run_id(parts[-4])
    return as_run_id(parts[-3]) if len(parts) >= 4 else ""


def checkpoints_of_run(named: str, artifact: str) -> Place | None:
    """Where a run's training keeps its checkpoints, the same for every attempt.

    Args:
        named: What the user said: a place, ``auto``: ``checkpoints`` beside the run's artifacts, or nothing.
        artifact: Where the platform keeps one of the step's artifacts, as for :func:`run_of_artifact`.

    Raises:
        InputError: It is no place, or the artifact's does not tell the run's.
    """
    if named != CHECKPOINTS_AUTO:
        return place(named) if named else None
    address, run = artifact.split("?")[0], run_of_artifact(artifact)
    parts = address.split("/")
    depth = next((index for index in (-4, -3) if len(parts) >= -index and as_run_id(parts[index]) == run), None)
    if not run or depth is None:
        raise InputError(f"checkpoints: {CHECKPOINTS_AUTO} needs a run's place, and {address} is none; name another")
    return place("/".join([*parts[: depth + 1], "checkpoints"]))


def run_of_placeholders(job_id: str, job_name: str) -> str:
    """The same id from what a platform puts for the placeholders of a pipeline's job.

    Kubeflow's job id is the UUID that its artifacts lie under; elsewhere the name is.
    """
    return as_run_id(job_id) if _UUID.fullmatch(job_id) else as_run_id(job_name)
