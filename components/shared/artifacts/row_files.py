"""Rows of pixels in the files of a dataset: written, read and moved by their position."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.shared.artifacts.artifact import FileRecord
from components.shared.artifacts.dataset import Images, ShardRecord, SplitName
from components.shared.artifacts.row_digests import RowDigests
from components.shared.files import naming, read_at, write_at
from components.shared.pixel_sums import Sums, sums_of_rows

SHARD_BYTES = 256 * 1024**2
_NEARLY = 4  # at most so much more memory than what is wanted


def npy_header(count: int, shape: tuple[int, ...]) -> bytes:
    """The header of a uint8 array of `count` rows of a shape, as numpy.save writes it: of one length for any count."""
    stream = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


@dataclass
class RowFiles:
    """Images of one split, each a row of bytes, in files of at most ``SHARD_BYTES``; written and read in any order.

    Args:
        new_file: Makes the path of the file of a number.
        shape: Height, width, channels of an image.
    """

    new_file: Callable[[int], Path]
    shape: tuple[int, int, int]
    paths: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row_bytes = math.prod(self.shape)
        self.per_file = max(1, SHARD_BYTES // self.row_bytes)
        self.header_bytes = len(npy_header(0, self.shape))

    def plan(self, count: int, digests: RowDigests) -> None:
        """Make the files of exactly so many rows, which are digested as they are written."""
        self.make(count)
        for number, path in enumerate(self.paths):
            rows = min(self.per_file, count - number * self.per_file)
            with self._opened(number) as descriptor:
                write_at(descriptor, npy_header(rows, self.shape), 0)
            digests.expect(path, self.header_bytes, rows, self.row_bytes)

    def make(self, count: int) -> None:
        """Make the files of so many rows."""
        while len(self.paths) * self.per_file < count:
            path = self.new_file(len(self.paths))
            with naming(path):
                path.open("xb").close()
            self.paths.append(path)

    def located(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The number of each row's file, and the row's offset in it in bytes."""
        return rows // self.per_file, self.header_bytes + rows % self.per_file * self.row_bytes

    def write(self, first: int, images: Images) -> None:
        """Write images of shape (n, height, width, channels) as rows from `first` on; their files are made."""
        self.make(first + len(images))
        while len(images):
            number, row = divmod(first, self.per_file)
            taken = min(len(images), self.per_file - row)
            with self._opened(number) as descriptor:
                write_at(descriptor, images[:taken], self.header_bytes + row * self.row_bytes)
            first, images = first + taken, images[taken:]

    def read(self, rows: npt.ArrayLike) -> Images:
        """The images at some rows, of shape (n, height, width, channels)."""
        wanted = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(wanted), *self.shape), dtype=np.uint8)
        for number in np.unique(wanted // self.per_file).tolist():
            with self._opened(number) as descriptor:
                of_file = np.flatnonzero(wanted // self.per_file == number)
                inner = wanted[of_file] % self.per_file
                # Rows that ascend and nearly follow each other at once: in a tenth of the time of one by one.
                breaks = np.flatnonzero((np.diff(inner) < 0) | (np.diff(inner) > _NEARLY)) + 1
                starts, stops = np.append(0, breaks), np.append(breaks, len(inner))
                runs = zip(*(each.tolist() for each in (starts, stops, inner[starts], inner[stops - 1])), strict=True)
                for start, stop, first, last in runs:
                    offset = self.header_bytes + first * self.row_bytes
                    if stop - start == 1:
                        read_at(descriptor, found[of_file[start]], offset)
                        continue
                    part = np.empty((last + 1 - first, *self.shape), dtype=np.uint8)
                    read_at(descriptor, part, offset)
                    found[of_file[start:stop]] = part[inner[start:stop] - first]
        return found

    def sums(self, count: int) -> Sums:
        """What :func:`sums_of` finds in the first `count` rows."""
        return sums_of_rows(self.read, np.arange(count), self.shape)

    def finish(self, count: int, record: Callable[[Path], FileRecord]) -> list[ShardRecord]:
        """Make the files arrays of `count` rows in all, drop those beyond, and record each."""
        while len(self.paths) > max(1, -(-count // self.per_file)):
            self.paths.pop().unlink()
        shards = []
        for number, path in enumerate(self.paths):
            rows = min(self.per_file, count - number * self.per_file)
            with self._opened(number) as descriptor:
                os.ftruncate(descriptor, self.header_bytes + rows * self.row_bytes)
                write_at(descriptor, npy_header(rows, self.shape), 0)
            shards.append(ShardRecord(count=rows, **record(path).model_dump()))
        return shards

    @contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        with naming(self.paths[number]):
            descriptor = os.open(self.paths[number], os.O_RDWR | os.O_CLOEXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)


Slots = npt.NDArray[np.int64]


def rearrange(
    files: Mapping[SplitName, RowFiles], room: Mapping[SplitName, int], wanted: Mapping[SplitName, Slots]
) -> None:
    """Move rows within the files of all splits, each read and written at most once.

    Args:
        files: Of each split.
        room: Rows that each split has, or is to have if these are more; a row's slot is its position in all splits, one
            after another.
        wanted: By split, the slots of the rows that it is to have: of all splits each at most once.
    """
    starts = dict(zip(room, np.cumsum([0, *room.values()]).tolist(), strict=False))
    total = sum(room.values())
    source = np.full(total, -1, dtype=np.int64)  # by slot: whose row it gets
    for split, slots in wanted.items():
        source[starts[split] : starts[split] + len(slots)] = slots
    is_needed = np.zeros(total, dtype=np.bool_)
    is_needed[source[source >= 0]] = True
    located = [(files[split], start) for split, start in reversed(starts.items())]

    def row_of(slot: int) -> tuple[RowFiles, int]:
        return next((of_split, slot - start) for of_split, start in located if slot >= start)

    def fill(slot: int, stop: int = -1) -> int:
        """Move rows along, from the slot that gets one on; the last slot, whose row is not on the disk any more."""
        while (origin := int(source[slot])) not in (-1, stop):
            of_split, row = row_of(origin)
            of_target, target = row_of(slot)
            of_target.write(target, of_split.read([row]))
            source[slot] = -1
            slot = origin
        return slot

    for slot in np.flatnonzero((source >= 0) & ~is_needed).tolist():
        fill(slot)
    for slot in np.flatnonzero(source >= 0).tolist():  # what is left are rounds
        if source[slot] not in (-1, slot):
            of_split, row = row_of(slot)
            kept = of_split.read([row])
            last = fill(slot, stop=slot)
            of_split, row = row_of(last)
            of_split.write(row, kept)
            source[last] = -1
