"""Pairs of 64-bit hashes that differ in few bits, found without comparing every two."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.equal_values import Indices
from components.data_prep.engine.perceptual import Hashes

MOST_BITS = 4
# Two hashes that differ in at most 4 bits agree in at least 3 of 7 blocks of bits, and so in 2 of the first 3 or of the
# other 4: all such pairs are found by sorting 9 times, each time by two blocks (after Norouzi, Punjani, Fleet, "Fast
# Search in Hamming Space with Multi-Index Hashing", CVPR 2012, who search by one block).
_BLOCKS, _FIRST, _AGREEING = 7, 3, 2
# Hashes that agree in two blocks are compared with at most so many that follow in the order of their bits. Of copies of
# twice the size among 70,000 digits, nine tenths of which have more such neighbours, 99.4 % are found so, and 99.6 %
# where 15 orders, each with 128 that follow, take nearly three times as long.
_WINDOW = 24
# No more pairs are looked for once there are so many for each hash: 0.1 GB of 100,000 hashes.
_PAIRS_EACH = 32


class ClosePairs(NamedTuple):
    """Pairs of n hashes as indices of the one and of the other, the lower first."""

    one: Indices
    other: Indices
    crowded: npt.NDArray[np.bool_]  # of shape (n,): which were not compared with all that may be close


def close_pairs(hashes: Hashes) -> ClosePairs:
    """The pairs of hashes that differ in at most `MOST_BITS` bits.

    Time and memory are bounded by the number of hashes: where very many resemble each other, not all pairs are found.

    Args:
        hashes: Of shape (n,), each different from the others.
    """
    count = len(hashes)
    found, crowded = [np.zeros(0, dtype=np.int64)], np.zeros(count, dtype=np.bool_)
    for keys, bits in _with_blocks_first(hashes):
        found += _near_in_order(np.argsort(keys), keys, bits, hashes, crowded)
        if sum(map(len, found)) > _PAIRS_EACH * count:
            found = [_distinct(np.concatenate(found))]
            if len(found[0]) > _PAIRS_EACH * count:
                crowded[:] = True
                break
    pairs = _distinct(np.concatenate(found))
    return ClosePairs(pairs // max(count, 1), pairs % max(count, 1), crowded)


def _near_in_order(
    order: Indices, keys: Hashes, bits: int, hashes: Hashes, crowded: npt.NDArray[np.bool_]
) -> Iterator[Indices]:
    """Close pairs among those that follow each other in an order, each as one number; and which are crowded there."""
    count = len(hashes)
    ends = np.flatnonzero(np.diff(keys[order] >> np.uint64(64 - bits), append=np.uint64(2**63)))
    lengths = np.diff(ends, prepend=-1)  # of runs of hashes that agree in the blocks
    of_each = np.repeat(lengths, lengths)
    crowded[order[of_each > _WINDOW + 1]] = True
    order = order[of_each > 1]
    in_order = hashes[order]
    for ahead in range(1, min(_WINDOW + 1, int(lengths.max(initial=0)))):
        # Some are of two runs, which does no harm.
        close = np.flatnonzero(np.bitwise_count(in_order[ahead:] ^ in_order[:-ahead]) <= MOST_BITS)
        one, other = order[close], order[close + ahead]
        yield np.minimum(one, other) * count + np.maximum(one, other)


def _distinct(values: Indices) -> Indices:
    """The values in order, each once: np.unique takes four times as long."""
    values.sort()
    return values[np.diff(values, prepend=-1) > 0]


def _with_blocks_first(hashes: Hashes) -> Iterator[tuple[Hashes, int]]:
    """Hashes with two blocks of their bits first, the last of the others cut off; and how many bits the blocks have."""
    blocks = [*pairwise(64 * block // _BLOCKS for block in range(_BLOCKS + 1))]
    for chosen in chain(*(combinations(each, _AGREEING) for each in (blocks[:_FIRST], blocks[_FIRST:]))):
        keys, bits = np.zeros_like(hashes), 0
        for start, stop in chosen:
            keys = keys << np.uint64(stop - start) | hashes >> np.uint64(start) & np.uint64((1 << stop - start) - 1)
            bits += stop - start
        yield keys << np.uint64(64 - bits) | hashes >> np.uint64(bits), bits
