"""The surest mistakes: images a model takes for another class with the most confidence."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.classifier.inference import Predictions
from components.classifier.metrics import Integers
from components.shared.artifacts.dataset import Images

MAX_MISTAKES = 24
# Pixels of a thumbnail's longer side: 24 colour thumbnails of noise, the worst case, are 1.5 MB of report.
_MAX_SIDE = 128


@dataclass(frozen=True)
class Mistake:
    """One image that was taken for another class.

    Attributes:
        index: Its place in the split.
        image: uint8, shape (height, width, channels).
        label: Its class.
        predicted: The class it was taken for.
        confidence: Probability given to that class.
    """

    index: int
    image: Images
    label: int
    predicted: int
    confidence: float


def surest_mistakes(predictions: Predictions, limit: int = MAX_MISTAKES) -> Integers:
    """Indices of the wrongly predicted images the network was surest of, surest first; equals in stored order."""
    wrong = np.flatnonzero(predictions.labels != predictions.predicted)
    order = np.argsort(-predictions.confidences[wrong], kind="stable")
    return wrong[order[:limit]].astype(np.int64)


def png_data_uri(image: Images) -> str:
    """An image, uint8 of shape (height, width, 1 or 3), as a PNG inside an address; larger ones are made smaller."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
