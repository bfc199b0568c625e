"""How images of any proportions and sizes get a shape: fits and interpolations."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.shared.decoding.images import render
from components.shared.decoding.rendering import Rendering
from components.shared.params.types import Fit, Interpolation
from tests.shared.decoding.pictures import Pixels, encoded, random_pixels

_SIDE = st.integers(1, 40)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(_SIDE, _SIDE),
    shape=st.tuples(_SIDE, _SIDE, st.sampled_from([1, 3])),
    fit=st.sampled_from(get_args(Fit)),
    interpolation=st.sampled_from(get_args(Interpolation)),
)
def test_an_image_is_scaled_as_a_whole_and_cut_or_surrounded(
    size: tuple[int, int], shape: tuple[int, int, int], fit: Fit, interpolation: Interpolation
) -> None:
    (width, height), (high, wide, channels) = size, shape
    pixels: Pixels = (
        random_pixels(height, width, *([3] if channels == 3 else [])) // 4 + 96
    )  # which no filter overshoots from
    found = render(encoded(pixels, "PNG"), Rendering(shape, (9, 9, 9), fit, interpolation)).pixels.astype(int)

    scale = (max if fit == "crop" else min)(wide / width, high / height)
    scaled = [max(1, int(side * scale + 0.5 + 1e-9)) for side in size] if fit != "stretch" else [wide, high]
    whole = Image.fromarray(pixels).resize(scaled, Image.Resampling[interpolation.upper()])
    expected = Image.new(whole.mode, (wide, high), (9, 9, 9) if channels == 3 else 9)
    expected.paste(whole, (round((wide - scaled[0]) / 2), round((high - scaled[1]) / 2)))
    difference = abs(found - np.asarray(expected).reshape(shape))
    # A part is scaled by itself: each pixel's place is computed from another corner, by which nearest and box may take
    # another one, and Pillow may scale its height before its width, and so round otherwise.
    unequal = {"nearest": 255, "box": 255, "bilinear": 1, "bicubic": 2, "lanczos": 2}
    assert difference.max() <= (unequal[interpolation] if fit == "crop" else 0)


@pytest.mark.parametrize(("fit", "expected"), [("stretch", "aabb"), ("crop", "aabb"), ("pad", ".ab.")])
def test_what_each_fit_shows(fit: Fit, expected: str) -> None:
    levels = {"a": 50, "b": 200, ".": 9}
    image = np.repeat([[50, 200]], 4, axis=0).astype(np.uint8)  # higher than wide
    found = render(encoded(image, "PNG"), Rendering((4, 4, 1), (9, 9, 9), fit, "nearest")).pixels
    assert found[..., 0].tolist() == [[levels[each] for each in expected]] * 4
