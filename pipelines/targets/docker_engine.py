"""A Docker engine, asked before a run starts whether it can do what the run needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import docker
import requests

from components.shared.container_images import Image, ImageStep
from components.shared.errors import DeviceError, InputError, causes_of

ENGINE_ERRORS = (docker.errors.DockerException, requests.RequestException)
# Networks that are modes of a container, and so are not in the engine's list.
_MODES = ("none", "host", "bridge", "default")
_UNREACHABLE = {
    FileNotFoundError: "there is no such socket; is Docker running? DOCKER_HOST names another engine",
    PermissionError: "its socket may not be used; are you in the group docker? (`sudo usermod -aG docker $USER`, "
    "and log in again)",
    ConnectionRefusedError: "nobody listens there; is Docker running?",
}


@contextmanager
def connected() -> Iterator[tuple[docker.DockerClient, dict[str, Any]]]:
    """Within, a client of the engine that ``DOCKER_HOST`` or Docker's context names, and what that says of itself.

    Raises:
        InputError: No engine answers.
    """
    client = None
    try:
        try:
            client = docker.from_env()
            info = client.info()
        except (*ENGINE_ERRORS, OSError, ValueError) as error:
            known = (why for cause in causes_of(error) for kind, why in _UNREACHABLE.items() if isinstance(cause, kind))
            why = next(known, f"{explained(error)}; is Docker running, and is DOCKER_HOST right?")
            where = os.environ.get("DOCKER_HOST") or "its usual location"
            raise InputError(f"--runner docker: no Docker engine answers at {where}: {why}") from error
        yield client, info
    finally:
        if client is not None:
            client.close()


def check_network(client: docker.DockerClient, name: str | None) -> None:
    """Require that a network is there, or raise an InputError."""
    if name is None or name in _MODES or name.startswith("container:"):
        return
    try:
        client.networks.get(name)
    except docker.errors.NotFound as error:
        known = ", ".join(sorted(network.name for network in client.networks.list()))
        raise InputError(f"--network {name}: the Docker engine has no such network; it has {known}") from error


def check_images(client: docker.DockerClient, images: Mapping[ImageStep, Image], log: Callable[[str], object]) -> None:
    """Require every image; those that a registry has are fetched, with a line to `log` each.

    Raises:
        InputError: One is not there, or is not the one that was built.
    """
    missing = []
    for step, image in images.items():
        here = None
        with suppress(docker.errors.ImageNotFound):
            here = str(client.images.get(image.reference).id)
        if here is None and image.is_pullable:
            log(f"fetching {image.reference}")
            try:
                here = str(client.images.pull(image.reference).id)
            except ENGINE_ERRORS as error:
                raise InputError(
                    f"the image {image.reference} is not here and cannot be fetched: {explained(error)}; "
                    "is its name right, and is this engine logged in (`docker login`)?"
                ) from error
        if here is None:
            missing.append(image.reference)
        # A name with a digest cannot mean another image, and engines do not all call the same one by the same id.
        elif image.id not in (None, here) and not image.is_pullable and "@" not in image.reference:
            raise InputError(
                f"the image {image.reference} of {step} is another one than --images names: {here}, "
                f"not {image.id}; build the images again by `make images`"
            )
    if missing:
        raise InputError(
            f"the Docker engine has no image {' and no image '.join(dict.fromkeys(missing))}; "
            "`make images` builds them, and --images names others"
        )


def gpus_for(
    client: docker.DockerClient, info: Mapping[str, Any], wanted: str, device: str, image: str
) -> docker.types.DeviceRequest | None:
    """The device request of steps that use a GPU, by ``--gpus`` and the params' device; None: they get none.

    Whether ``all`` can be had shows by starting a container of `image`.

    Raises:
        DeviceError: A GPU is asked for, and there will be none.
    """
    every, offered = docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]]), None  # docker run --gpus all
    if "nvidia" in info.get("Runtimes", {}):
        offered = every
    elif any(str(each.get("ID", "")).startswith("nvidia.com/gpu=") for each in info.get("DiscoveredDevices") or []):
        offered = docker.types.DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"])
    needed = device.startswith("cuda")
    if wanted == "all":
        _start_with_gpus(client, image, offered or every)
        return offered or every
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


def _start_with_gpus(client: docker.DockerClient, image: str, request: Any) -> None:
    """Require that the engine gives a container GPUs, by starting one that does nothing, or raise a DeviceError."""
    container = None
    try:
        container = client.containers.create(image, ["true"], entrypoint="", network="none", device_requests=[request])
        container.start()
    except ENGINE_ERRORS as error:
        raise DeviceError(
            f"--gpus all: the Docker engine gives no GPU: {explained(error)}; is the NVIDIA driver installed, and "
            "the NVIDIA Container Toolkit?"
        ) from error
    finally:
        if container is not None:
            container.remove(force=True)


def is_set_up_as(info: Mapping[str, Any], option: str) -> bool:
    """Whether an engine runs with a security option such as ``rootless``, ``userns`` or ``selinux``."""
    return any(f"name={option}" in each.split(",") for each in info.get("SecurityOptions") or [])


def explained(error: BaseException) -> str:
    """An engine's message in one line, without the address of the request around it."""
    text = str(getattr(error, "explanation", None) or error)
    return " ".join(text.split()).removesuffix(".")
