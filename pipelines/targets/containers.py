"""The containers of one run, one after another: started, read, waited for, then removed, whatever happens."""

from __future__ import annotations

import codecs
import secrets
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker
import requests
import urllib3

from components.shared.errors import ShutterlineError
from components.shared.events.redaction import redact
from components.shared.run import as_run_id
from pipelines.targets.docker_engine import explained

RUN_LABEL, STEP_LABEL = "shutterline.run", "shutterline.step"


@dataclass(frozen=True)
class Ending:
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


class Containers:
    """Runs the containers of one run.

    Args:
        client: Docker's client, for stopping what another one started.
        run: The run's id; containers are labelled by it.
        grace_s: Seconds that a container has to end after it was told to.
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
    ) -> Ending:
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
            return Ending(exit_code, bool(container.attrs["State"].get("OOMKilled")), last_line)
        except docker.errors.DockerException as error:
            raise ShutterlineError(f"the container of {step} could not be run: {_with_hint(error)}") from error
        except requests.RequestException as error:
            raise ShutterlineError(f"the Docker engine stopped answering in {step}: {explained(error)}") from error
        finally:
            current.started.set()
            current.ended.set()
            _remove(client, name, write)
            self._current = None  # not earlier: a signal that finds nothing under way breaks off whatever goes on

    def stop_all(self) -> None:
        """Stop and remove every container that carries the run's label."""
        label = f"{RUN_LABEL}={self._run}"
        with suppress(docker.errors.DockerException, requests.RequestException):  # the run's end is told all the same
            for container in self._client.containers.list(all=True, filters={"label": label}):
                container.stop(timeout=round(self._grace_s))
                _remove(self._client, container.id, _discard)

    def under_way(self) -> bool:
        """Whether a container is starting or running."""
        return self._current is not None

    def end(self, number: signal.Signals) -> None:
        """Pass a signal on to the running container, and SIGKILL when its time is over; returns at once."""
        current = self._current
        if current is not None:
            # Not here: this is called by a signal handler, which may have come in the middle of a request.
            threading.Thread(target=self._end, args=(current, number), daemon=True).start()

    def _end(self, current: _Current, number: signal.Signals) -> None:
        current.started.wait()
        first_s = self._grace_s / 2 if number != signal.SIGTERM else 0.0  # SIGTERM moves what sticks to a Ctrl-C
        signals = [(number, first_s)] if first_s else []
        for one, then_wait_s in (*signals, (signal.SIGTERM, self._grace_s - first_s), (signal.SIGKILL, 0.0)):
            with suppress(docker.errors.DockerException, requests.RequestException):  # it has ended by itself
                self._client.api.kill(current.name, one.name)
            if current.ended.wait(then_wait_s):
                return


class _Current:
    """The container that is under way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = threading.Event()
        self.ended = threading.Event()


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


def _with_hint(error: docker.errors.DockerException) -> str:
    said = explained(error)
    if "bind source path does not exist" in said:
        said += "; does the Docker engine run on another machine? It must see the same files"
    return said


def _discard(text: str) -> None:
    """Write nowhere."""


def _remove(client: docker.DockerClient, name: str, write: Callable[[str], object]) -> None:
    try:
        client.api.remove_container(name, v=True, force=True)
    except docker.errors.NotFound:
        pass
    except (docker.errors.DockerException, requests.RequestException) as error:
        write(f"\nthe container {name} could not be removed: {explained(error)}\n")
