from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from components.data_prep.engine.perceptual import perceptual_hashes
from components.shared.artifacts.dataset import Images
from tests.data_prep.scenes import reencoded, scenes


def _stored(pictures: list[Image.Image], side: int, mode: str) -> Images:
    rows = [np.asarray(each.convert(mode).resize((side, side), Image.Resampling.BILINEAR)) for each in pictures]
    return np.stack(rows).reshape(len(rows), side, side, -1)


@pytest.mark.parametrize(("side", "mode"), [(28, "L"), (64, "RGB"), (224, "RGB")])
def test_a_hash_keeps_what_an_image_shows_and_tells_others_apart(side: int, mode: str) -> None:
    pictures = scenes(60, 160)
    hashes = perceptual_hashes(_stored(pictures, side, mode))
    changed = {
        "quality": [reencoded(each, 40) for each in pictures],
        "size": [each.resize((90, 90), Image.Resampling.LANCZOS) for each in pictures],
        "brightness": [ImageEnhance.Brightness(each).enhance(0.7) for each in pictures],
        "contrast": [ImageEnhance.Contrast(each).enhance(0.6) for each in pictures],
    }
    for what, altered in changed.items():
        differing = np.bitwise_count(hashes ^ perceptual_hashes(_stored(altered, side, mode)))
        assert differing.max() <= 6, what
    # Of two that have nothing in common half of the bits differ, but for chance.
    among = np.bitwise_count(hashes[:, None] ^ hashes)[~np.eye(len(hashes), dtype=bool)]
    assert 28 < among.mean() < 36
    assert among.min() > 6


def test_equal_images_have_equal_hashes_in_any_company() -> None:
    images = np.random.default_rng(1).integers(0, 256, (900, 31, 17, 3), dtype=np.uint8)
    hashes = perceptual_hashes(images)
    assert len(set(hashes.tolist())) == 900
    assert [int(perceptual_hashes(images[[index]])[0]) for index in range(0, 900, 100)] == hashes[::100].tolist()
    # What one machine hashed is compared with what another did.
    ramp = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) ** 2
    assert hex(int(perceptual_hashes(ramp)[0])) == "0xc488a7646ca03489"
    assert perceptual_hashes(np.full((2, 5, 3, 1), 200, dtype=np.uint8)).tolist() == [0, 0]
