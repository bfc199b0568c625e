"""Small real model.onnx files, and model directories around them, made without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

from components.shared.artifacts.artifact import ArtifactWriter, ImageShape
from components.shared.artifacts.model import MODEL, Model, open_model
from components.shared.version import __version__
from tests.train.manifests import history_of, manifest_of

CLASSES = ["cat", "dog", "eel"]
SHAPE = (8, 8, 3)
WEIGHTS = b"weights"


def onnx_model(
    classes: Sequence[str] = CLASSES,
    shape: tuple[int, int, int] = SHAPE,
    *,
    nodes: Sequence[onnx.NodeProto] | None = None,
    initialisers: Sequence[onnx.TensorProto] = (),
    metadata: dict[str, str] | None = None,
    stored: tuple[int, int, int] | None = None,
    opset: int = 20,
    seed: int = 0,
) -> onnx.ModelProto:
    """A classifier: a convolution, the mean over the image, a linear layer and softmax; or the nodes given."""
    height, width, channels = shape
    random = np.random.default_rng(seed)
    weights = {
        "scale": np.array(1 / 255, np.float32),
        "kernel": random.normal(size=(8, channels, 3, 3)).astype(np.float32),
        "linear": random.normal(size=(len(classes), 8)).astype(np.float32),
        "bias": random.normal(size=len(classes)).astype(np.float32),
    }
    default = [
        make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        make_node("Mul", ["floats", "scale"], ["scaled"]),
        make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        make_node("Conv", ["planes", "kernel"], ["features"], pads=[1, 1, 1, 1]),
        make_node("Relu", ["features"], ["active"]),
        make_node("GlobalAveragePool", ["active"], ["means"]),
        make_node("Flatten", ["means"], ["flat"]),
        make_node("Gemm", ["flat", "linear", "bias"], ["logits"], transB=1),
        make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        default if nodes is None else nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", height, width, channels])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(classes)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()] + list(initialisers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    helper.set_model_props(model, metadata_of(classes, shape, stored=stored) if metadata is None else metadata)
    return model


def metadata_of(
    classes: Sequence[str] = CLASSES,
    shape: tuple[int, int, int] = SHAPE,
    weights: bytes = WEIGHTS,
    stored: tuple[int, int, int] | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    return {
        **{f"shutterline.{name}": value for name, value in more.items()},
        "shutterline.version": __version__,
        "shutterline.classes": json.dumps(list(classes), ensure_ascii=False),
        "shutterline.image": json.dumps(shape),
        "shutterline.weights_sha256": hashlib.sha256(weights).hexdigest(),
        **({"shutterline.stored_image": json.dumps(stored)} if stored else {}),
    }


def write_onnx_directory(path: Path, content: bytes | None = None, **changes: Any) -> Model:
    """A model directory whose model.onnx holds `content`; changes are those of `onnx_model` or of the manifest."""
    names, stored = changes.pop("classes", CLASSES), changes.pop("stored", None)
    shape = changes.pop("shape", SHAPE)
    if content is None:
        content = onnx_model(names, shape, stored=stored).SerializeToString(deterministic=True)
    with ArtifactWriter(path, MODEL) as writer:
        records = {}
        for name, data in (("model.safetensors", WEIGHTS), ("model.onnx", content)):
            file = writer.new_file(name)
            file.write_bytes(data)
            records[name] = writer.record(file)
        manifest = manifest_of(history_of(3), weights=records["model.safetensors"], onnx=records["model.onnx"])
        image, stored_image = (
            each and ImageShape(height=each[0], width=each[1], channels=each[2]) for each in (shape, stored)
        )
        fields = {"classes": names, "image": image, "stored_image": stored_image, **changes}
        writer.commit(manifest.model_copy(update=fields))
    return open_model(path, lambda manifest: [manifest.onnx] if manifest.onnx else [])
