"""Model directories of a small network that was not trained."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from components.classifier.network import Network, network_of
from components.shared.artifacts.artifact import ArtifactWriter, ImageShape
from components.shared.artifacts.model import MODEL, Model, open_model
from components.shared.params.params import Params
from tests.configs import layer, small
from tests.train.manifests import manifest_of

PARAMS = Params.from_dict(
    small(
        n_classes=3,
        is_image_color=True,
        net_arch=[
            layer("Conv2d", in_channels=3, out_channels=4, kernel_size=3),
            layer("BatchNorm2d", num_features=4),
            layer("Dropout", p=0.5),
            layer("MaxPool2d", kernel_size=2),
        ],
    )
)


def trained(seed: int) -> Network:
    """A network whose every number is its own."""
    torch.manual_seed(seed)
    network = network_of(PARAMS)
    network(torch.rand(8, 3, 8, 8))  # moves the batch statistics
    return network


def write_model(path: Path, network: Network) -> Model:
    with ArtifactWriter(path, MODEL) as writer:
        file = writer.new_file("model.safetensors")
        save_file(network.state_dict(), file)
        weights = writer.record(file)
        net_arch = [entry.model_dump(by_alias=True) for entry in PARAMS.net_arch]
        image = ImageShape(height=8, width=8, channels=3)
        writer.commit(manifest_of([], classes=["a", "b", "c"], image=image, net_arch=net_arch, weights=weights))
    return open_model(path)
