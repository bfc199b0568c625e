"""The rules ``unpinned-image`` and ``local-image``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pipelines.lint.findings import Note, Severity

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_TAG = re.compile(r":([A-Za-z0-9_][A-Za-z0-9._-]{0,127})$")


def unpinned_images(images: Iterable[tuple[str, str]]) -> Iterator[Note]:
    """What is whatever was pushed last; images are given by their path in the file."""
    advice = "name it by its digest, NAME@sha256:…; `shutterline compile --images` takes the digests of a build"
    for where, image in images:
        tag, message = _TAG.search(image.rpartition("/")[2]), ""
        severity: Severity = "error"
        if not image:
            message = "the container has no image"
        elif not _REFERENCE.fullmatch(image):
            message = "no name of an image"
        elif "@" in image:
            message = "" if _DIGEST.search(image) else "no valid digest, which is sha256: and 64 hexadecimal digits"
        elif tag is None or tag[1] == "latest":
            message = "without a tag or with latest, it is whatever was pushed last"
        else:
            severity, message = "warning", "the image has a tag, which may be moved, and no digest"
        if message:
            yield Note(severity, where, message, advice, _shown(image))


def local_images(images: Iterable[tuple[str, str]]) -> Iterator[Note]:
    """What a cluster hardly can pull."""
    advice = "push the image to a registry that the platform reaches, and name it by that: HOST/NAME@sha256:…"
    for where, image in images:
        host, slash, _ = image.partition("/")
        if host.split(":")[0] in ("localhost", "127.0.0.1"):
            yield Note(
                "error", where, "the image is looked for on the machine that the step runs on", advice, _shown(image)
            )
        elif slash and "." not in host and ":" not in host:  # python:3.11 and the like are Docker Hub's own
            hub = f"{advice}; docker.io/ in front of it says that Docker Hub is meant"
            yield Note(
                "warning", where, "the image names no registry, so it is looked for on Docker Hub", hub, _shown(image)
            )


def _shown(image: str) -> str:
    """An image's name for messages: what stands before an @ may be somebody's login."""
    return image if _DIGEST.search(image) else re.sub(r".*@(?!sha256:)", "…@", image)
