from __future__ import annotations

import io

import numpy as np
from PIL import Image


def scenes(count: int, side: int) -> list[Image.Image]:
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


def reencoded(picture: Image.Image, quality: int) -> Image.Image:
    """A picture after it was a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)
