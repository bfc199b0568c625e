"""A hash of what an image looks like, from its stored pixels: images that look the same differ in few of its bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from components.shared.decoding.pixels import Images

Hashes = npt.NDArray[np.uint64]
_Floats = npt.NDArray[np.float32]

_GRID = 8
_BITS = 64
# At most about this many rows and columns are read: 7 × 7 pixels of each cell of the grid are enough for its mean.
_SAMPLED = 56
# Means are whole quarters of a grey value, so that float32 is exact below (see perceptual_hashes).
_QUARTERS = 4
# Where the means of the cells differ by less grey values, what would be hashed is noise.
_CONTRAST = 2
# Pixels converted at once, as float32: 1 MiB, which stays in a core's cache.
_CONVERTED = 256 * 1024
# OpenBLAS starts threads for products of more multiplications, which on a busy machine wait for each other.
MOST_PRODUCTS = 2**18
_AT_ONCE = 64


def perceptual_hashes(images: Images) -> Hashes:
    """A hash of 64 bits for each image, of which the share that differs is the angle between what two images show.

    The mean brightness of the cells of an 8×8 grid is taken, and the difference of every two neighbouring cells; each
    bit is the sign of a sum of these differences with signs of its own, random and fixed. So two images of which the
    differences enclose an angle of a share of 180° differ in about that share of the bits (Charikar, "Similarity
    Estimation Techniques from Rounding Algorithms", STOC 2002). Brightness and contrast leave the angle as it is, noise
    of JPEG and resizing hardly change the means; and unlike a comparison of single cells, as in a difference hash, no
    bit depends on the noise of a plain background alone. Differences, and not the means, since in photographs the large
    areas of light and dark would decide nearly every bit. Mirrored and turned images have other hashes.

    Equal images have equal hashes on every machine, however many are hashed at once: all numbers are whole and below
    2^24, so float32 is exact and the order of additions does not matter.

    Args:
        images: uint8 of shape (n, height, width, channels). Pixels of large ones are skipped evenly.

    Returns:
        Of shape (n,). An image of one colour, or nearly so, has the hash 0.
    """
    hashes = np.zeros(len(images), dtype=np.uint64)
    rows, columns = (max(1, size // _SAMPLED) for size in images.shape[1:3])
    sampled = images[:, rows // 2 :: rows, columns // 2 :: columns]
    _, height, width, channels = sampled.shape
    down, across = _bounds(height), _bounds(width)
    sums, bands = _sums_across(width, channels), _sums_across(height, 1).T
    counts = np.outer(np.diff(down), np.diff(across) * channels).astype(np.float32)
    weights = _weights(len(down) - 1, len(across) - 1)
    for part in _parts(len(images), height * width * channels):
        pixels = sampled[part].astype(np.float32).reshape(-1, height, width * channels)
        cells = bands @ (pixels @ sums)
        means: _Floats = np.floor(cells * (_QUARTERS / counts)).reshape(len(cells), -1)
        bits = np.packbits(means @ weights > 0, axis=1, bitorder="little")
        shows = np.ptp(means, axis=1) >= _CONTRAST * _QUARTERS
        hashes[part] = np.where(shows, bits.view("<u8")[:, 0], 0)
    return hashes


def random_signs(name: bytes, count: int) -> _Floats:
    """So many numbers that are -1 or 1 at random, the same for a name everywhere, of shape (count,)."""
    # By a digest: NumPy's generators may change with its version.
    digest = hashlib.shake_128(name).digest(-(-count // 8))
    return np.unpackbits(np.frombuffer(digest, dtype=np.uint8), count=count).astype(np.float32) * 2 - 1


def _parts(count: int, pixels: int) -> Iterator[slice]:
    size = max(1, min(_AT_ONCE, _CONVERTED // pixels))
    return (slice(start, start + size) for start in range(0, count, size))


@cache
def _bounds(size: int) -> npt.NDArray[np.intp]:
    """Where the cells along a side begin, and the last one ends; a short side has a cell for each pixel."""
    cells = min(_GRID, size)
    return np.arange(cells + 1, dtype=np.intp) * size // cells


@cache
def _sums_across(width: int, channels: int) -> _Floats:
    """Sums a row's values, of all channels, in each cell: of shape (width * channels, cells)."""
    bounds = _bounds(width)
    cells = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds) * channels)
    return np.eye(len(bounds) - 1, dtype=np.float32)[cells]


@cache
def _weights(rows: int, columns: int) -> _Floats:
    """What each bit's sum of signed differences takes each mean by: of shape (rows * columns, 64)."""
    across, down = (_BITS, rows, columns - 1), (_BITS, rows - 1, columns)
    count = int(np.prod(across) + np.prod(down))
    signs = random_signs(b"perceptual hash", count)
    of_across, of_down = (
        each.reshape(shape) for each, shape in zip(np.split(signs, [int(np.prod(across))]), (across, down), strict=True)
    )
    weights = np.zeros((_BITS, rows, columns), dtype=np.float32)
    weights[:, :, 1:] += of_across
    weights[:, :, :-1] -= of_across
    weights[:, 1:] += of_down
    weights[:, :-1] -= of_down
    return np.ascontiguousarray(weights.reshape(_BITS, -1).T)
