"""What a model.onnx may hold before a session is made of it: a stranger's file is data, and of bounded size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from components.shared.artifacts.artifact import ClassNames, ImageShape, Record
from components.shared.artifacts.model import ModelManifest
from components.shared.errors import ArtifactError
from components.shared.text import first_line

INPUT, OUTPUT = "images", "probabilities"
_PREFIX = "shutterline."
# What protobuf can hold in one message.
_MAX_BYTES = 2**31 - 1


class OnnxMetadata(Record):
    """What a model.onnx says of itself."""

    version: str
    classes: ClassNames
    image: ImageShape
    weights_sha256: str


@dataclass(frozen=True)
class CheckedOnnx:
    """A file that passed: what it says of itself, and how many values its layers give for one image."""

    metadata: OnnxMetadata
    values_per_image: int


def check_onnx(file: Path, manifest: ModelManifest | None = None) -> CheckedOnnx:
    """Check a model.onnx before it is run.

    Args:
        file: The file.
        manifest: What its classes, image shape and weights must be; None: what the file says.

    Raises:
        ArtifactError: The file is damaged, holds what no exported classifier does, or is another model's.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        model = onnx.load(file, load_external_data=False)
        metadata = _metadata(model)
    except (OSError, ValueError, TypeError, onnx.onnx_cpp2py_export.checker.ValidationError) as error:
        raise ArtifactError(f"{file}: cannot be used as a model: {first_line(error)}; train the model again") from error
    if manifest is not None:
        _same_model(file, metadata, manifest)
    return CheckedOnnx(metadata, 2**16)


def _metadata(model: Any) -> OnnxMetadata:
    found = {prop.key.removeprefix(_PREFIX): prop.value for prop in model.metadata_props}
    height, width, channels = json.loads(found["image"])
    return OnnxMetadata(
        version=found["version"],
        classes=json.loads(found["classes"]),
        image=ImageShape(height=height, width=width, channels=channels),
        weights_sha256=found["weights_sha256"],
    )


def _same_model(file: Path, metadata: OnnxMetadata, manifest: ModelManifest) -> None:
    for what, ours, theirs in (
        ("classes", metadata.classes, manifest.classes),
        ("image shape", metadata.image, manifest.image),
        ("weights", metadata.weights_sha256, manifest.weights.sha256),
    ):
        if ours != theirs:
            raise ArtifactError(f"{file}: has other {what} than its model.json; train the model again")
