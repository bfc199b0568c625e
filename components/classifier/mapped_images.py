"""Images that stay on disk: batches are cut from the memory map by a thread, ahead of their use."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.classifier.read_ahead import read_ahead
from components.shared.artifacts.dataset import Images, Split
from components.shared.errors import ArtifactError

# Batches that wait on the host or on their way to the device, beside the one in use.
_AHEAD = 2

Indices = npt.NDArray[np.int64]


class MappedImages:
    """Images in memory-mapped files; each batch is cut on the host and copied to the device.

    Args:
        split: The split whose images they are.
        device: Where batches are wanted.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._shards = split.shards
        self._starts = np.cumsum([0, *(len(shard) for shard in split.shards)])
        self._files = [_mapped_file(shard) for shard in split.shards]
        self._device = device
        self._copying: torch.cuda.Stream | None = None
        self._buffers: list[_Buffer] = []

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: Tensor) -> Tensor:
        """Images at these indices, cut now.

        Raises:
            ArtifactError: A file of the dataset became shorter since it was opened.
        """
        wanted = indices.cpu().numpy()
        batch = self._empty(len(wanted))
        self._gather(wanted, batch.numpy())
        return batch.to(self._device)

    def batches(self, order: Tensor, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        """The images at ``order[part]`` for each slice, cut and copied up to two batches ahead of use.

        Every tensor is the caller's own. Nothing random happens ahead, so that a run may stop between any two batches.

        Args:
            order: Indices, int64, on the CPU.
            slices: What of `order` makes each batch.

        Raises:
            ArtifactError: A file of the dataset became shorter since it was opened.
        """
        wanted = order.numpy()
        return self._ahead(
            [len(wanted[part]) for part in slices], lambda at, out: self._gather(wanted[slices[at]], out)
        )

    def spans(self, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        """The images of each slice in stored order, as :meth:`batches` gives them."""
        ranges = [range(*part.indices(len(self))) for part in slices]
        return self._ahead([len(part) for part in ranges], lambda at, out: self._copy(ranges[at], out))

    def _empty(self, count: int, *, pinned: bool = False) -> Tensor:
        return torch.empty((count, *self._shards[0].shape[1:]), dtype=torch.uint8, pin_memory=pinned)

    def _ahead(self, sizes: Sequence[int], cut: Callable[[int, Images], None]) -> Generator[Tensor, None, None]:
        """Batches of these sizes; ``cut(at, out)`` writes the one at a place in the list into an array."""
        if self._device.type == "cuda":
            return self._copied_ahead(sizes, cut)

        def fresh(at: int) -> Tensor:
            batch = self._empty(sizes[at])
            cut(at, batch.numpy())
            return batch.to(self._device)

        return read_ahead(fresh, range(len(sizes)), _AHEAD)

    def _copied_ahead(self, sizes: Sequence[int], cut: Callable[[int, Images], None]) -> Generator[Tensor, None, None]:
        """As :meth:`_ahead`, through two pinned buffers and a stream of their own."""
        if not sizes:
            return
        copying, buffers = self._on_the_way(max(sizes))

        def copied(at: int) -> tuple[Tensor, torch.cuda.Event]:
            buffer = buffers[at % len(buffers)]
            if buffer.copied is not None:
                buffer.copied.synchronize()  # the copy of the batch that lay here before has ended
            pinned = buffer.images[: sizes[at]]
            cut(at, pinned.numpy())
            with torch.cuda.stream(copying):  # which makes its device the current one of this thread, too
                batch = pinned.to(self._device, non_blocking=True)
                buffer.copied = copying.record_event()
            return batch, buffer.copied

        for batch, ready in read_ahead(copied, range(len(sizes)), _AHEAD):
            current = torch.cuda.current_stream(self._device)
            current.wait_event(ready)
            # The memory belongs to the copying stream, which must not reuse it before this one is done with it.
            batch.record_stream(current)
            yield batch

    def _on_the_way(self, images: int) -> tuple[torch.cuda.Stream, list[_Buffer]]:
        """The stream that copies and the buffers that it copies from, with room for so many images.

        The same every time: torch keeps the memory that a stream has used for that stream alone.
        """
        if self._copying is None:
            self._copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        if not self._buffers or len(self._buffers[0].images) < images:
            self._buffers = [_Buffer(self._empty(images, pinned=True)) for _ in range(2)]
        return self._copying, self._buffers

    def _gather(self, wanted: Indices, out: Images) -> None:
        """Write the images at these indices, in their order, into `out`.

        They are read in the order they are stored in, each shard and page once, and put in place by a second copy:
        NumPy lets other threads run during both.
        """
        if not len(wanted):
            return
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"indices {wanted.min()} to {wanted.max()} of {len(self)} images")
        by_place = np.argsort(wanted, kind="stable")
        stored = wanted[by_place]
        read = np.empty_like(out)
        first = 0
        for shard in range(int(self._shard_of(stored[0])), int(self._shard_of(stored[-1])) + 1):
            last = int(np.searchsorted(stored, self._starts[shard + 1]))
            if last > first:
                self._check(shard)
                here = stored[first:last] - self._starts[shard]
                # "clip" and not "raise", which makes a copy of the result; the indices are in range by now.
                np.take(self._shards[shard], here, axis=0, out=read[first:last], mode="clip")
            first = last
        place = np.empty_like(by_place)
        place[by_place] = np.arange(len(by_place))
        np.take(read, place, axis=0, out=out, mode="clip")

    def _copy(self, wanted: range, out: Images) -> None:
        """Write the images of a range, stored order, into `out`."""
        at = wanted.start
        while at < wanted.stop:
            shard = int(self._shard_of(at))
            stop = min(wanted.stop, int(self._starts[shard + 1]))
            self._check(shard)
            start = int(self._starts[shard])
            out[at - wanted.start : stop - wanted.start] = self._shards[shard][at - start : stop - start]
            at = stop

    def _check(self, shard: int) -> None:
        if (file := self._files[shard]) is not None:
            file.check()

    def _shard_of(self, index: int | np.int64) -> np.intp:
        return np.searchsorted(self._starts, index, side="right") - 1


@dataclass
class _Buffer:
    """Pinned memory, and the event that tells when the last copy from it ended."""

    images: Tensor
    copied: torch.cuda.Event | None = None


class _MappedFile:
    """The file behind a shard, to notice that it was cut short: reading a page that is gone ends the process (SIGBUS).

    What is cut between this look and the reading still does; nobody writes to a dataset in use but by mistake.
    """

    def __init__(self, file: Path, opened: os.stat_result) -> None:
        self._file = file
        self._opened = opened

    def check(self) -> None:
        """Look at the file again.

        Raises:
            ArtifactError: It is shorter than it was.
        """
        try:
            now = self._file.stat()
        except FileNotFoundError:
            return  # removed, and kept alive by the map
        same = (now.st_dev, now.st_ino) == (self._opened.st_dev, self._opened.st_ino)
        if same and now.st_size < self._opened.st_size:
            raise ArtifactError(
                f"{self._file}: became shorter while it was read, from {self._opened.st_size:,} to "
                f"{now.st_size:,} bytes; prepare the data again"
            )


def _mapped_file(shard: Images) -> _MappedFile | None:
    """The file behind a shard; None where it is an array in memory."""
    name = shard.filename if isinstance(shard, np.memmap) else None
    return None if name is None else _MappedFile(Path(name), Path(name).stat())
