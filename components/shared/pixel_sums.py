"""What mean and standard deviation of images follow from exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
_SHORT = 4096
_MOST_READ = 4 * 1024**2

# Of each channel: how many values, their sum, and the sum of their squares; int64 of shape (channels, 3).
Sums = npt.NDArray[np.int64]
# Squares of so many values at most are below 2^24, up to which float32 has all whole numbers.
_EXACT = 2**24 // 255**2


def sums_of(images: Images) -> Sums:
    """Number, sum and sum of squares of each channel's values, of images of shape (n, height, width, channels)."""
    count, height, width, channels = images.shape
    sums = np.zeros((channels, 3), dtype=np.int64)
    sums[:, 0] = count * height * width
    # In rows of a few hundred values, added to each other, so that NumPy does many at once.
    at_once = height if height * width * channels <= _SHORT else 1
    rows = images.reshape(count * height // at_once, at_once * width * channels)
    buffer = np.empty((min(_EXACT, len(rows)), rows.shape[1]), dtype=np.float32)  # stays in a core's cache
    for start in range(0, len(rows), _EXACT):
        values = buffer[: len(rows) - start]
        values[...] = rows[start : start + _EXACT]
        for column, total in ((1, values.sum(axis=0)), (2, np.einsum("ij,ij->j", values, values))):
            sums[:, column] += total.astype(np.int64).reshape(-1, channels).sum(axis=0)
    return sums


def sums_of_rows(read: Callable[[Indices], Images], rows: Indices, shape: tuple[int, ...]) -> Sums:
    """What :func:`sums_of` finds in images that are read by their rows, a few MiB at once.

    Args:
        read: The images at some rows, at least one.
        rows: Of shape (n,).
        shape: Height, width, channels.
    """
    total = np.zeros((shape[-1], 3), dtype=np.int64)
    at_once = max(1, _MOST_READ // math.prod(shape))
    for start in range(0, len(rows), at_once):
        total += sums_of(read(rows[start : start + at_once]))
    return total
