"""The network as ONNX: one graph from stored images to class probabilities, for any batch size.

Input `images`, uint8 (batch, height, width, channels); output `probabilities`, float32 (batch, classes).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from onnx import GraphProto, ModelProto

from components.classifier.export import Serving
from components.classifier.network import Network
from components.shared.artifacts.artifact import ImageShape, Normalisation
from components.shared.version import __version__

# Servers are years behind: ONNX Runtime 1.15, in the Triton 23.05 that KServe 0.20 starts, reads at most 19 and 9, and
# torch 2.15 writes 20 and 10. 18 is what its exporter's own operators are written in; 8 is of the same release of ONNX.
_OPSET, _IR_VERSION = 18, 8


def export_onnx(network: Network, image: ImageShape, normalisation: Normalisation | None) -> ModelProto:
    """The graph of a network on the CPU, which is left in evaluation mode, with its weights under their own names."""
    serving = Serving(network, normalisation).eval()
    example = torch.zeros(2, *image.as_tuple(), dtype=torch.uint8)
    fast, logged = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    logging.disable()  # the exporter's own steps
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
            torch.backends.mha.set_fastpath_enabled(False)  # attention by operators that ONNX has
            program: Any = torch.onnx.export(
                serving,
                (example,),
                dynamo=True,
                optimize=False,  # which would fold weights into each other, and rename them
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=_OPSET,
                verbose=False,
            )
        model: ModelProto = program.model_proto
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(logged)
    _strip(model.graph)
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version = "shutterline", __version__
    return model


def onnx_bytes(model: ModelProto, classes: Sequence[str], image: ImageShape, weights_sha256: str) -> bytes:
    """The file of a graph, with what a reader needs to know of it as its metadata."""
    del model.metadata_props[:]
    for name, value in (
        ("version", __version__),
        ("classes", json.dumps(list(classes), ensure_ascii=False)),
        ("image", json.dumps(image.as_tuple())),
        ("weights_sha256", weights_sha256),
    ):
        model.metadata_props.add(key=f"shutterline.{name}", value=value)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _strip(graph: GraphProto) -> None:
    """Take out where in the source each operator was: it tells paths and user names, and changes with the folder."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _strip(inner)
