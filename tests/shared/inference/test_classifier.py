"""OnnxClassifier: a model directory's model.onnx, run on images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from components.shared.errors import ArtifactError
from components.shared.inference.classifier import OnnxClassifier
from components.shared.limits import usable_cpus
from tests.onnx_models import CLASSES, SHAPE, onnx_model, write_onnx_directory


def images_of(count: int, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (count, *shape), dtype=np.uint8)


def expected(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The network of `onnx_model`, in numpy."""
    weights = {each.name: onnx_array(each) for each in onnx_model().graph.initializer}
    planes = np.pad((images * np.float64(1 / 255)).transpose(0, 3, 1, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(planes, (3, 3), axis=(2, 3))
    features = np.maximum(np.einsum("nchwij,kcij->nkhw", windows, weights["kernel"]), 0).mean((2, 3))
    powers = np.exp(features @ weights["linear"].T + weights["bias"])
    return np.asarray(powers / powers.sum(1, keepdims=True))


def onnx_array(tensor: object) -> NDArray[np.float32]:
    from onnx.numpy_helper import to_array

    return to_array(tensor)  # type: ignore[arg-type]


def test_probabilities_are_the_networks(tmp_path: Path) -> None:
    classifier = OnnxClassifier.open(write_onnx_directory(tmp_path / "model"), "cpu")
    images = images_of(33)

    found = classifier(images)

    assert (classifier.classes, classifier.image_shape) == (CLASSES, SHAPE)
    assert classifier.device == f"cpu ({usable_cpus()} threads)"
    assert found.dtype == np.float32
    assert found.shape == (33, 3)
    np.testing.assert_allclose(found, expected(images), atol=1e-6)


def test_a_bare_file_says_what_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "any.onnx"
    file.write_bytes(onnx_model(["tea", "café"], (4, 6, 1)).SerializeToString())

    classifier = OnnxClassifier.from_file(file)

    assert (classifier.classes, classifier.image_shape) == (["tea", "café"], (4, 6, 1))
    assert classifier(images_of(2, (4, 6, 1))).shape == (2, 2)


def test_stored_images_are_cropped_and_cropped_ones_are_not(tmp_path: Path) -> None:
    classifier = OnnxClassifier.open(write_onnx_directory(tmp_path / "model", stored=(13, 10, 3)), "cpu")
    stored = images_of(5, (13, 10, 3))

    assert (classifier.image_shape, classifier.stored_shape) == (SHAPE, (13, 10, 3))
    middle = stored[:, 2:10, 1:9]
    np.testing.assert_allclose(classifier(stored), expected(middle), atol=1e-6)
    assert np.array_equal(classifier(middle), classifier(stored))
    with pytest.raises(ArtifactError, match="cannot run: "):
        classifier(images_of(2, (12, 10, 3)))


@pytest.mark.parametrize("size", [0, 1, 2, 7, 64, 100])
def test_a_callers_batch_changes_no_bit(tmp_path: Path, size: int) -> None:
    classifier = OnnxClassifier.open(write_onnx_directory(tmp_path / "model"), "cpu")
    images = images_of(700)

    whole = classifier(images)
    parts = [classifier(images[start : start + size]) for start in range(0, 700, size)] if size else [whole]

    assert np.array_equal(np.concatenate(parts), whole)
    assert classifier(images[:0]).shape == (0, 3)


def test_a_model_without_the_file_is_to_be_trained_again(tmp_path: Path) -> None:
    model = write_onnx_directory(tmp_path / "model", onnx=None)

    with pytest.raises(
        ArtifactError, match=r"model: has no model\.onnx, being of version 0\.8 or earlier; train it again"
    ):
        OnnxClassifier.open(model)


def test_a_build_for_the_cpu_runs_there_whatever_is_wanted(tmp_path: Path) -> None:
    model = write_onnx_directory(tmp_path / "model")
    images = images_of(3)

    found = [OnnxClassifier.open(model, device)(images) for device in ("auto", "cpu", "cuda", "cuda:3")]

    assert all(np.array_equal(each, found[0]) for each in found)
