"""What uploading and submitting need of a platform, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from components.shared.kubeflow.report import RunState, TaskReport, TaskState
from pipelines.compiled import CompiledPipeline


@dataclass(frozen=True)
class Uploaded:
    """A version of a pipeline at a platform; `existed`: it was there already, with the same content."""

    pipeline: str
    version: str
    place: str
    existed: bool


@dataclass(frozen=True)
class RunRequest:
    """A run that is asked for.

    Attributes:
        name: By which a second request for the same run finds it.
        values: Values of the pipeline's inputs that do not stay at their defaults.
        use_cache: False: no step is served from the cache; True: as the file says, step by step.
    """

    pipeline: CompiledPipeline
    name: str
    values: Mapping[str, str]
    use_cache: bool = True


@dataclass(frozen=True)
class Submitted:
    """A run at a platform, by the id that this knows it by; `url`: where a person sees it."""

    id: str
    name: str
    state: RunState
    url: str
    existed: bool


@dataclass(frozen=True)
class Progress:
    """How a run is doing.

    Attributes:
        steps: Each task by its name, in the order they began.
        error: What the platform says went wrong, without secrets; empty if nothing did.
        retried: Whether it ended once and was run again.
    """

    state: RunState
    steps: Mapping[str, TaskReport]
    error: str = ""
    retried: bool = False

    @property
    def tasks(self) -> dict[str, TaskState]:
        """Each task's state."""
        return {name: step.state for name, step in self.steps.items()}


class Platform(Protocol):
    """A platform that pipelines are uploaded and submitted to.

    Every method may be repeated: what is there already is found and not made again. Each raises InputError (exit code
    2) for what the user must change, and PlatformUnavailableError (exit code 1) where nothing answers.
    """

    def plan(self, pipeline: CompiledPipeline, name: str, version: str) -> dict[str, Any]:
        """Where and as what a version and its runs would be sent, checked as far as that needs no network."""

    def upload(self, pipeline: CompiledPipeline, name: str, version: str) -> Uploaded:
        """Make the file a version of the pipeline of that name."""

    def submit(self, request: RunRequest) -> Submitted:
        """Start a run, unless one of that name is there: then that is returned."""

    def progress(self, run: str, timeout_s: float) -> Progress:
        """How the run of that id is doing; one attempt, which may raise RetryableError."""

    def find(self, run: str) -> Submitted:
        """The run of that id, or the newest of that name."""

    def log(self, run: str, pod: str, timeout_s: float) -> str | None:
        """The end of a pod's log; None where the platform does not give it."""
