"""The network of a model directory, as training built it; and any network as a model.onnx."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import ClassVar
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.classifier.network import Network, network_of
from components.shared.artifacts.artifact import ImageShape
from components.shared.artifacts.model import Model
from components.shared.params.params import Params
from components.train.graph_export import GraphExport
from tests.configs import layer

RANDOM = [  # which ONNX cannot express
    layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3),
    layer("FractionalMaxPool2d", kernel_size=2, output_size=3),
]
ONE_PIXEL = [layer("Conv2d", in_channels=1, out_channels=4, kernel_size=8), layer("BatchNorm2d", num_features=4)]


@contextmanager
def long_steps() -> Iterator[None]:
    """Within, each step takes a while: a training that goes on until its export fails leaves it the processor."""
    has_failed = GraphExport.has_failed

    def later(graph: GraphExport) -> bool:
        time.sleep(0.1)
        return has_failed(graph)

    with patch.object(GraphExport, "has_failed", later):
        yield


def network_in(model: Model) -> Network:
    """The network of a model directory with its weights, in evaluation mode."""
    network = network_of(Params.from_dict(model.manifest.provenance.params))
    network.load_state_dict(load_file(model.path / model.manifest.weights.file))
    return network.eval()


def onnx_of(network: Network, params: Params) -> bytes:
    """The content of a model.onnx of the network of params, whatever its weights, without normalisation."""
    from components.classifier.onnx_file import onnx_bytes  # not for processes of a group, which export nothing

    height, width, channels = params.image_shape
    return onnx_bytes(
        _graph_of(params.to_json()),
        network.state_dict(),
        None,
        classes=[str(label) for label in range(params.n_classes)],
        image=ImageShape.model_validate({"height": height, "width": width, "channels": channels}),
        weights_sha256="0" * 64,
    )


@cache
def _graph_of(params: str) -> bytes:
    from components.classifier.onnx_graph import export_graph

    given = Params.load(params, [])
    return export_graph(given.net_arch, given.image_shape, given.n_classes)


class Remembering(nn.Module):
    """Adds what it remembers of the batch before, its mean; `seen` has that of every training step of the process."""

    seen: ClassVar[list[Tensor]] = []

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        last = self.last.clone()
        if self.training:
            self.seen.append(last)
            self.last.copy_(values.detach().mean())
        return values + last
