"""What a network costs, from its shapes, those that it computes itself included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node

from components.shared.errors import ArtifactError
from components.shared.inference.classifier import OnnxClassifier
from components.shared.inference.costs import Costs, costs_of
from components.shared.inference.graph import read_graph
from components.shared.inference.guard import check_onnx, require_runnable
from tests.onnx_models import onnx_model


def written(folder: Path, model: onnx.ModelProto) -> Path:
    file = folder / "some.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def numbers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def on_features(*nodes: onnx.NodeProto, weights: Sequence[onnx.TensorProto] = ()) -> onnx.ModelProto:
    """The classifier with other nodes from its features (images, 8, 8, 8) to `flat` (images, 8)."""
    model = onnx_model(initialisers=weights)
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*own[:5], *nodes, *own[7:]])
    return model


@pytest.mark.parametrize("images", [1, 5])
def test_memory_and_operations_are_those_of_the_layers(tmp_path: Path, images: int) -> None:
    costs, result = costs_of(read_graph(written(tmp_path, onnx_model())), images)

    pixels, features = images * 8 * 8 * 3, images * 8 * 8 * 8
    convolution = features * 3 * 3 * 3 + pixels + 8 * 3 * 3 * 3 + features
    linear = images * 3 * 8 + images * 8 + 3 * 8 + 3 + images * 3
    others = (pixels + pixels) + (pixels + 1 + pixels) + (pixels + pixels) + 2 * features  # cast, scaled, moved, relu
    ends = (features + images * 8) + 2 * images * 8 + 2 * images * 3  # mean, flattened, softmax
    assert costs == Costs(bytes=4 * 2 * features, operations=convolution + linear + others + ends)
    assert [dim.dim_value for dim in result.tensor_type.shape.dim] == [images, 3]


# Ways to write the mean over the image, as exporters do: with the number of images in a shape that is computed.
MEANS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "a shape put together": (
        [
            make_node("Shape", ["images"], ["size"], start=0, end=1),
            make_node("Concat", ["size", "rest"], ["wanted"], axis=0),
            make_node("Reshape", ["active", "wanted"], ["long"]),
            make_node("ReduceMean", ["long", "last"], ["flat"], keepdims=0),
        ],
        [numbers("rest", 8, 64), numbers("last", 2)],
    ),
    "a number among numbers": (
        [
            make_node("Shape", ["active"], ["sizes"]),
            make_node("Gather", ["sizes", "first"], ["count"]),
            make_node("Mul", ["count", "eight"], ["rows"]),
            make_node("Unsqueeze", ["rows", "first"], ["listed"]),
            make_node("Concat", ["listed", "sixty-four"], ["wanted"], axis=0),
            make_node("Reshape", ["active", "wanted"], ["long"]),
            make_node("ReduceMean", ["long", "last"], ["means"], keepdims=0),
            make_node("Reshape", ["means", "eights"], ["flat"]),
        ],
        [
            numpy_helper.from_array(np.array(0, np.int64), "first"),
            numpy_helper.from_array(np.array(8, np.int64), "eight"),
            numbers("sixty-four", 64),
            numbers("last", 1),
            numbers("eights", -1, 8),
        ],
    ),
    "indices of every row": (
        [
            make_node("Shape", ["active"], ["sizes"], end=1),
            make_node("Squeeze", ["sizes"], ["count"]),
            make_node("Range", ["zero", "count", "one"], ["rows"]),
            make_node("Gather", ["active", "rows"], ["again"]),
            make_node("ReduceMean", ["again", "sides"], ["flat"], keepdims=0),
        ],
        [
            numpy_helper.from_array(np.array(0, np.int64), "zero"),
            numpy_helper.from_array(np.array(1, np.int64), "one"),
            numbers("sides", 2, 3),
        ],
    ),
    "a scale of each dimension": (
        [
            make_node("Resize", ["active", "", "scales"], ["larger"], mode="nearest"),
            make_node("ReduceMean", ["larger", "sides"], ["flat"], keepdims=0),
        ],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"), numbers("sides", 2, 3)],
    ),
    "a sequence of parts": (
        [
            make_node("ReduceMean", ["active", "sides"], ["means"], keepdims=0),
            make_node("SplitToSequence", ["means", "lengths"], ["parts"], axis=1),
            make_node("SequenceAt", ["parts", "zero"], ["three"]),
            make_node("SequenceAt", ["parts", "one"], ["five"]),
            make_node("Concat", ["three", "five"], ["flat"], axis=1),
        ],
        [
            numpy_helper.from_array(np.array(0, np.int64), "zero"),
            numpy_helper.from_array(np.array(1, np.int64), "one"),
            numbers("lengths", 3, 5),
            numbers("sides", 2, 3),
        ],
    ),
}


@pytest.mark.parametrize("way", MEANS)
def test_shapes_that_a_network_computes_are_known(tmp_path: Path, way: str) -> None:
    nodes, weights = MEANS[way]
    classifier = OnnxClassifier.from_file(written(tmp_path, on_features(*nodes, weights=weights)))
    plain = OnnxClassifier.from_file(written(tmp_path, onnx_model()))
    images = np.random.default_rng(3).integers(0, 256, (9, 8, 8, 3), np.uint8)

    np.testing.assert_allclose(classifier(images), plain(images), atol=1e-6)
    require_runnable(on_features(*nodes, weights=weights).SerializeToString(), (8, 8, 3), 3)


def test_images_that_meet_each_other_are_refused(tmp_path: Path) -> None:
    """The products of every image with every other one cost more than so many times one image."""
    model = onnx_model(
        nodes=[
            make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            make_node("Flatten", ["floats"], ["rows"]),
            make_node("Transpose", ["rows"], ["columns"]),
            make_node("MatMul", ["rows", "columns"], ["products"]),
            make_node("ReduceMean", ["products", "one"], ["means"]),
            make_node("Expand", ["means", "shape"], ["wide"]),
            make_node("Softmax", ["wide"], ["probabilities"]),
        ],
        initialisers=[numbers("one", 1), numbers("shape", 1, 3)],
    )
    classifier = OnnxClassifier.from_file(written(tmp_path, model))

    with pytest.raises(ValueError, match="7 images at once cost more than one by one"):
        require_runnable(model.SerializeToString(), (8, 8, 3), 3)
    assert classifier(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 3)
    with pytest.raises(ArtifactError, match=r"some\.onnx: cannot be run: 9 images at once cost more than one by one"):
        classifier(np.zeros((9, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("shape", "batch"), [((8, 8, 3), 512), ((512, 512, 3), 16), ((4096, 4096, 1), 1)], ids=["small", "photo", "scan"]
)
def test_images_of_one_run_are_as_many_as_take_256_mib(tmp_path: Path, shape: Any, batch: int) -> None:
    assert check_onnx(written(tmp_path, onnx_model(shape=shape))).batch_size == batch
