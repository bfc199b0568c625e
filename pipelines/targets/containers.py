"""The containers of one run, one after another: started, read, waited for, then removed, whatever happens.

kfp lets the engine remove a container by itself, and takes one that is gone before it was waited for as successful. A
failed step may so be followed by the next one (kubeflow/pipelines#13332). While runs of ours go on, containers that
carry `StepLabels` are waited for and then removed; every other container is kfp's own business, as ever.
"""

from __future__ import annotations

import codecs
import inspect
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import docker
import requests
import urllib3

from components.shared.errors import ShutterlineError
from components.shared.events.redaction import redact
from components.shared.run import as_run_id
from pipelines.targets.docker_engine import explained

RUN_LABEL, STEP_LABEL = "shutterline.run", "shutterline.step"
_PARAMETERS = ["client", "image", "command", "volumes", "container_run_args"]  # of kfp's function
_ENGINE_ERRORS = (docker.errors.DockerException, requests.RequestException)


@dataclass(frozen=True)
class ContainerExit:
    """How a container ended.

    Attributes:
        exit_code: Its process's; 128 and more: that signal and 128.
        out_of_memory: Whether the system killed something in it because it had no memory left.
        last_line: The last line of its output that is not empty.
    """

    exit_code: int
    out_of_memory: bool
    last_line: str

    def __str__(self) -> str:
        if self.out_of_memory:
            return f"it ran out of memory and was killed (exit code {self.exit_code}); --memory sets a step's limit"
        if self.exit_code > 128:
            with suppress(ValueError):
                return f"it was killed by {signal.Signals(self.exit_code - 128).name} (exit code {self.exit_code})"
        return f"it ended with exit code {self.exit_code}, and its last line is: {redact(self.last_line)}"


@dataclass
class _Current:
    """The container that is under way."""

    name: str
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class Containers:
    """Runs the containers of one run.

    Args:
        client: Docker's client, for stopping what another one started.
        run: The run's id; containers are labelled by it.
        grace_s: Seconds that a container has to end after its first signal.
    """

    def __init__(self, client: docker.DockerClient, run: str, grace_s: float) -> None:
        self._client = client
        self._run = run
        self._grace_s = grace_s
        self._current: _Current | None = None

    def labels(self, step: str) -> dict[str, str]:
        """The labels by which a step's container is found."""
        return {RUN_LABEL: self._run, STEP_LABEL: step}

    def run(
        self,
        client: docker.DockerClient,
        step: str,
        image: str,
        command: Sequence[str],
        write: Callable[[str], object],
        arguments: Mapping[str, Any],
    ) -> ContainerExit:
        """Run one container to its end; its output is written as it comes.

        Args:
            client: Whose engine it runs on.
            step: The step it is.
            image: Reference of its image.
            command: What it runs.
            write: Gets pieces of its output, lines or not.
            arguments: Further arguments of docker's ``containers.create``.

        Raises:
            ShutterlineError: It could not be started, or the engine went away.
        """
        # A name that is known before the container is there, so that it can be removed whenever this is broken off.
        name = f"shutterline-{as_run_id(self._run)}-{step}-{secrets.token_hex(2)}"
        current = self._current = _Current(name)
        try:
            container = client.containers.create(image, list(command), name=name, labels=self.labels(step), **arguments)
            container.start()
            current.started.set()
            last_line = _stream(container, write)
            exit_code = int(container.wait()["StatusCode"])
            container.reload()
            return ContainerExit(exit_code, bool(container.attrs["State"].get("OOMKilled")), last_line)
        except docker.errors.DockerException as error:
            message = explained(error)
            if "bind source path does not exist" in message:
                message += "; does the Docker engine run on another machine? It must see the same files"
            raise ShutterlineError(f"the container of {step} could not be run: {message}") from error
        except requests.RequestException as error:
            raise ShutterlineError(f"the Docker engine stopped answering in {step}: {explained(error)}") from error
        finally:
            current.started.set()
            current.ended.set()
            if failure := _remove(client, name):
                write(f"\n{failure}\n")
            self._current = None  # not earlier: a signal that finds nothing running breaks off whatever goes on

    def stop_all(self) -> None:
        """Stop and remove every container that carries the run's label."""
        label = f"{RUN_LABEL}={self._run}"
        with suppress(*_ENGINE_ERRORS):  # the run's end is reported all the same
            for container in self._client.containers.list(all=True, filters={"label": label}):
                container.stop(timeout=round(self._grace_s))
                _remove(self._client, container.id)

    def is_running(self) -> bool:
        """Whether a container is starting or running."""
        return self._current is not None

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on to the running container, and SIGKILL when its time is over; returns at once."""
        if self._current is not None:
            # Not here: this is called by a signal handler, which may have come in the middle of a request.
            threading.Thread(target=self._stop, args=(self._current, number), daemon=True).start()

    def _stop(self, current: _Current, number: signal.Signals) -> None:
        current.started.wait()
        first_s = self._grace_s / 2 if number != signal.SIGTERM else 0.0  # SIGTERM moves what sticks to a Ctrl-C
        signals = [(number, first_s)] if first_s else []
        for one, then_wait_s in (*signals, (signal.SIGTERM, self._grace_s - first_s), (signal.SIGKILL, 0.0)):
            with suppress(*_ENGINE_ERRORS):  # it has ended by itself
                self._client.api.kill(current.name, one.name)
            if current.ended.wait(then_wait_s):
                return


def _stream(container: Any, write: Callable[[str], object]) -> str:
    """Write a container's output as it comes, until the container ends; returns its last line."""
    decoder, last, partial = codecs.getincrementaldecoder("utf-8")("backslashreplace"), "", ""
    try:
        for piece in container.logs(stream=True, follow=True):
            text = decoder.decode(piece)
            write(text)
            *lines, partial = (partial + text).split("\n")
            last = next((line for line in reversed(lines) if line.strip()), last)
    except (docker.errors.DockerException, urllib3.exceptions.HTTPError, OSError) as error:
        # An engine that keeps no logs, or is gone, which waiting for the container will show.
        write(f"\nthe container's output cannot be read: {explained(error)}\n")
    return (partial if partial.strip() else last).strip()


def _remove(client: docker.DockerClient, name: str) -> str | None:
    """Remove a container, which need not be there; returns why it could not be."""
    try:
        client.api.remove_container(name, v=True, force=True)
    except docker.errors.NotFound:
        pass
    except _ENGINE_ERRORS as error:
        return f"the container {name} could not be removed: {explained(error)}"
    return None


class StepLabels(dict[str, str]):
    """Labels of a container that is one of ours; an argument of kfp's DockerRunner, which passes it on unchanged.

    Attributes:
        run_step: Runs the container: client, image, command and further arguments to its exit code.
    """

    def __init__(
        self, labels: Mapping[str, str], run_step: Callable[[Any, str, list[str], dict[str, Any]], int]
    ) -> None:
        super().__init__(labels)
        self.run_step = run_step


class _Replacement:
    """What stands in for kfp's function, and how many runs use it."""

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

    @contextmanager
    def installed(self, module: Any) -> Iterator[None]:
        with self._lock:
            if self._runs == 0:
                self._original, module.run_docker_container = module.run_docker_container, self
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if self._runs == 0 and module.run_docker_container is self:
                    module.run_docker_container = self._original


_replacement = _Replacement()


@contextmanager
def kfp_waits_for_containers() -> Iterator[bool]:
    """Within, containers with `StepLabels` are run by these; yields False if this kfp cannot be made to."""
    from kfp.local import docker_task_handler as module

    function = getattr(module, "run_docker_container", None)
    handler = getattr(getattr(module, "DockerTaskHandler", None), "run", None)
    try:
        called = "run_docker_container" in handler.__code__.co_names  # type: ignore[union-attr] # looked at, not trusted
        is_known = called and list(inspect.signature(function).parameters) == _PARAMETERS  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError):
        is_known = False
    if not (is_known or function is _replacement):
        yield False
        return
    with _replacement.installed(module):
        yield True
