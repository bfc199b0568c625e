from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from components.data_prep.perceptual import perceptual_hashes
from components.shared.artifacts.dataset import Images


def _scenes(count: int, side: int) -> list[Image.Image]:
    """Pictures of random clouds, with as much of each size as photographs have."""
    random = np.random.default_rng(5)
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    amplitudes = 1 / np.maximum(frequencies, 1 / side)
    pictures = []
    for _ in range(count):
        noise = np.fft.rfft2(random.standard_normal((side, side)))
        clouds = np.fft.irfft2(noise * amplitudes, (side, side))
        grey = 40 + 175 * (clouds - clouds.min()) / np.ptp(clouds)
        pictures.append(Image.fromarray(grey.astype(np.uint8)))
    return pictures


def _reencoded(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _stored(pictures: list[Image.Image], side: int, mode: str) -> Images:
    rows = [np.asarray(each.convert(mode).resize((side, side), Image.Resampling.BILINEAR)) for each in pictures]
    return np.stack(rows).reshape(len(rows), side, side, -1)


@pytest.mark.parametrize(("side", "mode"), [(28, "L"), (64, "RGB"), (224, "RGB")])
def test_a_hash_keeps_what_an_image_shows_and_tells_others_apart(side: int, mode: str) -> None:
    scenes = _scenes(60, 160)
    hashes = perceptual_hashes(_stored(scenes, side, mode))
    changed = {
        "quality": [_reencoded(each, 40) for each in scenes],
        "size": [each.resize((90, 90), Image.Resampling.LANCZOS) for each in scenes],
        "brightness": [ImageEnhance.Brightness(each).enhance(0.7) for each in scenes],
        "contrast": [ImageEnhance.Contrast(each).enhance(0.6) for each in scenes],
    }
    for what, pictures in changed.items():
        differing = np.bitwise_count(hashes ^ perceptual_hashes(_stored(pictures, side, mode)))
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
