"""Images that stay in memory-mapped files: batches are cut from them on the host, ahead of their use."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from components.shared.artifacts.dataset import Images, Labels, Split
from components.shared.errors import ArtifactError
from components.shared.limits import usable_cpus
from components.shared.process_group import member

Batches = Generator[Tensor, None, None]
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# What waits on the host or on its way to the device, beside the batch in use: so many bytes, in so many batches.
_AHEAD_BYTES, _LEAST_AHEAD, _MOST_AHEAD = 2**28, 2, 8
# Images from this size on are copied one by one straight to where they belong. Of smaller ones many share a page, and
# one call of NumPy's for all of a shard takes less time than one for each.
_LARGE_BYTES = 2**14
# Threads that read for a GPU: one copies 15 GB/s and more from the page cache; several keep a disk or a network busy.
_THREADS = 4

# The C library's and not Python's, which holds the interpreter's lock while the kernel asks the disk.
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class MappedImages:
    """Images in memory-mapped files; each batch is cut on the host, copied to the device, and the caller's own.

    All methods raise :class:`ArtifactError` where a file of the dataset became shorter since it was opened.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._shards = split.shards
        self._starts = np.cumsum([0, *(len(shard) for shard in split.shards)])
        self._opened = [_file_of(shard) for shard in split.shards]
        self._addresses = [shard.ctypes.data if isinstance(shard, np.memmap) else None for shard in split.shards]
        self._image_bytes = split.shards[0][0].nbytes
        self._device = device
        self._copying: torch.cuda.Stream | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: Tensor) -> Tensor:
        """Images at these indices, cut now."""
        wanted = indices.cpu().numpy()
        batch = self._empty(len(wanted))
        self._gather(wanted, batch.numpy())
        return batch.to(self._device)

    def batches(self, order: Tensor, slices: Sequence[slice]) -> Batches:
        """The images at ``order[part]`` for each slice, cut and copied some batches ahead of use.

        Nothing random happens ahead, so that a run may stop between any two batches. Callers that may stop before the
        end close the generator (``contextlib.closing``).
        """
        return self._read_ahead([order.numpy()[part] for part in slices])

    def spans(self, slices: Sequence[slice]) -> Batches:
        """The images of each slice in stored order, as :meth:`batches` gives them."""
        return self._read_ahead([np.arange(*part.indices(len(self))) for part in slices])

    def _empty(self, count: int, *, pinned: bool = False) -> Tensor:
        return torch.empty((count, *self._shards[0].shape[1:]), dtype=torch.uint8, pin_memory=pinned)

    def _read_ahead(self, parts: Sequence[Labels]) -> Batches:
        batch_bytes = max((len(part) for part in parts), default=0) * self._image_bytes
        ahead = min(max(_AHEAD_BYTES // max(batch_bytes, 1), _LEAST_AHEAD), _MOST_AHEAD)
        if self._device.type == "cuda" and parts:
            return self._copied_ahead(parts, ahead)
        # On the CPU the cores are training's.
        return read_ahead(lambda part: self.take(torch.from_numpy(part)), parts, ahead)

    def _copied_ahead(self, parts: Sequence[Labels], ahead: int) -> Batches:
        # The same every time: torch keeps the memory that a stream has used for that stream alone.
        if self._copying is None:
            self._copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        copying = self._copying

        def copied(part: Labels) -> tuple[Tensor, torch.cuda.Event]:
            # torch keeps pinned memory, and gives it out again when the copy from it has ended.
            pinned = self._empty(len(part), pinned=True)
            self._gather(part, pinned.numpy())
            with torch.cuda.stream(copying):  # which makes its device the current one of this thread, too
                return pinned.to(self._device, non_blocking=True), copying.record_event()

        # A core is left to the thread that issues the steps, of each process of this machine.
        threads = max(1, min(_THREADS, usable_cpus() // member().local_size - 1))
        for batch, ready in read_ahead(copied, parts, ahead, threads):
            current = torch.cuda.current_stream(self._device)
            current.wait_event(ready)
            # The memory belongs to the copying stream, which must not reuse it before this one is done with it.
            batch.record_stream(current)
            yield batch

    def _gather(self, wanted: Labels, out: Images) -> None:
        if not len(wanted):
            return
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"indices {wanted.min()} to {wanted.max()} of {len(self)} images")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        for shard in np.unique(numbers):
            self._require_whole(shard)
        if self._image_bytes >= _LARGE_BYTES:
            self._copy_each(wanted, numbers, out)
        else:
            self._copy_sorted(wanted, out)

    def _copy_each(self, wanted: Labels, numbers: Labels, out: Images) -> None:
        """`numbers` are those of the shards that the images are in."""
        positions = list(zip(numbers.tolist(), (wanted - self._starts[numbers]).tolist(), strict=True))
        # The kernel is asked for all of them before the first is waited for: what is not in its page cache comes from
        # a disk at 1.2 GB/s instead of 0.4.
        for number, index in positions:
            if (address := self._addresses[number]) is not None:
                begin = address + index * self._image_bytes
                page = begin & -mmap.PAGESIZE
                _madvise(page, begin + self._image_bytes - page, mmap.MADV_WILLNEED)
        for image, (number, index) in zip(out, positions, strict=True):
            image[...] = self._shards[number][index]  # NumPy lets other threads run meanwhile

    def _copy_sorted(self, wanted: Labels, out: Images) -> None:
        # They are read in the order they are stored in, each shard and page once, and put in order by a second copy
        # where that is another one: NumPy lets other threads run during both.
        is_sorted = bool((wanted[1:] >= wanted[:-1]).all())
        by_index = np.argsort(wanted, kind="stable")
        stored = wanted[by_index]
        read = out if is_sorted else np.empty_like(out)
        bounds = np.searchsorted(stored, self._starts)
        for shard, (first, last) in enumerate(pairwise(bounds)):
            if last > first:
                # "clip" and not "raise", which makes a copy of the result; the indices are in range by now.
                here = stored[first:last] - self._starts[shard]
                np.take(self._shards[shard], here, axis=0, out=read[first:last], mode="clip")
        if not is_sorted:
            np.take(read, np.argsort(by_index), axis=0, out=out, mode="clip")

    def _require_whole(self, shard: int) -> None:
        # Reading a page that is gone ends the process (SIGBUS). What is cut between this check and the reading still
        # does; a dataset in use is written to by mistake alone.
        if (opened := self._opened[shard]) is None:
            return
        file, before = opened
        try:
            now = file.stat()
        except FileNotFoundError:
            return  # removed, and kept alive by the map
        if os.path.samestat(now, before) and now.st_size < before.st_size:
            raise ArtifactError(
                f"{file}: became shorter while it was read, from {before.st_size:,} to {now.st_size:,} bytes; "
                "prepare the data again"
            )


def _file_of(shard: Images) -> tuple[Path, os.stat_result] | None:
    name = shard.filename if isinstance(shard, np.memmap) else None
    return None if name is None else (Path(name), Path(name).stat())


def read_ahead(
    work: Callable[[ItemT], ResultT], items: Iterable[ItemT], depth: int, threads: int = 1
) -> Generator[ResultT, None, None]:
    """Yield ``work(item)`` for each item in order, made by threads up to `depth` results before they are asked for.

    The threads start with the first result asked for; an error of `work` comes after the results before it. When the
    generator is closed it waits for the items in work, one of each thread.
    """
    waiting: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for result in waiting:
                result.cancel()
