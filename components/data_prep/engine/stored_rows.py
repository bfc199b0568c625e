"""Rows of pixels that are read again: of parts that are joined, and of an earlier dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from components.shared.artifacts.dataset import Images
from components.shared.artifacts.row_digests import RowDigests
from components.shared.artifacts.row_files import RowFiles
from components.shared.limits import usable_cpus
from components.shared.pixel_sums import Sums, sums_of, sums_of_rows

_AT_ONCE_BYTES = 4 * 1024**2
# Rows that follow each other are handed out as they are mapped, not copied, where they have so many bytes on average.
_WORTH_A_PIECE = 64 * 1024

Positions = npt.NDArray[np.int64]


class StoredRows:
    """Images in several arrays, as one that follows after the other.

    Args:
        shards: uint8 of shape (n, height, width, channels), mapped; all of one size.
    """

    def __init__(self, shards: Sequence[Images]) -> None:
        self._shards = [shard for shard in shards if len(shard)]
        self._starts = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: Positions) -> Images:
        """The images at some rows, at least one."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        images = np.empty((len(rows), *self._shards[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(which).tolist():
            of_shard = which == number
            images[of_shard] = self._shards[number][rows[of_shard] - self._starts[number]]
        return images

    def pieces(self, rows: Positions) -> Iterator[tuple[slice, Images]]:
        """The images at some rows, at least one, in their order; of each piece, which of `rows` it has."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        runs = [*_runs(rows + which)]  # of arrays one after another, too: a row of one is never the next of another
        if len(rows) * self._shards[0][0].nbytes < len(runs) * _WORTH_A_PIECE:
            yield slice(0, len(rows)), self.read(rows)
            return
        for start, stop in runs:
            number = int(which[start])
            first = int(rows[start] - self._starts[number])
            yield slice(start, stop), self._shards[number][first : first + stop - start]

    def sums(self, rows: Positions) -> Sums:
        """What :func:`sums_of` finds in the images at some rows."""
        return sums_of_rows(self.read, rows, self._shards[0].shape[1:])


def copy_rows(
    stored: StoredRows,
    rows: Positions,
    files: RowFiles,
    targets: Positions,
    digests: RowDigests,
    advance: Callable[[int], None],
    sums: Sums | None = None,
    seen: Callable[[slice, Images], None] = lambda at, images: None,
) -> None:
    """Copy images to rows of a dataset, in as many threads as there are CPUs.

    Args:
        stored: What they are read from.
        rows: Which of them.
        files: Gets them.
        targets: The row there of each, ascending.
        digests: Those of the files, which are planned.
        advance: Gets how many are copied since it was last called, in this thread.
        sums: Gets their values.
        seen: Gets each piece of them, in any thread: which of `rows` it is, and the images.
    """
    at_once = max(1, _AT_ONCE_BYTES // files.row_bytes)

    def copy(start: int) -> Sums:
        at = slice(start, min(start + at_once, len(rows)))
        total = np.zeros((files.shape[2], 3), dtype=np.int64)
        for piece, images in stored.pieces(rows[at]):
            for first, last in _runs(targets[at][piece]):
                files.write(int(targets[start + piece.start + first]), images[first:last])
            seen(slice(start + piece.start, start + piece.stop), images)
            if sums is not None:
                total += sums_of(images)
        numbers = targets[at] // files.per_file
        for number in np.unique(numbers).tolist():
            digests.written(files.paths[number], targets[at][numbers == number] % files.per_file)
        return total

    starts = range(0, len(rows), at_once)
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for start, of_piece in zip(starts, pool.map(copy, starts), strict=True):
            if sums is not None:
                sums += of_piece
            advance(min(at_once, len(rows) - start))


def _runs(rows: Positions) -> Iterator[tuple[int, int]]:
    """Where rows that follow each other begin and end."""
    breaks = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    return zip([0, *breaks], [*breaks, len(rows)], strict=True)
