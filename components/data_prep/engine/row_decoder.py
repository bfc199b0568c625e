"""Decodes positions of a split of the source into rows of pixel files, with facts of each image.

The first of two stages: :class:`RowDecoder` is given a :class:`Placing`, which says by position which row of which file
an image becomes, and fills a :class:`~components.data_prep.engine.facts.Facts`. It knows nothing of datasets: the files
may be a dataset's, at their final place, or those of a part of one. The second stage is ``assemble.py``.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from components.data_prep.contents import Block, Encoded
from components.data_prep.engine.chunks import Chunk, Rows, decode_chunk, raw_rows, write_rows
from components.data_prep.engine.facts import Facts
from components.data_prep.engine.feed import Feed
from components.data_prep.engine.pool import Job, Pool, worker_count
from components.data_prep.layouts.source import SourceSplit
from components.shared.artifacts.dataset import UnreadableImage
from components.shared.artifacts.row_digests import RowDigests
from components.shared.artifacts.row_files import RowFiles
from components.shared.decoding.content import Content
from components.shared.decoding.images import DecodingMemory
from components.shared.decoding.rendering import Rendering
from components.shared.files import naming
from components.shared.limits import usable_cpus
from components.shared.pixel_sums import Sums
from components.shared.text import shown

# Of rows, and images: tens of milliseconds of decoding, so that what a message and the calls that find its facts cost
# does not count: of images of 224², in color, with 2 MiB 20 µs more each.
_CHUNK_BYTES, _CHUNK_IMAGES = 4 * 1024**2, 256
# Seconds that this process would need for the rest, from which on workers pay: one takes 0.3 s to start.
_PAYS_S = 1.0


@dataclass
class Placing:
    """Where the rows of a split's images go, by position."""

    files: npt.NDArray[np.int32]  # of shape (n,): index into paths; -1: not to be decoded
    offsets: npt.NDArray[np.int64]  # of shape (n,): in bytes, in the file
    counted: npt.NDArray[np.bool_]  # of shape (n,): whether it is part of the histogram
    paths: list[Path] = field(default_factory=list)
    # Is called with a file and the rows of it that are written now.
    written: Callable[[Path, npt.NDArray[np.int64]], None] = lambda path, rows: None
    layout: tuple[int, int] = (0, 1)  # bytes before a file's first row, and of a row

    @classmethod
    def of(cls, count: int) -> Self:
        """Of so many positions, none of which is to be decoded."""
        return cls(np.full(count, -1, np.int32), np.zeros(count, np.int64), np.zeros(count, np.bool_))

    def put(
        self, positions: npt.NDArray[np.int64], files: RowFiles, digests: RowDigests | None = None, *, counted: bool
    ) -> None:
        """Have the images at some positions become all rows of files, which are made, in this order."""
        if digests is None:
            files.make(len(positions))
        else:
            files.plan(len(positions), digests)
            self.written = digests.written
        numbers, offsets = files.located(np.arange(len(positions)))
        self.files[positions], self.offsets[positions] = len(self.paths) + numbers, offsets
        self.counted[positions] = counted
        self.layout = (files.header_bytes, files.row_bytes)
        self.paths += files.paths


class RowDecoder:
    """Decodes splits one after another, in worker processes where that pays; use as a context manager.

    Order and bytes of what is made do not depend on the workers.

    Args:
        rendering: What is made of every image.
        advance: Gets how many images are done since it was last called, in the thread that decodes.
    """

    def __init__(self, rendering: Rendering, advance: Callable[[int], None] = lambda count: None) -> None:
        self._rendering, self._advance = rendering, advance
        self._workers = worker_count()
        self._pool: Pool | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # what Pillow warns of is read, or set aside with a reason
        return self

    def __exit__(self, *of_error: Any) -> None:
        self._stack.close()

    def decode(self, split: SourceSplit, placing: Placing, facts: Facts, sums: Sums) -> None:
        """Decode the images that are placed, write each to its row, and fill facts and sums.

        Args:
            split: What they are read from.
            placing: Where each row goes.
            facts: Of the split's positions; those of images that cannot be read get a reason, and no row.
            sums: Gets the values of those that are counted and readable.

        Raises:
            DataError: The data cannot be read.
            OSError: A row cannot be written.
        """
        wanted = np.flatnonzero(placing.files >= 0).tolist()
        most = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // math.prod(self._rendering.shape)))
        with (
            Feed(split.read, wanted, most, max(1, self._workers)) as feed,
            ThreadPoolExecutor(usable_cpus()) as threads,
        ):
            jobs = _Jobs(split, self._rendering, placing, facts, sums, feed, threads)
            if not self._decode_here(jobs, len(wanted)) and self._pool is not None:
                for _ in self._pool.serve(jobs, feed.close):
                    self._advance(jobs.done())
            jobs.finish_blocks()
        self._advance(jobs.done())

    def _decode_here(self, jobs: _Jobs, count: int) -> bool:
        """Decode until workers do, or to the end; whether that is reached."""
        spent, done, memory = 0.0, 0, DecodingMemory.of_half_the_free()
        while self._pool is None or not self._pool.is_ready():
            if (job := jobs.take(patiently=True)) is None:
                return True
            start = time.perf_counter()
            jobs.decode_alone(job, memory)
            spent, done = spent + time.perf_counter() - start, done + len(job.images)
            self._advance(jobs.done())
            if self._pool is None and self._workers and spent / done * (count - done) > _PAYS_S:
                self._pool = self._stack.enter_context(Pool(self._workers, self._rendering))
        return False


class _Jobs:
    """One split that is being decoded; threads take jobs and bring what was found out."""

    def __init__(
        self,
        split: SourceSplit,
        rendering: Rendering,
        placing: Placing,
        facts: Facts,
        sums: Sums,
        feed: Feed,
        threads: Executor,
    ) -> None:
        self._split, self._rendering, self._placing, self._facts = split, rendering, placing, facts
        self._sums, self._feed = sums, feed
        self._threads, self._blocks = threads, deque[Future[None]]()
        self._done = 0
        self._changing = threading.Lock()

    def done(self) -> int:
        """How many images are done since it was last asked."""
        with self._changing:
            done, self._done = self._done, 0
        return done

    def take(self, *, patiently: bool) -> Job | None:
        """The next images to be decoded; blocks, which are not, are done in threads, as NumPy has most of the work."""
        while (taken := self._feed.take(patiently=patiently)) is not None:
            if isinstance(taken, Block):
                self._blocks.append(self._threads.submit(self._finish_block, taken))
                while self._blocks and self._blocks[0].done():
                    self._blocks.popleft().result()
            elif images := [image for image in taken if not self._has_problem(image)]:
                return self._job(images)
        return None

    def finish_blocks(self) -> None:
        """Wait until all blocks are done; raises what went wrong with one."""
        while self._blocks:
            self._blocks.popleft().result()

    def _has_problem(self, image: Encoded) -> bool:
        if image.problem:
            self._set_aside([image], image.problem)
        return bool(image.problem)

    def _job(self, images: list[Encoded]) -> Job:
        chunk, files = self._chunk(np.array([image.position for image in images]), [image.content for image in images])
        return Job(images, chunk, files)

    def _chunk(self, positions: npt.NDArray[np.int64], contents: list[Content]) -> tuple[Chunk, list[int]]:
        files, numbers = np.unique(self._placing.files[positions], return_inverse=True)
        chunk = Chunk(contents, numbers, self._placing.offsets[positions], self._placing.counted[positions])
        return chunk, files.tolist()

    def parts(self, job: Job) -> list[Job]:
        """A job for each of its images."""
        return [self._job([image]) for image in job.images]

    @contextmanager
    def opened(self, job: Job) -> Iterator[list[int]]:
        """The files that its rows go to."""
        with self._opened(job.files) as descriptors:
            yield descriptors

    def decode_alone(self, job: Job, memory: DecodingMemory | None = None) -> None:
        """Decode it in this process, with all memory that is free."""
        with self._opened(job.files) as descriptors:
            memory = memory or DecodingMemory.of_half_the_free()
            rows = decode_chunk(job.chunk, descriptors, self._rendering, memory)
        self._put(job, rows)

    def finish(self, job: Job, rows: Rows) -> list[Job]:
        """Take what a worker found out; those for which it has too little memory, each a job."""
        large = {index: job.images[index] for index in rows.too_large}
        self._put(job, rows, large)
        return [self._job([image]) for image in large.values()]

    def set_aside(self, job: Job, reason: str) -> None:
        """Take note that its images cannot be read."""
        self._set_aside(job.images, reason)

    def _put(self, job: Job, rows: Rows, large: Mapping[int, Encoded] = MappingProxyType({})) -> None:
        positions = np.array([image.position for image in job.images])
        chosen = np.ones(len(positions), dtype=np.bool_)
        chosen[list(large)] = False
        self._take_over(positions, rows, chosen)
        self._report_written(job.files, job.chunk, rows)
        for index, image in enumerate(job.images):
            if index not in large:
                self._feed.release(image)

    def _report_written(self, files: list[int], chunk: Chunk, rows: Rows) -> None:
        are_written = np.ones(len(chunk.files), dtype=np.bool_)
        are_written[list(rows.reasons)] = False
        before, each = self._placing.layout
        for number, file in enumerate(files):
            of_file = chunk.offsets[are_written & (chunk.files == number)]
            self._placing.written(self._placing.paths[file], (of_file - before) // each)

    def _finish_block(self, block: Block) -> None:
        try:
            self._put_block(block)
        finally:  # else the feed would wait, and nobody see the error
            self._feed.release(block)

    def _put_block(self, block: Block) -> None:
        positions = np.arange(block.start, block.start + len(block.images))
        positions = positions[self._placing.files[positions] >= 0]
        if not len(positions):  # of another part
            return
        kind = f"{block.format} {'L' if block.images.shape[3] == 1 else 'RGB'}"
        counted = self._placing.counted[positions]
        chosen = block.images if len(positions) == len(block.images) else block.images[positions - block.start]
        images, rows = raw_rows(chosen, kind, self._rendering, counted)
        chunk, files = self._chunk(positions, [])
        every = np.ones(len(positions), dtype=np.bool_)
        with self._opened(files) as descriptors:
            write_rows(images, chunk.files, chunk.offsets, every, descriptors)
        self._take_over(positions, rows, every)
        self._report_written(files, chunk, rows)

    def _take_over(self, positions: npt.NDArray[np.int64], rows: Rows, chosen: npt.NDArray[np.bool_]) -> None:
        facts = self._facts
        with self._changing:
            facts.sizes[positions], facts.digests[positions] = rows.sizes, rows.digests
            facts.hashes[positions], facts.constant[positions] = rows.hashes, rows.constant
            known = {kind: facts.kind(kind) if kind else 0 for kind in dict.fromkeys(rows.kinds)}
            facts.kinds[positions] = [known[kind] for kind in rows.kinds] if len(known) > 1 else [*known.values()]
            for index, notes in rows.notes.items():
                facts.notes[int(positions[index])] = notes
            for index, reason in rows.reasons.items():
                if chosen[index]:
                    self._note_unreadable(int(positions[index]), reason)
            self._sums += rows.sums
            self._done += int(chosen.sum())

    def _set_aside(self, images: list[Encoded], reason: str) -> None:
        with self._changing:
            for image in images:
                self._note_unreadable(image.position, reason)
            self._done += len(images)
        for image in images:
            self._feed.release(image)

    def _note_unreadable(self, position: int, reason: str) -> None:
        name = shown(self._split.names[position])
        self._facts.unreadable[position] = UnreadableImage(file=name, reason=reason)

    @contextmanager
    def _opened(self, files: Sequence[int]) -> Iterator[list[int]]:
        """Files of the placing; an error of writing within names the first."""
        with ExitStack() as stack:
            descriptors = []
            for file in files:
                path = self._placing.paths[file]
                stack.enter_context(naming(path))
                descriptors.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, descriptors[-1])
            yield descriptors
