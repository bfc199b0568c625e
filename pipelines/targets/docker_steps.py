"""Steps as containers, through kfp's DockerRunner."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import docker

from components.shared.errors import DeviceError, InputError, ShutterlineError
from components.shared.images import Image, ImageStep
from components.shared.params.params import Params
from components.shared.pipeline_end import CANCELLED_VARIABLE
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.step import StepName, read_records
from components.shared.storage.location import AnyPath
from pipelines.targets.compiling import reference_of, without_shell
from pipelines.targets.containers import ContainerExit, Containers, StepLabels, kfp_waits_for_containers
from pipelines.targets.docker_engine import Engine, all_gpus, connected
from pipelines.targets.docker_environment import loopbacks, mountable, named_files, passed_on
from pipelines.targets.steps import REASONS, DockerOptions, LocalRunPaths, Steps

# As kfp calls the steps' functions.
_STEPS: dict[str, StepName] = {
    "data_prep": "data-prep",
    "train": "train",
    "evaluate": "evaluate",
    "exit_step": "exit",
}
_ON_A_GPU: tuple[StepName, ...] = ("train", "evaluate")
# Longer than a step takes to finish a batch; to this comes the params' TIMEOUT, the time of the last status events.
_GRACE_S = 10.0


class DockerTarget:
    """Runs steps in containers. Making one asks the engine for everything that a run needs.

    Args:
        options: What the containers get.
        params: Checked params, paths in them absolute.
        data: Folder of images or IDX files, here or in a bucket.
        log: Gets a line about what takes time, or may go wrong.

    Raises:
        InputError: No engine answers; an image, a network or a GPU is not there; a path cannot be mounted.
    """

    def __init__(self, options: DockerOptions, params: Params, data: AnyPath, log: Callable[[str], None]) -> None:
        self._options = options
        self._params = params
        self._environment = passed_on(os.environ, params, data)
        self._files = {mountable(file, "the file") for file in named_files(self._environment, params)}
        if isinstance(data, Path) and data.exists():  # if not, data prep reports it
            self._files.add(mountable(data.absolute(), "--data"))
        self._scratch = _scratch_directory(self._environment)
        with connected() as engine:
            engine.check_network(options.network)
            engine.check_images(options.images, log)
            self._gpus = self._gpus_for_steps(engine)
        if options.network != "host":
            for name in loopbacks(self._environment, params):
                log(
                    f"warning: {name} names this machine, which containers do not reach by that name; "
                    "with --network host they do"
                )

    def _gpus_for_steps(self, engine: Engine) -> Any | None:
        """The device request of the steps.

        Raises:
            DeviceError: A GPU is asked for, and there will be none.
        """
        wanted, device, offered = self._options.gpus, self._params.device, engine.gpus()
        if wanted == "all":
            request = offered or all_gpus()
            engine.check_gpu(self._options.images["train"].reference, request)
            return request
        needed = device.startswith("cuda")
        if wanted == "none" and needed:
            raise DeviceError(f'device: "{device}" is asked for, but --gpus none gives none to the steps')
        if wanted == "none" or device == "cpu":
            return None
        if needed and offered is None:
            raise DeviceError(
                f'device: "{device}" is asked for, but the Docker engine offers no GPU: the NVIDIA driver or '
                "NVIDIA's Container Toolkit is missing, or Docker is not configured for it (`sudo nvidia-ctk runtime "
                'configure --runtime=docker`, then restart Docker); device "auto" or "cpu" runs without'
            )
        return offered

    def scratch(self, out: Path) -> TemporaryDirectory[str]:
        """In the run's directory, which is mounted anyway; an engine may not see the system's temporary files."""
        return TemporaryDirectory(prefix=".shutterline-", dir=out)

    @contextmanager
    def steps(self, paths: LocalRunPaths) -> Iterator[Steps]:
        """Within, kfp waits for this run's containers."""
        mountable(paths.out, "--out")
        with connected() as engine, kfp_waits_for_containers() as waits:
            containers = Containers(engine.client, paths.run, _GRACE_S + self._params.TIMEOUT)
            try:
                yield _DockerSteps(engine, containers, self._options.images, paths, self._arguments(engine, paths))
            finally:
                if not waits:  # kfp runs them as it likes, so that none of them is known here
                    containers.stop_all()

    def _arguments(self, engine: Engine, paths: LocalRunPaths) -> dict[str, Any]:
        """The arguments of every container."""
        options, writable = self._options, {str(paths.out), *self._scratch}
        paths_seen = [*sorted(writable), *sorted(self._files - writable)]
        arguments: dict[str, Any] = {
            "entrypoint": "",  # kfp appends a command to an image's, where Kubernetes replaces it
            # What steps write shall belong to who runs this; a rootless engine's root is its user.
            "user": "0:0" if engine.is_set_up_as("rootless") else f"{os.getuid()}:{os.getgid()}",
            "group_add": [str(group) for group in os.getgroups() if group not in (0, os.getgid())],
            "environment": self._environment | paths.variables,
            # These take any path; the -v syntax of "volumes" ends a path at a colon.
            "mounts": [
                docker.types.Mount(path, path, type="bind", read_only=path not in writable) for path in paths_seen
            ],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777,size=256m"},  # noqa: S108 - the containers' own; TMPDIR is the run's
            "init": True,  # process 1 ignores SIGTERM until the step has a handler for it
            "shm_size": options.shm_size,
        }
        if engine.is_set_up_as("userns"):
            arguments["userns_mode"] = "host"  # or the user above would be another one outside
        if engine.is_set_up_as("selinux"):
            # Mounts of a user's data are not relabelled, as Docker's ":z" would: it changes the files for everybody.
            arguments["security_opt"].append("label=disable")
        optional = {
            "network": options.network,
            "mem_limit": options.memory,
            "nano_cpus": math.floor(options.cpus * 1e9) if options.cpus else None,
            "device_requests": [self._gpus] if self._gpus is not None else None,
        }
        return arguments | {name: value for name, value in optional.items() if value is not None}


def _scratch_directory(environment: Mapping[str, str]) -> list[str]:
    """The directory for what is fetched, made where it is not there; none where no setting names one.

    Raises:
        InputError: It cannot be made.
    """
    if not (named := environment.get(SCRATCH_VARIABLE)):
        return []
    try:
        Path(named).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{SCRATCH_VARIABLE}: {named} cannot be made: {error.strerror}") from error
    return [mountable(Path(named), SCRATCH_VARIABLE)]


class _DockerSteps:
    def __init__(
        self,
        engine: Engine,
        containers: Containers,
        images: Mapping[ImageStep, Image],
        paths: LocalRunPaths,
        arguments: dict[str, Any],
    ) -> None:
        from kfp import local

        from pipelines.image_classifier import pipeline_for

        self._engine = engine
        self._containers = containers
        self._images = images
        self._paths = paths
        self._arguments = arguments
        self._signal: signal.Signals | None = None
        self._exits: dict[StepName, ContainerExit] = {}
        self.pipeline: Any = pipeline_for(lambda step, task: task.set_container_image(reference_of(step, images)))
        labels = StepLabels(containers.labels("step"), self._run_for_kfp)
        self.runner: Any = local.DockerRunner(**arguments, labels=labels)

    def _run_for_kfp(self, client: Any, image: str, command: list[str], arguments: dict[str, Any]) -> int:
        """Run a step's container for kfp; 0 only if the step has also recorded its success."""
        step = _STEPS[command[command.index("--function_to_execute") + 1]]
        code = self._run(client, step, image, without_shell(command), sys.stdout.write, arguments).exit_code
        record = read_records(self._paths.records).get(step)
        if code == 0 and (record is None or record.status != "succeeded"):
            sys.stdout.write(f"\n{step} ended with exit code 0, but without a record of success\n")
            return 1
        if code == 0 and self._signal and step in ("data-prep", "train"):
            sys.stdout.write(f"\n{step} ended before the signal reached it; nothing follows it\n")
            return 1
        return code

    def _run(
        self,
        client: Any,
        step: StepName,
        image: str,
        command: list[str],
        write: Callable[[str], object],
        arguments: dict[str, Any],
    ) -> ContainerExit:
        if step not in _ON_A_GPU:
            arguments = {name: value for name, value in arguments.items() if name != "device_requests"}
        if self._signal is not None:  # for the exit step, to which kfp reports a failed task
            cancelled = {CANCELLED_VARIABLE: REASONS[self._signal]}
            arguments = {**arguments, "environment": {**arguments["environment"], **cancelled}}
        ended = self._exits[step] = self._containers.run(client, step, image, command, write, arguments)
        return ended

    def is_running(self) -> bool:
        return self._containers.is_running()

    def stop(self, number: signal.Signals) -> None:
        self._signal = number
        self._containers.stop(number)

    def run_exit_step(self, state: str, message: str, write: Callable[[str], object]) -> None:
        command = ["python3", "-m", "components.exit_step", "--params", str(self._paths.out / "params.json")]
        command += ["--state", state, "--message", message]
        try:
            self._run(self._engine.client, "exit", reference_of("exit", self._images), command, write, self._arguments)
        except ShutterlineError as error:
            write(f"\n{error}\n")

    def failure(self, step: StepName) -> str | None:
        ended = self._exits.get(step)
        return f"{ended}; see {self._paths.log}" if ended is not None and ended.exit_code else None
