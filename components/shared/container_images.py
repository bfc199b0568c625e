"""Names of the container images, one per step, and the file in which a build of them says what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from components.shared.errors import InputError
from components.shared.strict_json import read_json
from components.shared.text import shortened
from components.shared.version import __version__

ImageStep = Literal["data-prep", "train", "train-job", "evaluate", "predict"]
IMAGE_STEPS: tuple[ImageStep, ...] = get_args(ImageStep)
# What the pipeline starts; predict is a component for pipelines of one's own.
PIPELINE_IMAGES: tuple[ImageStep, ...] = ("data-prep", "train", "evaluate")
# And where several nodes train.
NODES_IMAGES: tuple[ImageStep, ...] = (*PIPELINE_IMAGES, "train-job")

# HOST[:PORT]/NAME[:TAG][@DIGEST]; nothing before the host, where a login would stand.
_REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._/:-]*(@sha256:[0-9a-f]{64})?$"
_ID = r"^sha256:[0-9a-f]{64}$"
_ALLOWED = {"reference": "must be NAME:TAG or NAME@sha256:…, with no login before it", "id": "must be sha256:…"}


class Image(BaseModel):
    """One image: what an engine or a cluster finds it by, and the id that the engine which built it gave it."""

    model_config = ConfigDict(frozen=True)

    reference: Annotated[str, Field(pattern=_REFERENCE)]
    id: Annotated[str, Field(pattern=_ID)] | None = None

    @property
    def is_pullable(self) -> bool:
        """Whether the reference begins with the host of a registry, so that an engine can fetch it from there."""
        host, slash, _ = self.reference.partition("/")
        return bool(slash) and (host == "localhost" or "." in host or ":" in host)


class _Built(Image):
    id: Annotated[str, Field(pattern=_ID)]


class _Build(BaseModel):
    schema_version: Literal[1]
    version: str
    images: dict[str, _Built]


def image_of(step: ImageStep) -> str:
    """The image of a step, tagged with the version; the exit step runs on data-prep's, publish on evaluate's."""
    return f"shutterline/{step}:{__version__}"


def images_named_by(file: Path | None, steps: tuple[ImageStep, ...] = PIPELINE_IMAGES) -> dict[ImageStep, Image]:
    """The images of the pipeline that a build wrote to a file, or those that this version's build tags.

    Args:
        file: JSON: ``{"schema_version": 1, "version": …, "images": {"train": {"reference": …, "id": …}, …}}``.
        steps: Whose images the pipeline starts.

    Raises:
        InputError: The file cannot be read, is of another version, or lacks a step.
    """
    if file is None:
        return {step: Image(reference=image_of(step)) for step in steps}
    try:
        build = _Build.model_validate(read_json(file), strict=True)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'the document'}: {_message(first)}"
    except ValueError as error:  # of JSON, or of UTF-8
        problem = f"is not JSON: {error}"
    else:
        missing = [step for step in steps if step not in build.images]
        if build.version == __version__ and not missing:
            return {step: build.images[step] for step in steps}
        problem = f"names no image of {', '.join(missing)}"
        if build.version != __version__:
            problem = f"is of version {build.version!r}, and this is Shutterline {__version__}"
    raise InputError(f"--images {file}: {problem}; `make images` writes such a file")


def _message(error: ErrorDetails) -> str:
    if error["type"] == "string_pattern_mismatch":
        return _ALLOWED[str(error["loc"][-1])]
    return shortened(error["msg"], 150)
