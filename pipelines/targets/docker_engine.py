"""A Docker engine, asked before a run starts whether it can do what the run needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import docker
import requests

from components.shared.errors import DeviceError, InputError, causes_of
from components.shared.images import Image, ImageStep

# Networks that are modes of a container, and so are not in the engine's list.
_MODES = ("none", "host", "bridge", "default")


class Engine:
    """A connected engine: Docker's client, as kfp makes it, and what the engine reports of itself."""

    def __init__(self, client: docker.DockerClient, info: Mapping[str, Any]) -> None:
        self.client = client
        self.info = info

    def check_network(self, name: str | None) -> None:
        """Require that a network is there, or raise an InputError."""
        if name is None or name in _MODES or name.startswith("container:"):
            return
        try:
            self.client.networks.get(name)
        except docker.errors.NotFound as error:
            known = ", ".join(sorted(network.name for network in self.client.networks.list()))
            raise InputError(f"--network {name}: the Docker engine has no such network; it has {known}") from error

    def check_images(self, images: Mapping[ImageStep, Image], log: Callable[[str], None]) -> None:
        """Require every image; those that a registry has are fetched, with a line to `log` each.

        Raises:
            InputError: One is not there, or is not the one that was built.
        """
        missing = []
        for step, image in images.items():
            here = self._id_of(image.reference)
            if here is None and image.is_pullable:
                log(f"fetching {image.reference}")
                here = self._pulled(image.reference)
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

    def _id_of(self, reference: str) -> str | None:
        with suppress(docker.errors.ImageNotFound):
            return str(self.client.images.get(reference).id)
        return None

    def _pulled(self, reference: str) -> str:
        try:
            return str(self.client.images.pull(reference).id)
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise InputError(
                f"the image {reference} is not here and cannot be fetched: {explained(error)}; "
                "is its name right, and is this engine logged in (`docker login`)?"
            ) from error

    def gpus(self) -> Any | None:
        """The device request for this engine's GPUs, as it is configured; None: it offers none."""
        if "nvidia" in self.info.get("Runtimes", {}):
            return all_gpus()
        found = self.info.get("DiscoveredDevices") or []
        if any(str(device.get("ID", "")).startswith("nvidia.com/gpu=") for device in found):
            return docker.types.DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"])
        return None

    def check_gpu(self, image: str, request: Any) -> None:
        """Require that the engine gives a container GPUs, by starting one that does nothing, or raise a DeviceError."""
        container = None
        try:
            container = self.client.containers.create(
                image, ["true"], entrypoint="", network="none", device_requests=[request]
            )
            container.start()
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise DeviceError(
                f"--gpus all: the Docker engine gives no GPU: {explained(error)}; is the NVIDIA driver installed, and "
                "the NVIDIA Container Toolkit?"
            ) from error
        finally:
            if container is not None:
                container.remove(force=True)

    def is_set_up_as(self, option: str) -> bool:
        """Whether it runs with a security option such as ``rootless``, ``userns`` or ``selinux``."""
        return any(f"name={option}" in said.split(",") for said in self.info.get("SecurityOptions") or [])


def all_gpus() -> Any:
    """What ``docker run --gpus all`` asks for."""
    return docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])


@contextmanager
def connected() -> Iterator[Engine]:
    """Within, the engine that ``DOCKER_HOST`` or Docker's current context names.

    Raises:
        InputError: No engine answers.
    """
    client = None
    try:
        try:
            client = docker.from_env()
            engine = Engine(client, client.info())
        except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
            where = os.environ.get("DOCKER_HOST") or "its usual location"
            raise InputError(
                f"--runner docker: no Docker engine answers at {where}: {_why_unreachable(error)}"
            ) from error
        yield engine
    finally:
        if client is not None:
            client.close()


def _why_unreachable(error: BaseException) -> str:
    reasons = {
        FileNotFoundError: "there is no such socket; is Docker running? DOCKER_HOST names another engine",
        PermissionError: "its socket may not be used; are you in the group docker? (`sudo usermod -aG docker $USER`, "
        "and log in again)",
        ConnectionRefusedError: "nobody listens there; is Docker running?",
    }
    causes = list(causes_of(error))
    for kind, why in reasons.items():
        if any(isinstance(cause, kind) for cause in causes):
            return why
    return f"{explained(error)}; is Docker running, and is DOCKER_HOST right?"


def explained(error: BaseException) -> str:
    """An engine's message in one line, without the address of the request around it."""
    text = str(getattr(error, "explanation", None) or error)
    return " ".join(text.split()).removesuffix(".")
