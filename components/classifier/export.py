"""The serving export: one program from stored images to class probabilities, without Shutterline."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from components.classifier.images import Normaliser
from components.classifier.network import Network
from components.shared.artifacts.artifact import ImageShape, Normalisation
from components.shared.files import writing
from components.shared.text import first_line


class Serving(nn.Module):
    """uint8 images (batch, height, width, channels) in, probabilities (batch, classes) out."""

    image_mean: Tensor
    image_scale: Tensor

    def __init__(self, network: Network, normalisation: Normalisation | None) -> None:
        super().__init__()
        self.network = network
        normaliser = Normaliser(normalisation, torch.device("cpu"))
        # Not "mean": unoptimised, torch's ONNX exporter names what an operator gives by the operator, a buffer or not.
        self.register_buffer("image_mean", normaliser.mean)
        self.register_buffer("image_scale", normaliser.scale)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities of a batch of images."""
        unit = images.permute(0, 3, 1, 2).to(torch.float32)
        return torch.softmax(self.network((unit - self.image_mean) * self.image_scale), dim=1)


def export_for_serving(network: Network, image: ImageShape, normalisation: Normalisation | None, file: Path) -> str:
    """Write the network, on the CPU and in evaluation mode, as a ``torch.export`` program for any batch size.

    Returns:
        Empty, or the reason why this network cannot be exported; then there is no file.

    Raises:
        OSError: The file cannot be written.
    """
    serving = Serving(network, normalisation).eval()
    example = torch.zeros(2, *image.as_tuple(), dtype=torch.uint8)
    archive = io.BytesIO()  # where torch.export.save cannot write, it ends the process (torch 2.15)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
            program = torch.export.export(serving, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            torch.export.save(program, archive)
    except Exception as error:  # an operator the exporter does not know; the model itself is fine
        return first_line(error)
    with writing(file) as output:
        output.write(archive.getbuffer())
    return ""
