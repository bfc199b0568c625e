"""How an image becomes pixels of one shape: one rule for data prep, prediction and whatever else decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.shared.decoding.pixels import WHITE, Background

Fit = Literal["stretch", "crop", "pad"]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Rendering:
    """What is made of every image.

    Attributes:
        shape: Height, width and channels (1 or 3).
        background: What transparent parts, and what is padded, show.
        fit: ``stretch`` to the shape; ``crop`` its middle, scaled to cover the shape; ``pad`` it, scaled to lie within.
        interpolation: How its size is changed.
    """

    shape: tuple[int, int, int]
    background: Background = WHITE
    fit: Fit = "stretch"
    interpolation: Interpolation = "bilinear"
