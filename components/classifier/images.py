"""Where images are stored, how batches are cut from them and flipped, and how they become network input.

The images of a split are put on the device whole, as uint8, and a batch is one ``index_select``: no per-image Python,
no worker processes. Where they do not fit they stay in the memory map, and a thread cuts batches ahead of their use.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from components.classifier.device import free_bytes
from components.shared.artifacts.artifact import Normalisation
from components.shared.artifacts.dataset import Images, Labels, Split
from components.shared.cropping import central_crop
from components.shared.errors import ArtifactError, ParamsError, Problem
from components.shared.process_group import member

Placement = Literal["auto", "device", "host"]
Batches = Generator[Tensor, None, None]
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# Batches that wait on the host or on their way to the device, beside the one in use.
_AHEAD = 2


class StoredImages(Protocol):
    """Images in their stored order. All are uint8, shape (batch, height, width, channels), on the device."""

    def __len__(self) -> int: ...

    def spans(self, slices: Sequence[slice]) -> Batches:
        """The images of each slice, made ahead of use where that helps; the caller does not change them."""
        ...


class ResidentImages:
    """All images on the device: uint8, shape (images, height, width, channels)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> Tensor:
        """Images at these indices, int64 on any device."""
        # Twenty times as fast as images[indices] on the CPU: one contiguous copy an image.
        return self.images.index_select(0, indices.to(self.images.device))

    def batches(self, order: Tensor, slices: Sequence[slice]) -> Batches:
        """The images at ``order[part]`` for each slice."""
        order = order.to(self.images.device)  # once, not batch by batch
        for part in slices:
            yield self.images.index_select(0, order[part])

    def spans(self, slices: Sequence[slice]) -> Batches:
        """The images of each slice, without a copy."""
        for part in slices:
            yield self.images[part]


class MappedImages:
    """Images in memory-mapped files; each batch is cut on the host, copied to the device, and the caller's own.

    All methods raise :class:`ArtifactError` where a file of the dataset became shorter since it was opened.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._shards = split.shards
        self._starts = np.cumsum([0, *(len(shard) for shard in split.shards)])
        self._opened = [_file_of(shard) for shard in split.shards]
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
        """The images at ``order[part]`` for each slice, cut and copied up to two batches ahead of use.

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
        if self._device.type == "cuda" and parts:
            return self._copied_ahead(parts)
        return read_ahead(lambda part: self.take(torch.from_numpy(part)), parts, _AHEAD)

    def _copied_ahead(self, parts: Sequence[Labels]) -> Batches:
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

        for batch, ready in read_ahead(copied, parts, _AHEAD):
            current = torch.cuda.current_stream(self._device)
            current.wait_event(ready)
            # The memory belongs to the copying stream, which must not reuse it before this one is done with it.
            batch.record_stream(current)
            yield batch

    def _gather(self, wanted: Labels, out: Images) -> None:
        # They are read in the order they are stored in, each shard and page once, and put in order by a second copy
        # where that is another one: NumPy lets other threads run during both.
        if not len(wanted):
            return
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"indices {wanted.min()} to {wanted.max()} of {len(self)} images")
        is_sorted = bool((wanted[1:] >= wanted[:-1]).all())
        by_index = np.argsort(wanted, kind="stable")
        stored = wanted[by_index]
        read = out if is_sorted else np.empty_like(out)
        bounds = np.searchsorted(stored, self._starts)
        for shard, (first, last) in enumerate(pairwise(bounds)):
            if last > first:
                self._require_whole(shard)
                # "clip" and not "raise", which makes a copy of the result; the indices are in range by now.
                here = stored[first:last] - self._starts[shard]
                np.take(self._shards[shard], here, axis=0, out=read[first:last], mode="clip")
        if not is_sorted:
            np.take(read, np.argsort(by_index), axis=0, out=out, mode="clip")

    def _require_whole(self, shard: int) -> None:
        # Reading a page that is gone ends the process (SIGBUS). What is cut between this check and the reading still
        # does; nobody writes to a dataset in use but by mistake.
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


class CentralParts:
    """Of each image of a store its middle, of shape (height, width, channels): what a model is evaluated on."""

    def __init__(self, stored: StoredImages, shape: tuple[int, int, int]) -> None:
        self._stored, self._shape = stored, shape

    def __len__(self) -> int:
        return len(self._stored)

    def spans(self, slices: Sequence[slice]) -> Batches:
        """The images of each slice: views of what the store gives."""
        with closing(self._stored.spans(slices)) as spans:
            for images in spans:
                yield central_crop(images, self._shape)


def _file_of(shard: Images) -> tuple[Path, os.stat_result] | None:
    name = shard.filename if isinstance(shard, np.memmap) else None
    return None if name is None else (Path(name), Path(name).stat())


def read_ahead(work: Callable[[ItemT], ResultT], items: Iterable[ItemT], depth: int) -> Generator[ResultT, None, None]:
    """Yield ``work(item)`` for each item in order, made by one thread up to `depth` results before they are asked for.

    The thread starts with the first result asked for; an error of `work` comes after the results before it. When the
    generator is closed it waits for the one item in work.
    """
    waiting: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        try:
            for item in items:
                waiting.append(thread.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for result in waiting:
                result.cancel()


ImageStore = ResidentImages | MappedImages


StoreT = TypeVar("StoreT", bound=StoredImages, covariant=True)


@dataclass(frozen=True)
class LabelledImages(Generic[StoreT]):
    """A split, its labels int64, shape (images,), on the device."""

    images: StoreT
    labels: Tensor


class Placed(NamedTuple):
    """Where batches are cut from, and why there: one line for the log."""

    store: ImageStore
    reason: str


def store_images(split: Split, device: torch.device, placement: Placement = "auto") -> Placed:
    """Put a split's images on the device, by ``auto`` where they take at most half of its free memory, or map them.

    Raises:
        ParamsError: They are to be on the device and are larger than its free memory.
    """
    size = sum(shard.nbytes for shard in split.shards)
    what = f"{spelled_bytes(size)} of images"
    if placement == "host":
        return Placed(MappedImages(split, device), f"{what} stay mapped on the host: data_placement is host")
    # The processes of a node find the same memory free, all at once; of a GPU each has its own.
    free = free_bytes(device) // (member().local_size if device.type == "cpu" else 1)
    if placement == "device" and size > free:
        message = f"is device, and {what} are more than the {spelled_bytes(free)} free on {device}; use auto or host"
        raise ParamsError([Problem("data_placement", message)])
    if placement == "auto" and size > free // 2:
        reason = f"{what} stay mapped on the host: more than half of the {spelled_bytes(free)} free on {device}"
        return Placed(MappedImages(split, device), reason)
    # Shard by shard, so that the host never holds a second copy of the whole.
    images, start = torch.empty((len(split), *split.shards[0].shape[1:]), dtype=torch.uint8, device=device), 0
    for shard in split.shards:
        images[start : start + len(shard)] = torch.from_numpy(np.array(shard))
        start += len(shard)
    why = "data_placement is device" if placement == "device" else f"they fit (half of {spelled_bytes(free)} free)"
    return Placed(ResidentImages(images), f"{what} on {device}: {why}")


def spelled_bytes(count: int) -> str:
    """A number of bytes for people: ``47.0 MB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


class Normaliser:
    """From stored images to what the network takes.

    ``(image / 255 - mean) / std`` per channel, as one subtraction and one multiplication (`mean` and `scale`, of shape
    (1, channels, 1, 1)); without normalisation, ``image / 255``.
    """

    def __init__(self, normalisation: Normalisation | None, device: torch.device) -> None:
        mean = normalisation.mean if normalisation else [0.0]
        std = normalisation.std if normalisation else [1.0]

        def per_channel(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device).view(1, -1, 1, 1)

        self.mean = per_channel([255 * value for value in mean])
        self.scale = per_channel([1 / (255 * value) for value in std])
        self._unit_mean = per_channel(mean)
        self._unit_scale = per_channel([1 / value for value in std])

    def __call__(self, images: Tensor) -> Tensor:
        """Network input, float32 (batch, channels, height, width), of uint8 images (batch, height, width, channels).

        The result keeps the stored order of values in memory, which is torch's channels_last.
        """
        return images.permute(0, 3, 1, 2).to(torch.float32).sub_(self.mean).mul_(self.scale)

    def of_unit(self, images: Tensor) -> Tensor:
        """Network input of float images (batch, channels, height, width) that are already scaled to 0..1."""
        return (images - self._unit_mean) * self._unit_scale


def batch_slices(count: int, batch_size: int, at_least: int = 2) -> Iterator[slice]:
    """The slices that cut `count` images into batches; a last one of fewer than `at_least` joins the one before it.

    Statistics of one image are no statistics, and BatchNorm refuses them; processes that share a batch need two each.
    """
    start = 0
    while start < count:
        stop = min(start + batch_size, count)
        if 0 < count - stop < at_least and batch_size > 1:
            stop = count
        yield slice(start, stop)
        start = stop


def random_flips(
    images: Tensor, probability: float, generator: torch.Generator, *, of: int | None = None, begin: int = 0
) -> Tensor:
    """Flip images left-right and, independently, upside down, each image for itself.

    Args:
        images: uint8, shape (batch, height, width, channels).
        probability: Of each of the two flips.
        generator: On the images' device.
        of: How many images the whole batch has, where these are a part of it: the draws are those of the whole.
        begin: Which of them is the first of these.
    """
    # A choice by mask instead of by index: the device never has to tell the host how many images flip.
    count = len(images)
    chosen = torch.rand(2, of or count, 1, 1, 1, generator=generator, device=images.device) < probability
    masks = chosen[:, begin : begin + count].to(torch.uint8).mul_(255)
    for mask, side in zip(masks, (2, 1), strict=True):
        # As torch.where, which took 280 µs for 512 images of 28×28 on one core, where these three take 28 µs.
        images = images.flip(side).bitwise_xor_(images).bitwise_and_(mask).bitwise_xor_(images)
    return images
