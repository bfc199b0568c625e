"""From a model directory back to its network."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.classifier.building import has_backbone, torchvision_imports
from components.classifier.network import Network, counted_values, layers_of, wrong_output
from components.classifier.program import load_program
from components.shared.artifacts.model import Model
from components.shared.errors import ArtifactError
from components.shared.params.types import LayerSpec
from components.shared.text import first_line

# More than one image, because some layers refuse a batch of one.
_BATCH = 2


def load_network(model: Model, weights: Path | None = None) -> Network:
    """The network of a model directory with its weights, on the CPU, in evaluation mode.

    A network with an architecture of torchvision runs as its program where torchvision is not installed. `weights` are
    others than the model's own, such as ``last.safetensors``.

    Raises:
        ArtifactError: The weights do not fit the architecture that the manifest states.
    """
    manifest = model.manifest
    file = weights or model.path / manifest.weights.file
    try:
        specs = [LayerSpec.model_validate(entry) for entry in manifest.net_arch]
    except ValueError as error:
        raise _misfit(file, error) from error
    if has_backbone(specs) and not torchvision_imports():
        return _from_program(model, file)
    try:
        stored, n_classes = load_file(file), len(manifest.classes)
        # Layers without memory until the weights are theirs: a manifest may claim any size, a file only its own.
        # Not by `examine`: running the meta device imports sympy, a second that a finished model need not wait.
        with torch.device("meta"):
            features = layers_of(specs)
            network = Network(features, stored["classifier.weight"].shape[1], n_classes, 0)
        for name, tensor in network.state_dict().items():
            if name in stored and stored[name].dtype != tensor.dtype:
                raise ValueError(f"{name} is {stored[name].dtype} and must be {tensor.dtype}")
        network.load_state_dict(stored, assign=True)
        network.eval()
        in_features, values = _values_of(features, manifest.image.as_tuple())
        if in_features != network.classifier.in_features:
            raise ValueError(f"the layers give {in_features} features and the classifier takes another number")
        network.values_per_image = values + n_classes
    except Exception as error:  # whatever layers raise that the weights were not trained with
        raise _misfit(file, error) from error
    return network


def _misfit(file: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{file}: does not fit the architecture in model.json: {first_line(error)}")


def _from_program(model: Model, file: Path) -> Network:
    program = model.manifest.program
    if program is None:
        raise ArtifactError(
            f"{model.path}: its network needs torchvision, which is not installed here, and it has no program to run "
            "instead; install torchvision, or train it again"
        )
    try:
        weights: dict[str, Tensor] = load_file(file)
        network = load_program(model.path / program.file, weights, len(model.manifest.classes))
        if (given := len(weights["classifier.bias"])) != network.n_classes:
            raise ValueError(f"it gives {given} classes, and model.json names {network.n_classes}")
        shape = model.manifest.image
        with torch.inference_mode():
            network(torch.zeros(_BATCH, shape.channels, shape.height, shape.width))
    except Exception as error:  # whatever torch raises on a file that is not what it says
        raise ArtifactError(
            f"{model.path / program.file}: cannot be run with {file.name}: {first_line(error)}"
        ) from error
    return network


def _values_of(features: nn.Sequential, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Features of one image, and the values all layers give for it, found by running them on blank ones."""
    height, width, channels = image_shape
    current, values = torch.zeros(_BATCH, channels, height, width), 0
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        for layer in features:
            with counted_values(layer) as counts:
                current = layer(current)
            if (wrong := wrong_output(current, _BATCH)) is not None:
                raise ValueError(f"{type(layer).__name__} {wrong}")
            values += sum(counts) // _BATCH
    in_features = current.numel() // _BATCH
    return in_features, values + in_features
