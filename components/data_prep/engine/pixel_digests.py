"""128 bits by which raw images are known again, of thousands at once: in a third of the time of a digest of each."""

from __future__ import annotations

import hashlib
import math
from functools import cache

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.perceptual import MOST_PRODUCTS
from components.shared.decoding.content import DIGEST_BYTES, digest_of
from components.shared.decoding.pixels import Images

_PRIME = 2**32 - 5
_SUMS = DIGEST_BYTES // 4
# Products of so many values, below 2^8, and coefficients, below 2^32, add up to less than 2^53: float64 is exact.
_MOST_VALUES = 2**13


def pixel_digests(images: Images) -> npt.NDArray[np.uint8]:
    """A digest for each image, by its pixels and shape alone.

    Four sums of the values times coefficients, random and fixed, modulo a prime of 32 bits. Two images that differ
    agree in one of them for one in 2^32 of all coefficients, in all four for one in 2^128 (Carter and Wegman,
    "Universal Classes of Hash Functions", 1979): as improbable as with BLAKE2b, but for images that were made for these
    coefficients. Of images with more than 8,192 values, for which a call is no burden, it is BLAKE2b.

    Args:
        images: uint8 of shape (n, height, width, channels).

    Returns:
        Of shape (n, 16).
    """
    count, values = len(images), math.prod(images.shape[1:])
    flat = images.reshape(count, values)
    if values > _MOST_VALUES:
        digests = b"".join(digest_of(image.tobytes()) for image in flat)
        return np.frombuffer(digests, np.uint8).reshape(count, DIGEST_BYTES)
    coefficients, added = _coefficients(images.shape[1:])
    sums = np.empty((count, _SUMS), dtype=np.uint64)
    size = max(1, MOST_PRODUCTS // (_SUMS * values))
    buffer = np.empty((min(size, count), values))
    for start in range(0, count, size):
        part = buffer[: count - start]
        part[...] = flat[start : start + size]
        sums[start : start + size] = part @ coefficients
    return ((sums + added) % _PRIME).astype("<u4").view(np.uint8)


@cache
def _coefficients(shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
    """Of each value and sum, and what is added to each sum."""
    name, count = f"pixel digest {shape}".encode(), math.prod(shape) + 1
    drawn = np.frombuffer(hashlib.shake_128(name).digest(4 * _SUMS * count), "<u4").reshape(count, _SUMS) % _PRIME
    return drawn[1:].astype(np.float64), drawn[0].astype(np.uint64)
