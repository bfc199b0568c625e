"""Images that stay in memory-mapped files: batches are cut from them on the host, ahead of their use."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
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

# What waits on the host or on its way to the device, beside the batch in use: so many bytes, and batches.
_AHEAD_BYTES, _AHEAD = 2**28, (2, 8)
# Of images from this size on each is a call to the kernel, which copies it to where it belongs. Of smaller ones many
# share a page, and one call of NumPy's for all takes less than one for each.
_READ_BYTES = 2**14
# Threads that read for a GPU: one copies 3 to 19 GB/s from the page cache, several keep a disk or a network busy.
_THREADS = 4


class MappedImages:
    """Images in memory-mapped files; each batch is cut on the host, copied to the device, and the caller's own.

    All methods raise :class:`ArtifactError` where a file of the dataset became shorter since it was opened.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._shards = [_Shard(images) for images in split.shards]
        self._starts = np.cumsum([0, *(len(images) for images in split.shards)])
        self._shape = split.shards[0].shape[1:]
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
        return torch.empty((count, *self._shape), dtype=torch.uint8, pin_memory=pinned)

    def _read_ahead(self, parts: Sequence[Labels]) -> Batches:
        size = max((len(part) for part in parts), default=0) * int(np.prod(self._shape))
        fewest, most = _AHEAD
        ahead = min(max(_AHEAD_BYTES // max(size, 1), fewest), most)
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
        if out[0].nbytes >= _READ_BYTES and all(shard.file is not None for shard in self._shards):
            self._read(wanted, out)
            return
        # They are read in the order they are stored in, each shard and page once, and put in order by a second copy
        # where that is another one: NumPy lets other threads run during both.
        is_sorted = bool((wanted[1:] >= wanted[:-1]).all())
        by_index = np.argsort(wanted, kind="stable")
        stored = wanted[by_index]
        read = out if is_sorted else np.empty_like(out)
        bounds = np.searchsorted(stored, self._starts)
        for shard, (first, last) in enumerate(pairwise(bounds)):
            if last > first:
                self._shards[shard].require_whole()
                # "clip" and not "raise", which makes a copy of the result; the indices are in range by now.
                here = stored[first:last] - self._starts[shard]
                np.take(self._shards[shard].images, here, axis=0, out=read[first:last], mode="clip")
        if not is_sorted:
            np.take(read, np.argsort(by_index), axis=0, out=out, mode="clip")

    def _read(self, wanted: Labels, out: Images) -> None:
        """Have the kernel copy each image to where it belongs, having named all of them first."""
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        found = [(self._shards[shard], index) for shard, index in zip(numbers, wanted - self._starts[numbers])]
        # Of files that are not in memory, 1.2 GB/s and not 0.7 from this machine's disk, and 0.4 through the map.
        for shard, index in found:
            shard.announce(index)
        for (shard, index), image in zip(found, out, strict=True):
            shard.read(index, image)
