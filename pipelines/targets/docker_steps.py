"""Steps as containers, through kfp's DockerRunner.

kfp lets the engine remove a container by itself, and takes one that is gone before it was waited for as successful. A
failed step may so be followed by the next one (kubeflow/pipelines#13332). While a run of ours goes on, its containers
are run from here: waited for, then removed, whatever happens.
"""

from __future__ import annotations

import codecs
import math
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import requests
import urllib3

from components.shared.container_images import Image, ImageStep
from components.shared.errors import InputError, ShutterlineError
from components.shared.events.redaction import redact
from components.shared.params.params import Params
from components.shared.pipeline_end import CANCELLED_VARIABLE
from components.shared.run import as_run_id
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.step import StepName, read_records
from components.shared.storage.location import AnyPath
from pipelines.params_files import locations_of
from pipelines.targets.compiling import reference_of, without_shell
from pipelines.targets.docker_engine import (
    ENGINE_ERRORS,
    check_images,
    check_network,
    connected,
    explained,
    gpus_for,
    is_set_up_as,
)
from pipelines.targets.docker_environment import loopbacks, mountable, named_files, passed_on
from pipelines.targets.steps import REASONS, LocalRunPaths, Steps, Target

RUN_LABEL, STEP_LABEL = "shutterline.run", "shutterline.step"
# As kfp calls the steps' functions.
_STEPS: dict[str, StepName] = {
    "data_prep": "data-prep",
    "train": "train",
    "evaluate": "evaluate",
    "publish": "publish",
    "exit_step": "exit",
}
_ON_A_GPU: tuple[StepName, ...] = ("train", "evaluate")
# Longer than a step takes to finish a batch; to this comes the params' TIMEOUT, the time of the last status events.
_GRACE_S = 10.0


@contextmanager
def docker_target(
    params: Params,
    data: AnyPath,
    log: Callable[[str], object],
    images: Mapping[ImageStep, Image],
    *,
    network: str | None,
    gpus: str | None,
    shm_size: str | None,
    memory: str | None,
    cpus: float | None,
) -> Iterator[Target]:
    """Within, what runs steps in containers; the engine was asked for everything that a run needs.

    Paths in `params` are absolute; `log` gets a line about what takes time, or may go wrong; the others are the options
    of ``shutterline run``.

    Raises:
        InputError: No engine answers; an image, a network or a GPU is not there; a path cannot be mounted.
    """
    environment = passed_on(os.environ, params, data)
    files = {mountable(file, "the file") for file in named_files(environment, params)}
    if isinstance(data, Path) and data.exists():  # if not, data prep reports it
        files.add(mountable(data.absolute(), "--data"))
    writable = _scratch_directory(environment)
    with connected() as (client, info):
        check_network(client, network)
        check_images(client, images, log)
        request = gpus_for(client, info, gpus or "auto", params.device, images["train"].reference)
        if network != "host":
            for name in loopbacks(environment, params):
                log(
                    f"warning: {name} names this machine, which containers do not reach by that name; "
                    "with --network host they do"
                )
        arguments: dict[str, Any] = {
            "entrypoint": "",  # kfp appends a command to an image's, where Kubernetes replaces it
            # What steps write shall belong to who runs this; a rootless engine's root is its user.
            "user": "0:0" if is_set_up_as(info, "rootless") else f"{os.getuid()}:{os.getgid()}",
            "group_add": [str(group) for group in os.getgroups() if group not in (0, os.getgid())],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777,size=256m"},  # noqa: S108 - the containers' own; TMPDIR is the run's
            "init": True,  # process 1 ignores SIGTERM until the step has a handler for it
            "shm_size": shm_size or "1g",
        }
        if is_set_up_as(info, "userns"):
            arguments["userns_mode"] = "host"  # or the user above would be another one outside
        if is_set_up_as(info, "selinux"):
            # Mounts of a user's data are not relabelled, as Docker's ":z" would: it changes the files for everybody.
            arguments["security_opt"].append("label=disable")
        optional = {
            "network": network,
            "mem_limit": memory,
            "nano_cpus": math.floor(cpus * 1e9) if cpus else None,
            "device_requests": [request] if request is not None else None,
        }
        arguments |= {name: value for name, value in optional.items() if value is not None}

        @contextmanager
        def steps(paths: LocalRunPaths) -> Iterator[Steps]:
            written = {mountable(paths.out, "--out"), *writable, *_published_directory(params)}
            arguments["environment"] = environment | paths.variables
            # These take any path; the -v syntax of "volumes" ends a path at a colon.
            arguments["mounts"] = [
                docker.types.Mount(path, path, type="bind", read_only=path not in written)
                for path in (*sorted(written), *sorted(files - written))
            ]
            running = _DockerSteps(client, images, paths, arguments, _GRACE_S + params.TIMEOUT)
            with running.replacing_kfps_own():
                yield running

        yield steps


def _scratch_directory(environment: Mapping[str, str]) -> list[str]:
    """The directory for what is fetched, made where it is not there; none where no setting names one."""
    if not (named := environment.get(SCRATCH_VARIABLE)):
        return []
    try:
        Path(named).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{SCRATCH_VARIABLE}: {named} cannot be made: {error.strerror}") from error
    return [mountable(Path(named), SCRATCH_VARIABLE)]


def _published_directory(params: Params) -> list[str]:
    """The directory that versions are published in, which is there; none where it is a bucket."""
    where = locations_of(params).get("publish_uri")
    return [mountable(where, "publish_uri")] if isinstance(where, Path) else []


def _why_failed(exit_code: int, *, out_of_memory: bool, last_line: str) -> str:
    if out_of_memory:
        return f"it ran out of memory and was killed (exit code {exit_code}); --memory sets a step's limit"
    if exit_code > 128:  # a signal's number and 128
        with suppress(ValueError):
            return f"it was killed by {signal.Signals(exit_code - 128).name} (exit code {exit_code})"
    return f"it ended with exit code {exit_code}, and its last line is: {redact(last_line)}"


class _DockerSteps(Steps):
    def __init__(
        self,
        client: docker.DockerClient,
        images: Mapping[ImageStep, Image],
        paths: LocalRunPaths,
        arguments: dict[str, Any],
        grace_s: float,
    ) -> None:
        from kfp import local

        from pipelines.image_classifier import pipeline_for

        super().__init__(paths)
        self._client = client
        self._images = images
        self._arguments = arguments
        self._grace_s = grace_s
        self._signal: signal.Signals | None = None
        self._failures: dict[StepName, str] = {}
        self._current: str | None = None  # the container that is under way
        self._started = threading.Event()
        self._labels = {RUN_LABEL: paths.run}  # kfp passes this very object on: by it a container is known as ours
        self.pipeline = pipeline_for(lambda step, task: task.set_container_image(reference_of(step, images)))
        self.runner = local.DockerRunner(**arguments, labels=self._labels)

    @contextmanager
    def replacing_kfps_own(self) -> Iterator[None]:
        """Within, kfp has this run's containers run here; every other one is its own business."""
        from kfp.local import docker_task_handler as module

        kfps_own = module.run_docker_container

        def run_docker_container(
            client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any
        ) -> int:
            if arguments.get("labels") is not self._labels:
                return int(kfps_own(client, image, command, volumes, **arguments))
            # Everything is mounted by our own arguments, which take any path; `volumes` would break on a colon.
            return self._run_for_kfp(client, image, command, arguments)

        module.run_docker_container = run_docker_container
        try:
            yield
        finally:
            module.run_docker_container = kfps_own

    def _run_for_kfp(self, client: Any, image: str, command: list[str], arguments: dict[str, Any]) -> int:
        """Run a step's container for kfp; 0 only if the step has also recorded its success."""
        step = _STEPS[command[command.index("--function_to_execute") + 1]]
        code = self._run(client, step, image, without_shell(command), sys.stdout.write, arguments)
        record = read_records(self.paths.records).get(step)
        if code == 0 and (record is None or record.status != "succeeded"):
            sys.stdout.write(f"\n{step} ended with exit code 0, but without a record of success\n")
            return 1
        is_followed = step in ("data-prep", "train") or (record is not None and record.report.get("publish"))
        if code == 0 and self._signal and is_followed:
            sys.stdout.write(f"\n{step} ended before the signal reached it; nothing follows it\n")
            return 1
        return code

    def _run(
        self,
        client: docker.DockerClient,
        step: StepName,
        image: str,
        command: list[str],
        write: Callable[[str], object],
        arguments: dict[str, Any],
    ) -> int:
        """Run one container to its end; its output is written as it comes."""
        arguments = arguments | {"labels": {**self._labels, STEP_LABEL: step}}
        if step not in _ON_A_GPU:
            arguments.pop("device_requests", None)
        if self._signal is not None:  # for the exit step, to which kfp reports a failed task
            arguments["environment"] = arguments["environment"] | {CANCELLED_VARIABLE: REASONS[self._signal]}
        # A name that is known before the container is there, so that it can be removed whenever this is broken off.
        name = f"shutterline-{as_run_id(self.paths.run)}-{step}-{secrets.token_hex(2)}"
        self._started.clear()
        self._current = name
        try:
            container = client.containers.create(image, command, name=name, **arguments)
            container.start()
            self._started.set()
            last_line = _stream(container, write)
            if exit_code := int(container.wait()["StatusCode"]):
                container.reload()
                out_of_memory = bool(container.attrs["State"].get("OOMKilled"))
                why = _why_failed(exit_code, out_of_memory=out_of_memory, last_line=last_line)
                self._failures[step] = f"{why}; see {self.paths.log}"
            return exit_code
        except docker.errors.DockerException as error:
            message = explained(error)
            if "bind source path does not exist" in message:
                message += "; does the Docker engine run on another machine? It must see the same files"
            raise ShutterlineError(f"the container of {step} could not be run: {message}") from error
        except requests.RequestException as error:
            raise ShutterlineError(f"the Docker engine stopped answering in {step}: {explained(error)}") from error
        finally:
            self._started.set()
            try:
                client.api.remove_container(name, v=True, force=True)
            except docker.errors.NotFound:
                pass
            except ENGINE_ERRORS as error:
                write(f"\nthe container {name} could not be removed: {explained(error)}\n")
            self._current = None  # not earlier: a signal that finds nothing running breaks off whatever goes on

    def is_running(self) -> bool:
        return self._current is not None

    def stop(self, number: signal.Signals) -> None:
        self._signal = number
        if self._current is not None:
            # Not here: this is called by a signal handler, which may have come in the middle of a request.
            threading.Thread(target=self._stop, args=(self._current, number), daemon=True).start()

    def _stop(self, name: str, number: signal.Signals) -> None:
        """Pass a signal on to a container, then SIGTERM, which moves what sticks to a Ctrl-C, and SIGKILL."""
        self._started.wait()
        left_s = self._grace_s
        with suppress(*ENGINE_ERRORS):  # it has ended by itself
            if number != signal.SIGTERM:
                self._client.api.kill(name, number.name)
                left_s /= 2
                with suppress(requests.RequestException):  # it has not, within this time
                    self._client.api.wait(name, timeout=left_s)
            self._client.api.stop(name, timeout=round(left_s))

    def run_exit_step(self, command: list[str], write: Callable[[str], object]) -> None:
        image = reference_of("exit", self._images)
        try:
            self._run(self._client, "exit", image, ["python3", *command], write, self._arguments)
        except ShutterlineError as error:
            write(f"\n{error}\n")

    def failure(self, step: StepName) -> str | None:
        return self._failures.get(step)


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
