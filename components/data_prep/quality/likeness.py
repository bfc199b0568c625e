"""Whether two images show the same, from their stored pixels: what a perceptual hash only suggests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.equal_values import Indices
from components.data_prep.engine.perceptual import random_signs
from components.shared.artifacts.dataset import Images

# Stored images by their indices, which ascend: uint8 of shape (n, height, width, channels).
Rows = Callable[[Indices], Images]
_Floats = npt.NDArray[np.floating[Any]]

# Two images show the same if the differences of neighbouring pixels correlate so well. Of 20,000 pictures of clothes of
# 28×28 (Fashion-MNIST), 186,000 pairs have close hashes and 100 of them reach this; of re-encoded pictures (JPEG of
# quality 75, or from twice the size) 99.7 % do. Pixels themselves, at the threshold that as many pairs reach, find
# 55 to 98 %.
SAME = 0.985
# The correlation of two sketches, of n sums each, is that of the images but for chance: its inverse hyperbolic tangent
# deviates by 1 / sqrt(n) (Fisher). Images of a lower one than these are different: 3.5 deviations from `SAME`.
_SKETCHES = {16: 0.9165, 64: 0.965}
_SKETCH = 64
# Above this they are the same, by 4 deviations. Between the two, their pixels decide.
_CERTAIN = 0.9945
# Sums are rounded to at most this, so that float32 has those of their products exactly: 64 * 511^2 < 2^24.
_LARGEST = 511
# Images are compared on a grid of at most this many cells a side.
_GRID = 32
_BYTES_AT_ONCE = 8 * 1024**2
_PAIRS_AT_ONCE = 8192
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
    sketches = np.zeros((len(wanted), _SKETCH), dtype=np.int16)  # of 100,000 images 13 MB
    for start in range(0, len(wanted), size):
        sketches[start : start + size] = _drawn(rows(wanted[start : start + size]))
    likely, found = np.arange(len(one)), np.zeros(0)
    for count, least in _SKETCHES.items():
        found = _correlations(sketches[:, :count], at[one[likely]], at[other[likely]])
        likely, found = likely[found >= least], found[found >= least]
    is_same = np.zeros(len(one), dtype=np.bool_)
    is_same[likely] = True
    for pairs in _parts(likely[found < _CERTAIN], max(1, size // 2)):
        wanted, at = np.unique(np.concatenate([one[pairs], other[pairs]]), return_inverse=True)
        details = _details(rows(wanted))
        lengths = np.einsum("ij,ij->i", details, details)
        first, second = at[: len(pairs)], at[len(pairs) :]
        product = np.einsum("ij,ij->i", details[first], details[second])
        is_same[pairs] = (product > 0) & (product**2 >= SAME**2 * lengths[first] * lengths[second])
    return is_same


def _parts(indices: Indices, size: int) -> Iterator[Indices]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _drawn(images: Images) -> _Floats:
    """Sums of the details with random signs, in proportion to each other, of shape (n, sketch)."""
    small = _smaller(images)
    weights = _sums_of_details(*small.shape[1:])
    # Single pixels stay exact in float32, below 2^24; the sums of many may not.
    kind = np.float32 if small.dtype == np.uint8 else np.float64
    values = np.zeros((-(-len(small) // _ROWS_AT_ONCE), _ROWS_AT_ONCE, len(weights)), dtype=kind)
    values.reshape(-1, len(weights))[: len(small)] = small.reshape(len(small), -1)
    drawn = np.zeros((*values.shape[:2], _SKETCH), dtype=kind)
    for start in range(0, len(weights), _COLUMNS_AT_ONCE):
        columns = slice(start, start + _COLUMNS_AT_ONCE)
        drawn += values[:, :, columns] @ weights[columns].astype(kind)
    drawn = drawn.reshape(-1, _SKETCH)[: len(small)]
    largest = np.maximum(np.maximum(drawn.max(axis=1), -drawn.min(axis=1)), 1)
    rounded: _Floats = np.rint(drawn * (_LARGEST / largest)[:, None])
    return rounded


def _correlations(sketches: npt.NDArray[np.int16], one: Indices, other: Indices) -> npt.NDArray[np.float64]:
    """Of the sketches of pairs."""
    squares = np.einsum("ij,ij->i", sketches, sketches, dtype=np.float32).astype(np.float64)
    products = np.empty(len(one))
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        products[part] = np.einsum("ij,ij->i", sketches[one[part]], sketches[other[part]], dtype=np.float32)
    found: npt.NDArray[np.float64] = products / np.sqrt(np.maximum(squares[one] * squares[other], 1))
    return found


def _details(images: Images) -> _Floats:
    """Differences of neighbouring pixels of images made smaller and smooth, as whole numbers: of shape (n, count)."""
    small = _smaller(images)
    small = _smooth(_smooth(small.astype(np.int16 if small.dtype == np.uint8 else np.int64), 1), 2)
    details = [np.diff(small, axis=axis).reshape(len(small), -1) for axis in (1, 2)]
    return np.concatenate(details, axis=1, dtype=np.float64)


def _smooth(values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Sums of three neighbours, the middle one twice."""
    size = values.shape[axis]
    before, middle, after = (np.moveaxis(values, axis, 0)[start : size - 2 + start] for start in range(3))
    return np.moveaxis(before + 2 * middle + after, 0, axis)


@cache
def _sums_of_details(rows: int, columns: int, channels: int) -> _Floats:
    """What each value of a smaller image counts in each sum of details with random signs, which are linear in them."""
    across, down = (rows - 2, columns - 3, channels), (rows - 3, columns - 2, channels)
    signs = random_signs(b"sketch", (math.prod(across) + math.prod(down)) * _SKETCH)
    of_down, of_across = np.split(signs, [math.prod(down) * _SKETCH])
    of_across = of_across.reshape(*across, _SKETCH)
    of_down = of_down.reshape(*down, _SKETCH)
    weights = np.zeros((rows, columns, channels, _SKETCH), dtype=np.float32)
    # Smoothed values count at the left and above of what they are sums of; they are spread from there.
    weights[1 : rows - 2, : columns - 2] += of_down
    weights[: rows - 3, : columns - 2] -= of_down
    weights[: rows - 2, 1 : columns - 2] += of_across
    weights[: rows - 2, : columns - 3] -= of_across
    for axis in (0, 1):
        weights = weights + 2 * np.roll(weights, 1, axis) + np.roll(weights, 2, axis)
    return weights.reshape(-1, _SKETCH)


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
