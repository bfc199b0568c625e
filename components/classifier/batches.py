"""Batches cut from arrays on the device: no per-image Python, no worker processes.

The images of a split are put on the device whole, as uint8, and a batch is one ``index_select``. Where they do not fit
they stay in the memory map (:mod:`components.classifier.mapped_images`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from components.shared.artifacts.artifact import Normalisation


class StoredImages(Protocol):
    """Images in their stored order. All are uint8, shape (batch, height, width, channels), on the device."""

    def __len__(self) -> int: ...

    def spans(self, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        """The images of each slice, made ahead of use where that helps; the caller does not change them."""
        ...


class ImageStore(StoredImages, Protocol):
    """Somewhere batches are cut from, in any order."""

    def take(self, indices: Tensor) -> Tensor:
        """Images at these indices, int64 on any device."""
        ...

    def batches(self, order: Tensor, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        """The images at ``order[part]`` for each slice, in this order, made ahead of use where that helps.

        Nothing random happens ahead. Whoever may stop before the end closes the generator (``contextlib.closing``).

        Args:
            order: Indices of images, int64, on the CPU.
            slices: What of `order` makes each batch.
        """
        ...


class ResidentImages:
    """All images on the device.

    Args:
        images: uint8, shape (images, height, width, channels).
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> Tensor:
        """Images at these indices."""
        # Twenty times as fast as images[indices] on the CPU: one contiguous copy an image.
        return self.images.index_select(0, indices.to(self.images.device))

    def batches(self, order: Tensor, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        """The images at ``order[part]`` for each slice."""
        order = order.to(self.images.device)  # once, not batch by batch
        for part in slices:
            yield self.images.index_select(0, order[part])

    def spans(self, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        """The images of each slice, without a copy."""
        for part in slices:
            yield self.images[part]


class Normaliser:
    """From stored images to what the network takes.

    ``(image / 255 - mean) / std`` per channel, as one subtraction and one multiplication; without normalisation,
    ``image / 255``.

    Args:
        normalisation: Mean and standard deviation per channel in units of 0..1, or None.
        device: Where batches are.

    Attributes:
        mean: Subtracted from stored values, shape (1, channels, 1, 1).
        scale: Multiplied with the difference, same shape.
    """

    def __init__(self, normalisation: Normalisation | None, device: torch.device) -> None:
        mean = normalisation.mean if normalisation else [0.0]
        std = normalisation.std if normalisation else [1.0]
        shape = (1, len(mean), 1, 1)
        self.mean = torch.tensor([255 * value for value in mean], device=device).view(shape)
        self.scale = torch.tensor([1 / (255 * value) for value in std], device=device).view(shape)
        self._unit_mean = torch.tensor(mean, device=device).view(shape)
        self._unit_scale = torch.tensor([1 / value for value in std], device=device).view(shape)

    def __call__(self, images: Tensor) -> Tensor:
        """Network input, float32 (batch, channels, height, width), of uint8 images (batch, height, width, channels).

        The result keeps the stored order of values in memory, which is torch's channels_last.
        """
        return images.permute(0, 3, 1, 2).to(torch.float32).sub_(self.mean).mul_(self.scale)

    def of_unit(self, images: Tensor) -> Tensor:
        """Network input of float images (batch, channels, height, width) that are already scaled to 0..1."""
        return (images - self._unit_mean) * self._unit_scale


def batch_slices(count: int, batch_size: int, at_least: int = 2) -> Iterator[slice]:
    """The slices that cut `count` images into batches.

    A last batch of fewer than `at_least` images joins the one before it: statistics of one image are no statistics, and
    BatchNorm refuses them; where several processes share a batch, each needs two.
    """
    start = 0
    while start < count:
        stop = min(start + batch_size, count)
        if 0 < count - stop < at_least and batch_size > 1:
            stop = count
        yield slice(start, stop)
        start = stop
