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
from pipelines.run_options import DockerOptions
from pipelines.targets.containers import Containers, Ending
from pipelines.targets.docker_engine import Engine, all_gpus, connected
from pipelines.targets.docker_environment import loopbacks, mountable, named_files, passed_on
from pipelines.targets.kfp_docker import StepLabels, kfp_waits_for_containers
from pipelines.targets.kfp_start import started_itself
from pipelines.targets.pipeline_images import pipeline_with
from pipelines.targets.result import REASONS
from pipelines.targets.steps import RunPlace, Steps

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
        say: Gets a line about what takes time, or may go wrong.

    Raises:
        InputError: No engine answers; an image, a network or a GPU is not there; a path cannot be mounted.
    """

    def __init__(self, options: DockerOptions, params: Params, data: AnyPath, say: Callable[[str], None]) -> None:
        self._options = options
        self._params = params
        self._environment = passed_on(os.environ, params, data)
        self._files = {mountable(file, "the file") for file in named_files(self._environment, params)}
        if isinstance(data, Path) and data.exists():  # if not, data prep says so
            self._files.add(mountable(data.absolute(), "--data"))
        self._directories = _directories(self._environment)
        with connected() as engine:
            engine.check_network(options.network)
            engine.check_images(options.images, say)
            self._gpus = self._gpus_for_steps(engine)
        if options.network != "host":
            for name in loopbacks(self._environment, params):
                say(
                    f"warning: {name} names this machine, which containers do not reach by that name; "
                    "with --network host they do"
                )

    def _gpus_for_steps(self, engine: Engine) -> Any | None:
        """What to ask the engine for.

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
                "NVIDIA's Container Toolkit is missing, or Docker was not told of it (`sudo nvidia-ctk runtime "
                'configure --runtime=docker`, then restart Docker); device "auto" or "cpu" runs without'
            )
        return offered

    def scratch(self, out: Path) -> TemporaryDirectory[str]:
        """In the run's directory, which is mounted anyway; an engine may not see the system's place for them."""
        return TemporaryDirectory(prefix=".shutterline-", dir=out)

    @contextmanager
    def steps(self, place: RunPlace) -> Iterator[Steps]:
        """Within, kfp waits for this run's containers."""
        mountable(place.out, "--out")
        with connected() as engine, kfp_waits_for_containers() as waits:
            containers = Containers(engine.client, place.run, _GRACE_S + self._params.TIMEOUT)
            try:
                yield _DockerSteps(engine, containers, self._options.images, place, self._arguments(engine, place))
            finally:
                if not waits:  # kfp runs them as it likes, so that none of them is known here
                    containers.stop_all()

    def _arguments(self, engine: Engine, place: RunPlace) -> dict[str, Any]:
        """What every container gets."""
        writable = [str(place.out), *self._directories]

        def mount(path: str, *, read_only: bool) -> Any:
            return docker.types.Mount(path, path, type="bind", read_only=read_only)

        options = self._options
        arguments: dict[str, Any] = {
            "entrypoint": "",  # kfp appends a command to an image's, where Kubernetes replaces it
            # What steps write shall belong to who runs this; a rootless engine's root is its user.
            "user": "0:0" if engine.is_set_up_as("rootless") else f"{os.getuid()}:{os.getgid()}",
            "group_add": [str(group) for group in os.getgroups() if group not in (0, os.getgid())],
            "environment": self._environment | place.variables,
            # These take any path; the -v syntax of "volumes" ends a path at a colon.
            "mounts": [
                *(mount(directory, read_only=False) for directory in writable),
                *(mount(file, read_only=True) for file in sorted(self._files - set(writable))),
            ],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777,size=256m"},  # noqa: S108 - the containers' own; TMPDIR is the run's
            "init": True,  # a step that is process 1 would not hear SIGTERM before it listens for it
            "shm_size": options.shm_size,
        }
        if engine.is_set_up_as("userns"):
            arguments["userns_mode"] = "host"  # or the user above would be another one outside
        if engine.is_set_up_as("selinux"):
            # Mounts of a user's data are not relabelled, as Docker's ":z" would: it changes the files for everybody.
            arguments["security_opt"].append("label=disable")
        if options.network is not None:
            arguments["network"] = options.network
        if options.memory is not None:
            arguments["mem_limit"] = options.memory
        if options.cpus is not None:
            arguments["nano_cpus"] = math.floor(options.cpus * 1e9)
        if self._gpus is not None:
            arguments["device_requests"] = [self._gpus]
        return arguments


def _directories(environment: Mapping[str, str]) -> list[str]:
    """Directories that settings name for steps to write to, made where they are not there.

    Raises:
        InputError: One cannot be made.
    """
    named = environment.get(SCRATCH_VARIABLE)
    if not named:
        return []
    directory = Path(named)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{SCRATCH_VARIABLE}: {named} cannot be made: {error.strerror}") from error
    return [mountable(directory, SCRATCH_VARIABLE)]


class _DockerSteps:
    def __init__(
        self,
        engine: Engine,
        containers: Containers,
        images: Mapping[ImageStep, Image],
        place: RunPlace,
        arguments: dict[str, Any],
    ) -> None:
        from kfp import local

        self._engine = engine
        self._containers = containers
        self._image_of_exit = images["data-prep"].reference
        self._place = place
        self._arguments = arguments
        self._told_to_end: signal.Signals | None = None
        self._endings: dict[StepName, Ending] = {}
        self.pipeline: Any = pipeline_with(images)
        labels = StepLabels(self._containers.labels("step"), self._run_for_kfp)
        self.runner: Any = local.DockerRunner(**arguments, labels=labels)

    def _run_for_kfp(self, client: Any, image: str, command: list[str], arguments: dict[str, Any]) -> int:
        """Run a step's container for kfp; 0 only if the step has also recorded its success."""
        step = _STEPS[command[command.index("--function_to_execute") + 1]]
        ending = self._run(client, step, image, started_itself(command), sys.stdout.write, arguments)
        record = read_records(self._place.records).get(step)
        if ending.exit_code == 0 and (record is None or record.status != "succeeded"):
            sys.stdout.write(f"\n{step} ended with exit code 0, but without a record of success\n")
            return 1
        if ending.exit_code == 0 and self._told_to_end and step in ("data-prep", "train"):
            sys.stdout.write(f"\n{step} ended before it heard that it should; nothing follows it\n")
            return 1
        return ending.exit_code

    def _run(
        self,
        client: Any,
        step: StepName,
        image: str,
        command: list[str],
        write: Callable[[str], object],
        arguments: dict[str, Any],
    ) -> Ending:
        if step not in _ON_A_GPU:
            arguments = {name: value for name, value in arguments.items() if name != "device_requests"}
        if self._told_to_end is not None:  # for the exit step, to which kfp says that a task failed
            told = {CANCELLED_VARIABLE: REASONS[self._told_to_end]}
            arguments = {**arguments, "environment": {**arguments["environment"], **told}}
        ending = self._endings[step] = self._containers.run(client, step, image, command, write, arguments)
        return ending

    def under_way(self) -> bool:
        return self._containers.under_way()

    def end(self, number: signal.Signals) -> None:
        self._told_to_end = number
        self._containers.end(number)

    def say_the_end(self, state: str, message: str, write: Callable[[str], object]) -> None:
        command = ["python3", "-m", "components.exit_step", "--params", str(self._place.out / "params.json")]
        command += ["--state", state, "--message", message]
        try:
            self._run(self._engine.client, "exit", self._image_of_exit, command, write, self._arguments)
        except ShutterlineError as error:
            write(f"\n{error}\n")

    def how_it_ended(self, step: StepName) -> str | None:
        ending = self._endings.get(step)
        if ending is None or ending.exit_code == 0:
            return None
        return f"{ending}; see {self._place.log}"
