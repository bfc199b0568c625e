"""The rules ``unpinned-image`` and ``local-image``: what is run tomorrow is what was tried today."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.compiled import PLACEHOLDER
from pipelines.lint.finding import Note, error, warning
from pipelines.lint.view import Executor, View

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_TAG = re.compile(r":([A-Za-z0-9_][A-Za-z0-9._-]{0,127})$")
# Steps that KFP's driver does itself and for which no container is started.
MAKES_A_CLAIM = "argostub/createpvc"
DRIVER_OPERATIONS = (MAKES_A_CLAIM, "argostub/deletepvc")


def _images(view: View) -> Iterator[tuple[Executor, str, str]]:
    for executor in view.containers:
        if not PLACEHOLDER.search(executor.image) and executor.image not in DRIVER_OPERATIONS:
            yield executor, f"{executor.container_where}.image", executor.image


def _shown(image: str) -> str:
    """An image's name for messages: what stands before an @ may be somebody's login."""
    return image if _DIGEST.search(image) else re.sub(r".*@(?!sha256:)", "…@", image)


def unpinned_image(view: View) -> Iterator[Note]:
    """Images without a digest.

    ``latest`` or no tag at all is an error: another image may run tomorrow, or, from a cache, yesterday's. A version's
    tag is a warning: it may be moved.
    """
    advice = "name it by its digest, NAME@sha256:…; `shutterline compile --images` takes the digests of a build"
    for _, where, image in _images(view):
        if not image:
            yield error(where, "the container has no image", "name one by its digest")
        elif not _REFERENCE.fullmatch(image):
            yield error(where, f"{_shown(image)} is no name of an image", "a name is HOST/NAME@sha256:…")
        elif _DIGEST.search(image):
            continue
        elif "@" in image:
            yield error(where, f"{_shown(image)} has no valid digest", "a digest is sha256: and 64 hexadecimal digits")
        elif (tag := _TAG.search(image.rpartition("/")[2])) is None:
            yield error(where, f"{image} has neither tag nor digest, so it is whatever latest is then", advice)
        elif tag[1] == "latest":
            yield error(where, f"{image} is whatever was pushed last", advice)
        else:
            yield warning(where, f"{image} has a tag, which may be moved, and no digest", advice)


def local_image(view: View) -> Iterator[Note]:
    """Images that a cluster hardly can pull: of this machine, or without a registry's host.

    Names without a slash, such as ``python:3.11``, are official ones of Docker Hub and are let be.
    """
    for _, where, image in _images(view):
        host, slash, _ = image.partition("/")
        if host.split(":")[0] in ("localhost", "127.0.0.1"):
            yield error(
                where,
                f"{_shown(image)} is looked for on the machine that the step runs on",
                "push the image to a registry that the platform reaches, and name it by that",
            )
        elif slash and "." not in host and ":" not in host:
            yield warning(
                where,
                f"{_shown(image)} names no registry, so it is looked for on Docker Hub",
                "where only this machine has it, push it to a registry and name it by that: "
                "HOST/NAME@sha256:…; docker.io/ in front of it says that Docker Hub is meant",
            )
