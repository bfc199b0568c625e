"""Names of the container images, one per step, and the file in which a build of them says what it made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from components.shared.errors import InputError
from components.shared.strict_json import read_json
from components.shared.version import __version__

ImageStep = Literal["data-prep", "train", "evaluate"]
IMAGE_STEPS: tuple[ImageStep, ...] = get_args(ImageStep)

_SCHEMA_VERSION = 1
_ID = re.compile(r"sha256:[0-9a-f]{64}")
# HOST[:PORT]/NAME[:TAG][@DIGEST]; nothing before the host, where a login would stand.
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*(@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        reference: What an engine or a cluster finds it by: a tag, or a name with a digest.
        id: The id that the engine which built it gave it, ``sha256:…``; None where only the reference is known.
    """

    reference: str
    id: str | None = None

    @property
    def is_pullable(self) -> bool:
        """Whether the reference begins with the host of a registry, so that an engine can fetch it from there."""
        host, slash, _ = self.reference.partition("/")
        return bool(slash) and (host == "localhost" or "." in host or ":" in host)


def image_of(step: ImageStep) -> str:
    """The image of a step, tagged with the version; the exit step runs on the smallest, data-prep's."""
    return f"shutterline/{step}:{__version__}"


def default_images() -> dict[ImageStep, Image]:
    """The images as a build tags them where nothing else is said."""
    return {step: Image(image_of(step)) for step in IMAGE_STEPS}


def images_named_by(file: Path | None) -> dict[ImageStep, Image]:
    """The images that a build wrote to a file, or those that this version's build tags; errors as of `read_images`."""
    return default_images() if file is None else read_images(file)


def read_images(file: Path) -> dict[ImageStep, Image]:
    """The images that a build wrote to a file.

    Args:
        file: JSON: ``{"schema_version": 1, "version": …, "images": {"train": {"reference": …, "id": …}, …}}``.

    Raises:
        InputError: The file cannot be read, is of another version, or lacks a step.
    """

    def refuse(why: str) -> InputError:
        return InputError(f"--images {file}: {why}; `make images` writes such a file")

    try:
        document = read_json(file)
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise refuse(f"is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("images"), dict):
        raise refuse('holds no mapping with "images"')
    if document.get("schema_version") != _SCHEMA_VERSION:
        raise refuse(f'must have "schema_version": {_SCHEMA_VERSION}, got {document.get("schema_version")!r}')
    if document.get("version") != __version__:
        raise refuse(f"is of version {document.get('version')!r}, and this is Shutterline {__version__}")
    if missing := [step for step in IMAGE_STEPS if step not in document["images"]]:
        raise refuse(f"names no image of {', '.join(missing)}")
    images: dict[ImageStep, Image] = {}
    for step in IMAGE_STEPS:
        image = _image(document["images"][step])
        if image is None:
            raise refuse(f'images.{step} must be {{"reference": "…", "id": "sha256:…"}}')
        images[step] = image
    return images


def _image(entry: Any) -> Image | None:
    if not isinstance(entry, Mapping):
        return None
    reference, identity = entry.get("reference"), entry.get("id")
    if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
        return None
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        return None
    return Image(reference, identity)
