"""Layer tables that are made without data are those of real images, and of torch's own functions where those object."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from components.classifier.network import build_network, examine
from components.shared.params.types import LayerSpec
from tests.classifier.test_backbones import backbone
from tests.classifier.test_onnx_graph import NETWORKS

BACKBONES = ("efficientnet_b0", "resnet18")
CASES = NETWORKS | {name: [backbone(name)] for name in BACKBONES}


@pytest.mark.parametrize("name", CASES)
def test_the_table_is_that_of_a_real_image(name: str) -> None:
    specs, side = [LayerSpec.model_validate(entry) for entry in CASES[name]], 32 if name in BACKBONES else 16
    network = build_network(specs, (side, side, 3), 5).eval()
    values, found = torch.rand(1, 3, side, side), []
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        for layer in (*network.features, nn.Flatten(), network.classifier):
            with FlopCounterMode(display=False) as counter:
                values = layer(values)
            found.append((tuple(values.shape[1:]), counter.get_total_flops() // 2))
    torch.backends.mha.set_fastpath_enabled(True)
    rows = examine(specs, (side, side, 3), 5).rows
    assert [(row.output_shape, row.multiply_adds) for row in rows] == found
