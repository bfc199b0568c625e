"""The images of a dataset that are in it more than once: exactly, by their bytes or stored pixels, or nearly so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.equal_values import Indices, first_of_each_digest, grouped
from components.data_prep.engine.perceptual import Hashes
from components.data_prep.quality.close_hashes import close_pairs
from components.data_prep.quality.likeness import Rows, same_pairs
from components.shared.decoding.content import DIGEST_BYTES, digest_of

# Of 1,797 different digits of 8×8 pixels (scikit-learn's), 159 pairs would be near duplicates.
LEAST_SIDE = 16
_BYTES_AT_ONCE = 1024**2
# Of images with one hash, or with two that are close, this many are compared with each other.
_MEMBERS = 4


@dataclass(frozen=True)
class Duplicates:
    """Which of n images show the same.

    Images of one group are exact duplicates. Pairs are near duplicates: groups by the lowest index in each.
    """

    groups: Indices  # of shape (n,): the lowest index of an image with the same bytes or stored pixels
    pairs: tuple[Indices, Indices]  # the lower first
    crowded: int  # how many resemble so many others by their hashes that they were compared with some of these alone

    def near_groups(self) -> Indices:
        """Of shape (n,): the lowest index of the images that are connected by being exact or near duplicates."""
        parents = self.groups.copy()
        while True:
            before = parents.copy()
            one, other = (parents[each] for each in self.pairs)
            np.minimum.at(parents, one, other)
            np.minimum.at(parents, other, one)
            parents = parents[parents][self.groups]
            if np.array_equal(before, parents):
                return parents


def find_duplicates(
    digests: npt.NDArray[np.uint8],
    hashes: Hashes,
    constant: npt.NDArray[np.bool_],
    rows: Rows,
    shape: tuple[int, int, int],
) -> Duplicates:
    """Find the duplicates among n images, in time that grows with n alone.

    Images that are constant, or nearly so, are duplicates only of those with the same bytes: that they resemble each
    other says nothing. Images mirrored or turned are no duplicates.

    Args:
        digests: Of the encoded bytes: of shape (n, bytes).
        hashes: Perceptual hashes, of shape (n,).
        constant: Of shape (n,).
        rows: Hands out stored images.
        shape: Of a stored image; where a side is below `LEAST_SIDE`, exact duplicates alone are looked for.
    """
    image_bytes = math.prod(shape)
    same_bytes = first_of_each_digest(digests)
    shows = ~constant & (hashes != 0)
    candidates = np.flatnonzero((same_bytes == np.arange(len(hashes))) & shows)
    groups = _with_same_pixels(candidates, hashes, rows, image_bytes)[same_bytes]
    distinct = candidates[groups[candidates] == candidates] if min(shape[:2]) >= LEAST_SIDE else candidates[:0]
    order, starts = grouped(hashes[distinct])
    order, counts = distinct[order], np.diff(starts, append=len(order))
    close = close_pairs(hashes[order[starts]])
    pairs = [_within(order, starts, counts), *_between(order, starts, counts, close.one, close.other)]
    one, other = (np.concatenate(each) for each in zip(*pairs, strict=True))
    is_same = same_pairs(one, other, rows, image_bytes)
    one, other = one[is_same], other[is_same]
    return Duplicates(groups, (np.minimum(one, other), np.maximum(one, other)), int(counts[close.crowded].sum()))


def _with_same_pixels(candidates: Indices, hashes: Hashes, rows: Rows, image_bytes: int) -> Indices:
    """For each image, the first candidate with the same pixels; of images that are none, their own index."""
    first = np.arange(len(hashes))
    order, starts = grouped(hashes[candidates])
    counts = np.diff(starts, append=len(order))
    shared = np.sort(candidates[order[np.repeat(counts > 1, counts)]])
    digests = bytearray()
    size = max(1, _BYTES_AT_ONCE // image_bytes)
    for start in range(0, len(shared), size):
        pixels = rows(shared[start : start + size]).tobytes()
        for at in range(0, len(pixels), image_bytes):
            digests += digest_of(pixels[at : at + image_bytes])
    first[shared] = shared[first_of_each_digest(np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES))]
    return first


def _within(order: Indices, starts: Indices, counts: Indices) -> tuple[Indices, Indices]:
    """Each image beside the next few of the same hash."""
    left = np.repeat(starts + counts, counts) - np.arange(len(order))
    found = [(np.flatnonzero(left > ahead), ahead) for ahead in range(1, _MEMBERS)]
    one, other = np.concatenate([at for at, _ in found]), np.concatenate([at + ahead for at, ahead in found])
    return order[one], order[other]


def _between(
    order: Indices, starts: Indices, counts: Indices, one: Indices, other: Indices
) -> Iterator[tuple[Indices, Indices]]:
    """The first few images of each of two close hashes."""
    yield order[starts[one]], order[starts[other]]
    several = (counts[one] > 1) | (counts[other] > 1)
    one, other = one[several], other[several]
    for first, second in [*product(range(_MEMBERS), repeat=2)][1:]:
        both = (counts[one] > first) & (counts[other] > second)
        yield order[starts[one[both]] + first], order[starts[other[both]] + second]
