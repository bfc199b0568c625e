"""Pairs of 64-bit hashes that differ in few bits, found without comparing every two."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.perceptual import Hashes

Indices = npt.NDArray[np.int64]

MOST_BITS = 4
# Two hashes that differ in at most 4 bits agree in at least 2 of 6 blocks of bits, whichever these are: so all such
# pairs are found by sorting 15 times, each time by two blocks (Norouzi, Punjani, Fleet, "Fast Search in Hamming Space
# with Multi-Index Hashing", CVPR 2012, who search by one block).
_BLOCKS, _AGREEING = 6, 2
# Hashes that agree in two blocks are compared with at most so many that follow in the order of all their bits.
_WINDOW = 128
# No more pairs are looked for once there are so many for each hash: 0.1 GB of 100,000 hashes.
_PAIRS_EACH = 32


class ClosePairs(NamedTuple):
    """Pairs of hashes as indices of the one and of the other, the lower first; whether these are all."""

    one: Indices
    other: Indices
    are_all: bool


def close_pairs(hashes: Hashes) -> ClosePairs:
    """The pairs of hashes that differ in at most `MOST_BITS` bits.

    Time and memory are bounded by the number of hashes: where very many resemble each other, not all pairs are found.

    Args:
        hashes: Of shape (n,), each different from the others.
    """
    count = len(hashes)
    found, are_all = [np.zeros(0, dtype=np.int64)], True
    for moved, mask in _with_blocks_first(hashes):
        order = np.argsort(moved)
        in_order = moved[order]
        keys = in_order & mask
        at = np.arange(count)
        for ahead in range(1, _WINDOW + 1):
            at = at[: np.searchsorted(at, count - ahead)]
            at = at[keys[at] == keys[at + ahead]]
            if not len(at):
                break
            close = at[np.bitwise_count(in_order[at] ^ in_order[at + ahead]) <= MOST_BITS]
            one, other = order[close], order[close + ahead]
            found.append(np.minimum(one, other) * count + np.maximum(one, other))
        are_all = are_all and not len(at)
        if sum(map(len, found)) > _PAIRS_EACH * count:
            found = [_distinct(np.concatenate(found))]
            if len(found[0]) > _PAIRS_EACH * count:
                are_all = False
                break
    pairs = _distinct(np.concatenate(found))
    return ClosePairs(pairs // max(count, 1), pairs % max(count, 1), are_all)


def _distinct(values: Indices) -> Indices:
    """The values in order, each once: np.unique takes four times as long."""
    values.sort()
    return values[np.diff(values, prepend=-1) > 0]


def _with_blocks_first(hashes: Hashes) -> Iterator[tuple[Hashes, np.uint64]]:
    """The hashes with some blocks of their bits moved to the front, the other bits behind; and the mask of the blocks.

    In the order of these, hashes that agree in the blocks follow each other.
    """
    bounds = [64 * block // _BLOCKS for block in range(_BLOCKS + 1)]
    blocks = list(pairwise(bounds))[::-1]
    for chosen in combinations(blocks, _AGREEING):
        moved, end = np.zeros_like(hashes), 64
        for start, stop in [*chosen, *(block for block in blocks if block not in chosen)]:
            end -= stop - start
            moved |= (hashes >> np.uint64(start) & np.uint64((1 << stop - start) - 1)) << np.uint64(end)
        yield moved, ~np.uint64((1 << 64 - sum(stop - start for start, stop in chosen)) - 1)
