"""Where images are stored, how batches are cut from them and flipped, and how they become network input.

The images of a split are put on the device whole, as uint8, and a batch is one ``index_select``: no per-image Python,
no worker processes. Where they do not fit they stay in the memory map, and threads cut batches ahead of their use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from components.classifier.device import free_bytes
from components.classifier.mapped_images import Batches, MappedImages
from components.shared.artifacts.artifact import Normalisation
from components.shared.artifacts.dataset import Split
from components.shared.cropping import central_crop
from components.shared.errors import ParamsError, Problem
from components.shared.process_group import member

Placement = Literal["auto", "device", "host"]
# What is read at once of images that are put on the device.
_PUT_BYTES = 2**26


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

    A thread beside the main one may do it: what a GPU is asked for afterwards comes after the images there.

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
    # Part by part, read ahead as batches are, so that the host never holds a second copy of the whole.
    images = torch.empty((len(split), *split.shards[0].shape[1:]), dtype=torch.uint8, device=device)
    at_once = max(1, _PUT_BYTES // split.shards[0][0].nbytes)
    parts = [slice(start, min(start + at_once, len(split))) for start in range(0, len(split), at_once)]
    with closing(MappedImages(split, device).spans(parts)) as read:
        for part, values in zip(parts, read, strict=True):
            images[part] = values
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
