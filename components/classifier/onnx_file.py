"""model.onnx: an exported graph with trained weights, and what a reader needs to know as its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from components.classifier.images import Normaliser
from components.shared.artifacts.artifact import ImageShape, Normalisation
from components.shared.params.types import Fit, Interpolation
from components.shared.version import __version__


def onnx_bytes(
    graph: bytes,
    weights: Mapping[str, Tensor],
    normalisation: Normalisation | None,
    *,
    classes: Sequence[str],
    image: ImageShape,
    weights_sha256: str,
    stored_image: ImageShape | None = None,
    image_fit: Fit = "stretch",
    image_interpolation: Interpolation = "bilinear",
    alpha_background: tuple[int, int, int] = (255, 255, 255),
) -> bytes:
    """The content of model.onnx.

    Args:
        graph: From :func:`~components.classifier.onnx_graph.export_graph`.
        weights: The network's state, on the CPU.
        normalisation: Of its images.
        classes: Names, in the order of the probabilities.
        image: Shape of each image.
        weights_sha256: Of the file that has the same weights.
        stored_image: Shape of images before their middle is taken; None: they are taken whole.
        image_fit: How images of other proportions get the shape.
        image_interpolation: How they are resized.
        alpha_background: Red, green and blue behind transparent parts.

    Raises:
        ValueError: The graph is another network's: it asks for a weight that there is not, or one of another shape or
            type.
    """
    model = onnx.load_from_string(graph)
    normaliser = Normaliser(normalisation, torch.device("cpu"))
    values = {f"network.{name}": tensor for name, tensor in weights.items()}
    values["pixel_mean"], values["pixel_scale"] = (
        value.expand(1, image.channels, 1, 1) for value in (normaliser.mean, normaliser.scale)
    )
    for initializer in model.graph.initializer:
        if initializer.name in values:
            array = values[initializer.name].contiguous().numpy()
            wanted = onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type)
            if array.dtype != wanted or list(array.shape) != list(initializer.dims):
                raise ValueError(
                    f"{initializer.name} is {array.dtype} {array.shape}, and the graph has {wanted} "
                    f"{tuple(initializer.dims)}"
                )
            initializer.raw_data = array.astype(wanted.newbyteorder("<"), copy=False).tobytes()
        elif not initializer.raw_data and np.prod(initializer.dims):
            raise ValueError(f"{initializer.name} is no weight of the network, and has no values")
    model.producer_name, model.producer_version = "shutterline", __version__
    for name, text in (
        ("version", __version__),
        ("classes", json.dumps(list(classes), ensure_ascii=False)),
        ("image", json.dumps(image.as_tuple())),
        ("weights_sha256", weights_sha256),
        *([("stored_image", json.dumps(stored_image.as_tuple()))] if stored_image is not None else []),
        *([("image_fit", image_fit)] if image_fit != "stretch" else []),
        *([("image_interpolation", image_interpolation)] if image_interpolation != "bilinear" else []),
        *([("alpha_background", json.dumps(alpha_background))] if alpha_background != (255, 255, 255) else []),
    ):
        model.metadata_props.add(key=f"shutterline.{name}", value=text)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
