"""What batched transforms are made of: the contract, random draws an image, and parts that run sometimes or in turn.

Every draw comes from the generator that is passed in, one value an image, by the very procedure of torchvision's
transforms (``uniform_`` in float32, a probability met by ``rand < p``), so that what comes out is equal in
distribution to calling the transform on each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Which images: indices of some of a batch, or all of it.
Which = Tensor | slice
EVERY = slice(None)


class Batched:
    """A transform of a batch of images, shape (batch, channels, height, width), each image for itself."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transformed images; those given are left as they are.

        Args:
            images: uint8 or float.
            generator: On the images' device; where everything random comes from.
        """
        raise NotImplementedError

    def rehearse(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """As a call, but every branch that chance may take is taken.

        Raises:
            ValueError: A branch changes shape or dtype, so that images of one batch would differ.
        """
        return self(images, generator)


class Always(Batched):
    """A transform of torchvision that has nothing random and takes batches as they are."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        done: Tensor = self._transform.transform(images, self._transform.make_params([images]))
        return done.as_subclass(Tensor)


class Sometimes(Batched):
    """A part that is applied to each image with a probability."""

    def __init__(self, part: Batched, probability: float) -> None:
        self._part = part
        self._probability = probability

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        chosen = chance(len(images), self._probability, generator)
        return where_chosen(chosen, images, lambda some, _: self._part(some, generator))

    def rehearse(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, after every branch was tried."""
        _kept(self._part, images, generator)
        return images


class InTurn(Batched):
    """Parts one after the other."""

    def __init__(self, parts: Sequence[Batched]) -> None:
        self._parts = parts

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        for part in self._parts:
            images = part(images, generator)
        return images

    def rehearse(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, after every branch was tried."""
        for part in self._parts:
            images = part.rehearse(images, generator)
        return images


class OneOf(Batched):
    """One of several parts for each image.

    Args:
        parts: The parts.
        probabilities: Of each, together 1, on the device.
    """

    def __init__(self, parts: Sequence[Batched], probabilities: Tensor) -> None:
        self._parts = parts
        self._probabilities = probabilities

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        choice = torch.multinomial(self._probabilities, len(images), replacement=True, generator=generator)
        for number, part in enumerate(self._parts):
            images = where_chosen(choice == number, images, _of(part, generator))
        return images

    def rehearse(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, after every branch was tried."""
        for part in self._parts:
            _kept(part, images, generator)
        return images


class InAnyOrder(Batched):
    """All parts, for each image in an order of its own."""

    def __init__(self, parts: Sequence[Batched]) -> None:
        self._parts = parts

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        order = orders(len(images), len(self._parts), generator)
        for place in range(len(self._parts)):
            for number, part in enumerate(self._parts):
                images = where_chosen(order[:, place] == number, images, _of(part, generator))
        return images

    def rehearse(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, after every branch was tried."""
        for part in self._parts:
            _kept(part, images, generator)
        return images


def _of(part: Batched, generator: torch.Generator) -> Callable[[Tensor, Which], Tensor]:
    return lambda some, _: part(some, generator)


def _kept(part: Batched, images: Tensor, generator: torch.Generator) -> None:
    done = part.rehearse(images, generator)
    if (done.shape, done.dtype) != (images.shape, images.dtype):
        raise ValueError(f"some images are {tuple(done.shape[1:])} of {done.dtype} and some are as they were")


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number of a range for each image: drawn in float32, given in float64, as torchvision has them in Python."""
    drawn = torch.empty(count, device=generator.device).uniform_(low, high, generator=generator)
    return drawn.to(torch.float64)


def chance(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """For each image whether something of this probability happens."""
    return torch.rand(count, generator=generator, device=generator.device) < probability


def orders(count: int, length: int, generator: torch.Generator) -> Tensor:
    """A permutation for each image, each as likely as any other: int64, shape (count, length)."""
    return torch.rand(count, length, generator=generator, device=generator.device, dtype=torch.float64).argsort(1)


def whole_below(bound: Tensor, generator: torch.Generator) -> Tensor:
    """A whole number from 0 to below the bound of each image, each as likely as any other."""
    drawn = torch.rand(len(bound), generator=generator, device=generator.device, dtype=torch.float64)
    return (drawn * bound).to(torch.int64)  # below the bound: drawn is at most 1 - 2^-53, and the bound a small whole


def an_image_each(values: Tensor) -> Tensor:
    """Values of shape (batch,) as (batch, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def where_chosen(chosen: Tensor, images: Tensor, change: Callable[[Tensor, Which], Tensor]) -> Tensor:
    """The images, those that are chosen changed.

    On the CPU only those are worked on. On other devices all are, since to know how many were chosen the host would
    have to wait for the device.

    Args:
        chosen: bool, shape (batch,).
        images: Shape (batch, channels, height, width).
        change: Gets images and which of the batch they are; keeps shape and dtype.
    """
    if not _host_can_count(images.device):
        return torch.where(an_image_each(chosen), change(images, EVERY), images)
    which = chosen.nonzero().squeeze(1)
    if len(which) == 0:
        return images
    if len(which) == len(images):
        return change(images, EVERY)
    done = images.clone()
    done[which] = change(images[which], which)
    return done


def _host_can_count(device: torch.device) -> bool:
    return device.type == "cpu"
