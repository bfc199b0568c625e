"""Whether two images show the same, from their stored pixels: what a perceptual hash only suggests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.perceptual import random_signs
from components.data_prep.quality.close_hashes import Indices
from components.shared.artifacts.dataset import Images

# Stored images by their indices, which ascend: uint8 of shape (n, height, width, channels).
Rows = Callable[[Indices], Images]
_Details = npt.NDArray[np.float64]

# Two images show the same if the differences of neighbouring pixels correlate so well. Of 20,000 pictures of clothes of
# 28×28 (Fashion-MNIST), 186,000 pairs have close hashes and 100 of them reach this; of re-encoded pictures (JPEG of
# quality 75, or from twice the size) 99.7 % do. Pixels themselves, at the threshold that as many pairs reach, find
# 55 to 98 %.
SAME = 0.985
# What a sketch may underestimate it by: eight times its standard deviation, (1 - SAME^2) / sqrt(_SKETCH).
_MARGIN = 0.03
_SKETCH = 64
# Images are compared on a grid of at most this many cells a side.
_GRID = 32
# Below this many pixels a side, a mean over three of them leaves too little.
_SMOOTHED = 8
_BYTES_AT_ONCE = 8 * 1024**2
_PAIRS_AT_ONCE = 100_000
# OpenBLAS starts threads for products of more than 2^18 multiplications: beside processes that decode, each took 20 ms.
_ROWS_AT_ONCE, _COLUMNS_AT_ONCE = 8, 512


def same_pairs(one: Indices, other: Indices, rows: Rows, image_bytes: int) -> npt.NDArray[np.bool_]:
    """Which of some pairs of images show the same: brightness, contrast and how they were encoded may differ.

    Pairs are first compared by sketches of their images, so that each image is read once, and those of few pairs again.
    The result does not depend on the machine: what decides are whole numbers.

    Args:
        one: Indices of the first image of each pair.
        other: Indices of the second one.
        rows: Hands out images.
        image_bytes: Bytes of one of them.
    """
    is_wanted = np.zeros(1 + max(one.max(initial=-1), other.max(initial=-1)), dtype=np.bool_)
    is_wanted[one] = is_wanted[other] = True
    wanted, at = np.flatnonzero(is_wanted), np.cumsum(is_wanted) - 1
    size = max(1, _BYTES_AT_ONCE // (8 * image_bytes))
    sketches = np.zeros((len(wanted), _SKETCH), dtype=np.float32)
    for start in range(0, len(wanted), size):
        drawn = _drawn(rows(wanted[start : start + size]))
        sketches[start : start + size] = drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1)
    likely = np.zeros(len(one), dtype=np.bool_)
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        pair = (sketches[at[each[part]]] for each in (one, other))
        likely[part] = np.einsum("ij,ij->i", *pair) >= SAME - _MARGIN
    for pairs in _parts(np.flatnonzero(likely), max(1, size // 2)):
        wanted, at = np.unique(np.concatenate([one[pairs], other[pairs]]), return_inverse=True)
        details = _details(rows(wanted))
        lengths = np.einsum("ij,ij->i", details, details)
        first, second = at[: len(pairs)], at[len(pairs) :]
        product = np.einsum("ij,ij->i", details[first], details[second])
        likely[pairs] = (product > 0) & (product**2 >= SAME**2 * lengths[first] * lengths[second])
    return likely


def _drawn(images: Images) -> _Details:
    """Sums of the details with random signs, of shape (n, sketch)."""
    small = _smaller(images)
    if math.prod(small.shape[1:]) < len(images):  # else it would take longer to find what each value counts
        values, signs = small.reshape(len(small), -1).astype(np.float64), _sums_of_details(*small.shape[1:])
    else:
        values = _details_of(small.astype(np.float64))
        signs = _signs(values.shape[1])
    drawn = np.zeros((len(values), _SKETCH))
    for start in range(0, len(values), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        for first in range(0, len(signs), _COLUMNS_AT_ONCE):
            columns = slice(first, first + _COLUMNS_AT_ONCE)
            drawn[rows] += values[rows, columns] @ signs[columns]
    return drawn


def _parts(indices: Indices, size: int) -> Iterator[Indices]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _details(images: Images) -> _Details:
    """Differences of neighbouring pixels of images made smaller and smooth, as whole numbers: of shape (n, count)."""
    return _details_of(_smaller(images).astype(np.float64))


def _details_of(small: _Details) -> _Details:
    small = _smooth(_smooth(small, 1), 2)
    return np.concatenate([np.diff(small, axis=axis).reshape(len(small), -1) for axis in (1, 2)], axis=1)


@cache
def _sums_of_details(rows: int, columns: int, channels: int) -> _Details:
    """What each value of a smaller image counts in each sum of details with random signs, which are linear in them."""
    count = rows * columns * channels
    details = _details_of(np.eye(count).reshape(count, rows, columns, channels))
    return details @ _signs(details.shape[1])


def _smaller(images: Images) -> Images | npt.NDArray[np.int64]:
    """Sums over square cells; what is left at the right and at the bottom counts for nothing."""
    count, height, width, channels = images.shape
    down, across = (-(-size // _GRID) for size in (height, width))
    if down == across == 1:
        return images
    rows, columns = height // down, width // across
    cells = images[:, : rows * down, : columns * across].reshape(count, rows, down, columns, across, channels)
    of_rows = np.zeros((count, rows, columns, across, channels), dtype=np.int32)
    for row in range(down):  # NumPy's sum over both axes takes five times as long
        of_rows += cells[:, :, row]
    sums = np.zeros((count, rows, columns, channels), dtype=np.int64)
    for column in range(across):
        sums += of_rows[:, :, :, column]
    return sums


def _smooth(values: _Details, axis: int) -> _Details:
    """Sums of three neighbours, the middle one twice."""
    size = values.shape[axis]
    if size < _SMOOTHED:
        return values
    before, middle, after = (np.moveaxis(values, axis, 0)[start : size - 2 + start] for start in range(3))
    return np.moveaxis(before + 2 * middle + after, 0, axis)


@cache
def _signs(count: int) -> _Details:
    """Random signs, of shape (count, sketch)."""
    return random_signs(b"sketch", count * _SKETCH).reshape(count, _SKETCH).astype(np.float64)
