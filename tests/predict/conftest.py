from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from components.predict.predict import Prediction
from tests.onnx_models import onnx_model, write_onnx_directory
from tests.peers.fixtures import bucket, gcs_bucket, gcs_server, s3_bucket, s3_server, seaweed

__all__ = ["bucket", "gcs_bucket", "gcs_server", "s3_bucket", "s3_server", "seaweed"]

CLASSES = ["cat", "dog", "eel", "fox"]
SIDES = (12, 10)

Pixels = npt.NDArray[np.uint8]
ByHand = Callable[[Pixels], dict[str, float]]


def _model(path: Path, channels: int) -> Path:
    shape = (*SIDES, channels)
    content = onnx_model(CLASSES, shape).SerializeToString(deterministic=True)
    return write_onnx_directory(path, content, classes=CLASSES, shape=shape).path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for color images of 12×10 pixels, in four classes."""
    return _model(tmp_path_factory.mktemp("color") / "model", 3)


@pytest.fixture(scope="session")
def grey_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for grayscale images."""
    return _model(tmp_path_factory.mktemp("grey") / "model", 1)


@pytest.fixture(scope="session")
def by_hand(model: Path) -> ByHand:
    """Probability of each class of an image of the model's shape, by nothing of ours."""
    session = onnxruntime.InferenceSession(model / "model.onnx")

    def probabilities(pixels: Pixels) -> dict[str, float]:
        (found,) = session.run(None, {"images": pixels[None]})
        return dict(zip(CLASSES, found[0].tolist(), strict=True))

    return probabilities


def check(prediction: Prediction, expected: dict[str, float]) -> None:
    """Check a prediction of all classes."""
    assert prediction.error == ""
    assert dict(prediction.classes) == pytest.approx(expected, abs=2e-6)
    assert [name for name, _ in prediction.classes] == sorted(expected, key=lambda name: -expected[name])
