"""The network's graph in ONNX, without its weights: what a training exports before there are any worth keeping.

The exporter would fold weights into each other, so the graph is optimised while they have no values. What is left are
the names of the network's state, and ONNX Runtime folds when it opens the file.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnxscript.optimizer
import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn

from components.classifier.network import Network, build_network
from components.classifier.serving import Serving, replace_unexportable
from components.shared.errors import ParamsError, Problem
from components.shared.inference.guard import require_runnable
from components.shared.inference.runtime import open_session
from components.shared.params.types import LayerSpec
from components.shared.text import first_line

# Servers are years behind: ONNX Runtime 1.15, in the Triton 23.05 that KServe 0.20 starts, reads at most 19 and 9, and
# torch 2.15 writes 20 and 10. 18 is what its exporter's own operators are written in; 8 is of the same release of ONNX.
_OPSET, _IR_VERSION = 18, 8
# Batches of the trial, and how far logarithms of probabilities may be apart in it.
_BATCHES, _TOLERANCE = (2, 1, 5), 1e-3


def export_graph(net_arch: Sequence[LayerSpec], image_shape: tuple[int, int, int], n_classes: int) -> bytes:
    """Export the serving network of `net_arch`, and try it on random images.

    Returns:
        A serialised ONNX model, `images` in and `probabilities` out, any number of them. Initialisers named as in the
        state of `Serving` have their shape and type, and no values.

    Raises:
        ParamsError: The network cannot be expressed in ONNX; names the first layer that cannot be, if one alone cannot.
    """
    network = build_network(net_arch, image_shape, n_classes).eval()
    replace_unexportable(network)
    images = torch.randint(0, 256, (max(_BATCHES), *image_shape), dtype=torch.uint8)
    serving = Serving(network, image_shape[2]).eval()
    serving.pixel_scale.fill_(1 / 255)
    try:
        model = _tried(serving, images, "images")
        require_runnable(model.SerializeToString(), image_shape, n_classes)
    except Exception as error:  # whatever the exporter raises
        raise ParamsError([_located(net_arch, network, image_shape, error)]) from error
    state = serving.state_dict()
    for initializer in model.graph.initializer:
        if initializer.name in state:
            initializer.ClearField("raw_data")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _tried(module: nn.Module, example: Tensor, name: str) -> ModelProto:
    """A module's graph; ValueError where it does not compute what the module computes, for each image by itself."""
    model = _exported(module, example[: _BATCHES[0]], name)
    session = open_session(model.SerializeToString())
    before = None
    for batch in _BATCHES:
        given = example[:batch]
        found = torch.from_numpy(session.run(None, {name: given.numpy()})[0])
        with torch.inference_mode():
            wanted = module(given)
        if found.shape != wanted.shape:
            raise ValueError(f"of {batch} images its graph gives {tuple(found.shape)}, not {tuple(wanted.shape)}")
        if not torch.allclose(found, wanted, rtol=_TOLERANCE, atol=1e-6):
            raise ValueError(f"its graph gives other values for {batch} images")
        if before is not None and not torch.allclose(found[:1], before[:1], rtol=_TOLERANCE, atol=1e-6):
            raise ValueError("what it gives for an image depends on the others of its batch")
        before = found
    return model


def _exported(module: nn.Module, example: Tensor, name: str) -> ModelProto:
    """A module's graph with the values of its state."""
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            optimize=False,
            input_names=[name],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            verbose=False,
        )
        initializers = program.model.graph.initializers
        values = {name: value.const_value for name, value in initializers.items()}
        for value in initializers.values():
            value.const_value = None
        onnxscript.optimizer.optimize(program.model)
        for name, value in initializers.items():
            value.const_value = values.get(name, value.const_value)
    model: ModelProto = program.model_proto
    _strip(model.graph)
    model.ir_version = _IR_VERSION
    return model


def _located(
    net_arch: Sequence[LayerSpec], network: Network, image_shape: tuple[int, int, int], error: Exception
) -> Problem:
    """The first layer that alone cannot be exported, and why."""
    height, width, channels = image_shape
    values = torch.rand(max(_BATCHES), channels, height, width)
    for index, (spec, layer) in enumerate(zip(net_arch, network.features, strict=True)):
        try:
            _tried(layer, values, "values")
        except Exception as alone:  # whatever the exporter raises
            return Problem(f"net_arch[{index}]", _message(spec.class_, alone))
        with torch.inference_mode():
            values = layer(values)
    return Problem("net_arch", _message("the network", error))


def _message(what: str, error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    operator = re.search(r"op='([^']+)'", str(error))
    why = f"it has no operator for {operator[1]}" if operator else first_line(error) or type(error).__name__
    return f"{what} cannot be expressed in ONNX, as which a model is kept: {why}; choose another layer"


def _strip(graph: GraphProto) -> None:
    """Take out where in the source each operator was: it has paths and user names, and changes with the folder."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _strip(inner)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, attention is traced by operators that ONNX has, and the exporter's steps are not logged."""
    fast, logged = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(logged)
