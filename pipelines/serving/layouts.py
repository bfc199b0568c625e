"""What servers read beside a model.onnx: Triton's model repository, and the service that KServe starts it for.

KServe's stock runtime for ONNX is Triton, which it gives the whole repository, so that both layouts are one::

    NAME/config.pbtxt         inputs, outputs, batching
    NAME/labels.txt           a class a line, in the order of the probabilities
    inference-service.yaml    for KServe alone
    NAME/VERSION/model.onnx   written last: without it the version is not there
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from components.shared.artifacts.model import ONNX_FILE, ModelManifest
from components.shared.cropping import central_start
from components.shared.errors import InputError
from components.shared.strict_yaml import Dumper
from components.shared.text import shortened
from components.shared.version import __version__

LayoutName = Literal["triton", "kserve"]
SERVICE_FILE = "inference-service.yaml"
LABELS_FILE, CONFIG_FILE = "labels.txt", "config.pbtxt"
# What a repository of ours is known by.
MARK = "# Written by shutterline export"
# Begins what clients of a model rely on, to the end of the file.
_INTERFACE = "\ninput ["
_CONFIG = """{mark} {version}.
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {max_batch}
dynamic_batching {{ }}
input [
  {{
    name: "images"
    data_type: TYPE_UINT8
    dims: [ {height}, {width}, {channels} ]
  }}
]
output [
  {{
    name: "probabilities"
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: "{labels}"
  }}
]
"""
# What clients must do first, where it is not to resize images to the model's size. Triton hands parameters to clients.
_PARAMETER = """parameters {{
  key: "shutterline.{name}"
  value: {{ string_value: "{text}" }}
}}
"""
_TRITON_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# KServe's pattern; of its host names' 63 characters "-predictor-00001" takes 16.
_KSERVE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")
# Nothing before the host, where a login would stand.
_STORAGE_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\s@?#]+")


@dataclass(frozen=True)
class Repository:
    """What is to be written of one version of a model.

    Attributes:
        name: Of the model in the server.
        version: From 1 on; a server starts the highest.
        beside: Files by name that every version shares.
    """

    name: str
    version: int
    beside: dict[str, bytes]

    @property
    def model_file(self) -> str:
        """Name of the model's own file."""
        return f"{self.name}/{self.version}/{ONNX_FILE}"


def repository(
    manifest: ModelManifest, layout: LayoutName, name: str, version: int, max_batch: int, storage_uri: str | None
) -> Repository:
    """The files of a layout for a model.

    Args:
        manifest: Of the model.
        layout: The server.
        name: Name of the model in the server, and for KServe of the service.
        version: From 1 on.
        max_batch: Most images in one batch, of one request or of several that the server joins.
        storage_uri: Where KServe finds the repository; None: not known, which Triton does not need.

    Raises:
        InputError: The name is none that the server allows, or KServe lacks the address of the repository.
    """
    if layout == "triton" and _TRITON_NAME.fullmatch(name) is None:
        wanted = "must be up to 100 letters, digits, '.', '_' or '-', the first no sign"
        raise InputError(f"--name {shortened(name)}: {wanted}")
    config = _CONFIG.format(
        mark=MARK,
        version=__version__,
        name=name,
        max_batch=max_batch,
        **manifest.image.model_dump(),
        classes=len(manifest.classes),
        labels=LABELS_FILE,
    )
    if manifest.stored_image is not None:
        config += _PARAMETER.format(name="stored_image", text=json.dumps(manifest.stored_image.as_tuple()))
    if manifest.image_fit != "stretch":
        config += _PARAMETER.format(name="image_fit", text=manifest.image_fit)
    if manifest.image_interpolation != "bilinear":
        config += _PARAMETER.format(name="image_interpolation", text=manifest.image_interpolation)
    labels = "".join(f"{label}\n" for label in manifest.classes)
    beside = {f"{name}/{LABELS_FILE}": labels.encode(), f"{name}/{CONFIG_FILE}": config.encode()}
    if layout == "kserve":
        service = yaml.dump(_service(name, storage_uri), Dumper=Dumper, sort_keys=False)
        beside[SERVICE_FILE] = f"{MARK} {__version__}.\n{service}".encode()
    return Repository(name, version, beside)


def _service(name: str, storage_uri: str | None) -> dict[str, Any]:
    if _KSERVE_NAME.fullmatch(name) is None:
        raise InputError(
            f"--name {shortened(name)}: for KServe must be up to 47 small letters, digits or '-', beginning with a "
            "letter and not ending with '-'"
        )
    if storage_uri is None:
        raise InputError(
            "--layout kserve: say by --storage-uri where the cluster finds the repository, such as "
            "pvc://CLAIM/FOLDER, or write it to a bucket by -o gs://… or s3://…"
        )
    if _STORAGE_URI.fullmatch(storage_uri) is None:
        raise InputError(
            "--storage-uri: must be such as gs://BUCKET/FOLDER, s3://BUCKET/FOLDER or pvc://CLAIM/FOLDER, with no login"
        )
    # By name, as OpenVINO's runtime takes ONNX, too, and wants other folders.
    model = {
        "modelFormat": {"name": "onnx", "version": "1"},
        "protocolVersion": "v2",
        "runtime": "kserve-tritonserver",
        "storageUri": storage_uri,
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"model": model}},
    }


def advice_for_clients(manifest: ModelManifest) -> str:
    """What clients do with an image before they send it, in one line; empty where they only resize it."""
    image, stored = manifest.image, manifest.resized
    fit, interpolation = manifest.image_fit, manifest.image_interpolation
    how = {
        "stretch": "resize images to",
        "crop": "scale images to cover, and keep the middle of,",
        "pad": "scale images to lie within, and surround with alpha_background,",
    }[fit]
    if stored == image and fit == "stretch" and interpolation == "bilinear":
        return ""
    if stored == image:
        return f"clients {how} {image.height}×{image.width} (height×width), by {interpolation} interpolation"
    top, left = central_start(stored.height, image.height), central_start(stored.width, image.width)
    return (
        f"clients {how} {stored.height}×{stored.width} (height×width) and send the middle "
        f"{image.height}×{image.width} of each, from row {top} and column {left} on, counted from 0"
    )


def interface(config: bytes) -> bytes:
    """What of a config.pbtxt of ours clients rely on: names, types and shapes of what goes in and comes out."""
    return config[config.find(_INTERFACE.encode()) :]
