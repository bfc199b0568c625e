"""Options of ``shutterline run`` that say what the steps run in."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from components.shared.errors import InputError
from components.shared.images import Image, ImageStep, default_images, read_images
from pipelines.compiled import PLATFORMS

Gpus = Literal["none", "all", "auto"]

_DOCKER_OPTIONS = ("images", "network", "gpus", "shm_size", "memory", "cpus")
_SIZE = re.compile(r"[1-9][0-9]*[bkmg]?", re.IGNORECASE)


@dataclass(frozen=True)
class DockerOptions:
    """What the containers of a run get.

    Attributes:
        images: What each step runs in.
        network: Network of the engine, ``host`` or ``none``; None: the engine's default.
        gpus: ``auto``: all of them, if the engine offers any and the params do not say ``cpu``.
        shm_size: Size of ``/dev/shm``, as Docker writes sizes.
        memory: Limit of a step's memory, likewise; None: none.
        cpus: Limit of a step's processors; None: none.
    """

    images: dict[ImageStep, Image]
    network: str | None = None
    gpus: Gpus = "auto"
    shm_size: str = "1g"
    memory: str | None = None
    cpus: float | None = None


def add_runner_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--runner`` and what belongs to the runner docker."""
    parser.add_argument(
        "--runner",
        choices=["subprocess", "docker"],
        default="subprocess",
        help="steps as processes of this installation, or each in its container; default: subprocess",
    )
    docker = parser.add_argument_group("with --runner docker")
    add_images_option(docker)
    docker.add_argument(
        "--network",
        metavar="NAME",
        help="network of the containers, such as host, none or a compose file's; default: Docker's",
    )
    docker.add_argument(
        "--gpus",
        choices=get_args(Gpus),
        help="GPUs for training and evaluation; default: auto, all of them if Docker offers any and the device of the "
        "params is not cpu",
    )
    docker.add_argument("--shm-size", metavar="SIZE", help="size of /dev/shm, such as 512m; default: 1g")
    docker.add_argument("--memory", metavar="SIZE", help="most memory of a step, such as 8g; default: no limit")
    docker.add_argument("--cpus", metavar="N", help="most processors of a step, such as 1.5; default: no limit")


def add_images_option(parser: Any) -> None:
    """Add ``--images``."""
    parser.add_argument(
        "--images",
        metavar="FILE",
        type=Path,
        help="images of the steps, as `make images` writes them; default: tags of this version",
    )


def add_target_options(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add ``--target`` and ``--settings``."""
    parser.add_argument("--target", choices=PLATFORMS, required=required, help="the platform")
    parser.add_argument(
        "--settings", metavar="FILE", type=Path, help="what its steps get, as .yaml or .json; default: see settings"
    )


def docker_options(options: argparse.Namespace) -> DockerOptions | None:
    """The options of the runner docker; None where steps run in processes.

    Raises:
        InputError: One of them is wrong, or given to the other runner.
    """
    if options.runner != "docker":
        given = [name for name in _DOCKER_OPTIONS if getattr(options, name) is not None]
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} belongs to --runner docker, which was not asked for")
        return None
    for name in ("shm_size", "memory"):
        size = getattr(options, name)
        if size is not None and not _SIZE.fullmatch(size):
            raise InputError(f"--{name.replace('_', '-')}: must be a size such as 512m or 8g, got {size!r}")
    if options.network is not None and not options.network.strip():
        raise InputError("--network: must name a network, such as host or none")
    return DockerOptions(
        images=images_named_by(options.images),
        network=options.network,
        gpus=cast("Gpus", options.gpus or "auto"),
        shm_size=options.shm_size or "1g",
        memory=options.memory,
        cpus=_cpus(options.cpus),
    )


def images_named_by(file: Path | None) -> dict[ImageStep, Image]:
    """The images of a file, or those that this version's build tags.

    Raises:
        InputError: The file cannot be used.
    """
    return default_images() if file is None else read_images(file)


def _cpus(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if not 0.01 <= cpus <= 65536:
        raise InputError(f"--cpus: must be a number of processors such as 2 or 1.5, got {text!r}")
    return cpus
