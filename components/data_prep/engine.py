"""Decodes positions of a split of the source into rows of pixel files, with facts of each image.

The first of two stages: :func:`decode_rows` is given a :class:`Placing`, which says by position which row of which file
an image becomes, and fills a :class:`~components.data_prep.facts.Facts`. It knows nothing of datasets: the files may be
a dataset's, at their final place, or those of a part of one. The second stage is ``assemble.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from components.data_prep.chunks import Chunk, Rows, decode_chunk, raw_rows, write_rows
from components.data_prep.contents import Block, Encoded
from components.data_prep.facts import Facts
from components.data_prep.source import SourceSplit
from components.shared.artifacts.dataset import UnreadableImage
from components.shared.artifacts.row_files import Histogram, RowFiles
from components.shared.decoding.images import DecodingMemory
from components.shared.decoding.rendering import Rendering
from components.shared.files import naming
from components.shared.text import shown

_CHUNK_BYTES, _CHUNK_IMAGES = 2 * 1024**2, 256


@dataclass
class Placing:
    """Where the rows of a split's images go, by position."""

    files: npt.NDArray[np.int32]  # of shape (n,): index into paths; -1: not to be decoded
    offsets: npt.NDArray[np.int64]  # of shape (n,): in bytes, in the file
    counted: npt.NDArray[np.bool_]  # of shape (n,): whether it is part of the histogram
    paths: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, count: int) -> Self:
        """Of so many positions, none of which is to be decoded."""
        return cls(np.full(count, -1, np.int32), np.zeros(count, np.int64), np.zeros(count, np.bool_))

    def put(self, positions: npt.NDArray[np.int64], files: RowFiles, *, counted: bool) -> None:
        """Have the images at some positions become the first rows of files, which are made, in this order."""
        files.make(len(positions))
        numbers, offsets = files.located(np.arange(len(positions)))
        self.files[positions], self.offsets[positions] = len(self.paths) + numbers, offsets
        self.counted[positions] = counted
        self.paths += files.paths


def decode_rows(
    split: SourceSplit,
    rendering: Rendering,
    placing: Placing,
    facts: Facts,
    histogram: Histogram,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Decode the images that are placed, write each to its row, and fill facts and histogram.

    Args:
        split: What they are read from.
        rendering: What is made of every image.
        placing: Where each row goes.
        facts: Of the split's positions; those of images that cannot be read get a reason, and no row.
        histogram: Gets the values of those that are counted and readable.
        advance: Gets how many images are done since it was last called.

    Raises:
        DataError: The data cannot be read.
        OSError: A row cannot be written.
    """
    decoding = _Decoding(split, rendering, placing, facts, histogram, advance)
    waiting: list[Encoded] = []
    most = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // np.prod(rendering.shape).item()))
    for each in split.read(np.flatnonzero(placing.files >= 0).tolist()):
        if isinstance(each, Block):
            decoding.take_block(each)
            continue
        waiting.append(each)
        if len(waiting) == most:
            decoding.take(waiting)
            waiting = []
    if waiting:
        decoding.take(waiting)


class _Decoding:
    """One split that is being decoded."""

    def __init__(
        self,
        split: SourceSplit,
        rendering: Rendering,
        placing: Placing,
        facts: Facts,
        histogram: Histogram,
        advance: Callable[[int], None],
    ) -> None:
        self._split, self._rendering, self._placing, self._facts = split, rendering, placing, facts
        self._histogram, self._advance = histogram, advance
        self._memory = DecodingMemory.of_half_the_free()

    def take(self, images: Sequence[Encoded]) -> None:
        for image in images:
            if image.problem:
                self._set_aside(image.position, image.problem)
                if image.release:
                    image.release()
        images = [image for image in images if not image.problem]
        if not images:
            return
        positions = np.array([image.position for image in images])
        files, indices = np.unique(self._placing.files[positions], return_inverse=True)
        chunk = Chunk(
            [image.content for image in images],
            indices.tolist(),
            self._placing.offsets[positions].tolist(),
            self._placing.counted[positions].tolist(),
        )
        with self._opened(files.tolist()) as descriptors:
            rows = decode_chunk(chunk, descriptors, self._rendering, self._memory)
        for image in images:
            if image.release:
                image.release()
        self._put(positions, rows)

    def take_block(self, block: Block) -> None:
        positions = np.arange(block.start, block.start + len(block.images))
        wanted = self._placing.files[positions] >= 0
        positions = positions[wanted]
        kind = f"{block.format} {'L' if block.images.shape[3] == 1 else 'RGB'}"
        images, rows = raw_rows(block.images[wanted], kind, self._rendering, self._placing.counted[positions])
        files, indices = np.unique(self._placing.files[positions], return_inverse=True)
        with self._opened(files.tolist()) as descriptors:
            every = np.ones(len(positions), dtype=np.bool_)
            write_rows(images, indices.tolist(), self._placing.offsets[positions].tolist(), every, descriptors)
        self._put(positions, rows)

    def _put(self, positions: npt.NDArray[np.int64], rows: Rows) -> None:
        facts = self._facts
        facts.sizes[positions], facts.digests[positions] = rows.sizes, rows.digests
        facts.hashes[positions], facts.constant[positions] = rows.hashes, rows.constant
        facts.kinds[positions] = [facts.kind(kind) for kind in rows.kinds]
        for index, notes in rows.notes.items():
            facts.notes[int(positions[index])] = notes
        for index, reason in rows.reasons.items():
            self._set_aside(int(positions[index]), reason)
        self._histogram += rows.histogram
        self._advance(len(positions))

    def _set_aside(self, position: int, reason: str) -> None:
        name = shown(self._split.names[position])
        self._facts.unreadable[position] = UnreadableImage(file=name, reason=reason)

    @contextmanager
    def _opened(self, files: Sequence[int]) -> Iterator[list[int]]:
        with ExitStack() as stack:
            descriptors = []
            for file in files:
                path = self._placing.paths[file]
                stack.enter_context(naming(path))
                descriptors.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, descriptors[-1])
            yield descriptors
