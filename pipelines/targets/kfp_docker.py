"""kfp's DockerRunner, made to know how a container of ours ended.

kfp lets the engine remove a container by itself, and takes one that is gone before it was waited for as successful. A
failed step may so be followed by the next one (kubeflow/pipelines#13332). While runs of ours go on, containers that
carry `StepLabels` are waited for and then removed; every other container is kfp's own business, as ever.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

RunStep = Callable[[Any, str, list[str], dict[str, Any]], int]

_PARAMETERS = ["client", "image", "command", "volumes", "container_run_args"]


class StepLabels(dict[str, str]):
    """Labels of a container that is one of ours; an argument of kfp's DockerRunner, which hands it on as it is.

    Attributes:
        run_step: Runs the container: client, image, command and further arguments to its exit code.
    """

    def __init__(self, labels: Mapping[str, str], run_step: RunStep) -> None:
        super().__init__(labels)
        self.run_step = run_step


class _Replacement:
    """What stands in for kfp's function, and how many runs want it to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._original: Callable[..., int] | None = None

    def __call__(
        self, client: Any, image: str, command: list[str], volumes: dict[str, Any], **container_run_args: Any
    ) -> int:
        labels = container_run_args.pop("labels", None)
        if isinstance(labels, StepLabels):
            # Everything is mounted by our own arguments, which take any path; these would break on a colon.
            return labels.run_step(client, image, command, container_run_args)
        if labels is not None:
            container_run_args["labels"] = labels
        assert self._original is not None  # noqa: S101 - kept even when the last run is over
        return self._original(client, image, command, volumes, **container_run_args)

    def install(self, module: Any) -> None:
        with self._lock:
            if self._runs == 0:
                self._original = module.run_docker_container
                module.run_docker_container = self
            self._runs += 1

    def remove(self, module: Any) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0 and module.run_docker_container is self:
                module.run_docker_container = self._original


_replacement = _Replacement()


@contextmanager
def kfp_waits_for_containers() -> Iterator[bool]:
    """Within, containers with `StepLabels` are run by these; yields False if this kfp cannot be made to."""
    from kfp.local import docker_task_handler

    if not _is_as_known(docker_task_handler):
        yield False
        return
    _replacement.install(docker_task_handler)
    try:
        yield True
    finally:
        _replacement.remove(docker_task_handler)


def _is_as_known(module: Any) -> bool:
    """Whether kfp runs containers through the function that is replaced, called as we know it."""
    function = getattr(module, "run_docker_container", None)
    if function is _replacement:
        return True
    handler = getattr(getattr(module, "DockerTaskHandler", None), "run", None)
    try:
        called = "run_docker_container" in handler.__code__.co_names  # type: ignore[union-attr] # looked at, not trusted
        return called and list(inspect.signature(function).parameters) == _PARAMETERS  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError):
        return False
