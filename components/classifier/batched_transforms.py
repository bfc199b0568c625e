"""Which of torchvision's transforms have a batched equivalent, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from components.classifier.batched_pixels import (
    Batched,
    affine,
    blur,
    channel_permutation,
    colour_jitter,
    crop,
    erasing,
    noise,
    orders,
    rotation,
    where_chosen,
)

# Nothing random, and torchvision's own kernels take batches.
_ALWAYS = frozenset(
    getattr(v2, name)
    for name in "CenterCrop ConvertImageDtype Grayscale Identity Pad RGB ToDtype ToImage ToPureTensor".split()
)
# Nothing random but whether they are applied.
_SOMETIMES = frozenset(
    getattr(v2, f"Random{name}")
    for name in (
        "AdjustSharpness Autocontrast Equalize Grayscale HorizontalFlip Invert Posterize Solarize VerticalFlip".split()
    )
)
# Without a batched equivalent, but what they make has one shape and the dtype it had, whatever chance does.
_UNIFORM = frozenset(
    getattr(v2, name)
    for name in (
        "AugMix AutoAugment ElasticTransform JPEG RandAugment RandomPerspective RandomPhotometricDistort "
        "RandomResizedCrop Resize TrivialAugmentWide".split()
    )
)
_PIXELS: dict[type, Callable[[Any, torch.device], Batched | None]] = {
    v2.ColorJitter: colour_jitter,
    v2.GaussianBlur: blur,
    v2.GaussianNoise: noise,
    v2.RandomAffine: affine,
    v2.RandomChannelPermutation: channel_permutation,
    v2.RandomCrop: crop,
    v2.RandomErasing: erasing,
    v2.RandomRotation: rotation,
}


@dataclass(frozen=True)
class _InTurn:
    parts: Sequence[Batched]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            images = part(images, generator)
        return images


@dataclass(frozen=True)
class _Sometimes:
    parts: Sequence[Batched]
    probability: float

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.rand(len(images), generator=generator, device=generator.device) < self.probability
        return where_chosen(chosen, images, lambda some, _: _InTurn(self.parts)(some, generator))


@dataclass(frozen=True)
class _OneOf:
    parts: Sequence[Batched]
    probabilities: Tensor

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        choice = torch.multinomial(self.probabilities, len(images), replacement=True, generator=generator)
        return _each_where(self.parts, choice, images, generator)


@dataclass(frozen=True)
class _InAnyOrder:
    parts: Sequence[Batched]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for choice in orders(len(images), len(self.parts), generator).unbind(1):
            images = _each_where(self.parts, choice, images, generator)
        return images


def _each_where(parts: Sequence[Batched], choice: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    for number, part in enumerate(parts):
        images = where_chosen(choice == number, images, lambda some, _, part=part: part(some, generator))  # type: ignore[misc]
    return images


def rehearse(part: Batched, images: Tensor, generator: torch.Generator) -> Tensor:
    """As a call of the part, but every branch that chance may take is taken.

    Raises:
        ValueError: A branch changes shape or dtype, so that images of one batch would differ.
    """
    if isinstance(part, _InTurn):
        for inner in part.parts:
            images = rehearse(inner, images, generator)
        return images
    if not isinstance(part, _Sometimes | _OneOf | _InAnyOrder):
        return part(images, generator)
    for branch in [_InTurn(part.parts)] if isinstance(part, _Sometimes) else part.parts:
        done = rehearse(branch, images, generator)
        if (done.shape, done.dtype) != (images.shape, images.dtype):
            raise ValueError(f"some images are {tuple(done.shape[1:])} of {done.dtype} and some are as they were")
    return images


def batched(transform: Any, device: torch.device) -> Batched | None:
    """The batched equivalent of a transform: equal in distribution to calling it on each image.

    Args:
        transform: A transform object.
        device: Where batches will be.

    Returns:
        The equivalent; None where there is none for this class or these arguments.
    """
    kind = type(transform)
    if kind in _ALWAYS | _SOMETIMES:
        if isinstance(getattr(transform, "fill", None), dict):
            return None

        def always(images: Tensor, _generator: torch.Generator) -> Tensor:
            done: Tensor = transform.transform(images, transform.make_params([images]))
            return done.as_subclass(Tensor)

        return _Sometimes([always], transform.p) if kind in _SOMETIMES else always
    if kind in _PIXELS:
        part = _PIXELS[kind](transform, device)
        return _Sometimes([part], transform.p) if kind is v2.RandomErasing and part is not None else part
    if kind not in (v2.Compose, v2.RandomApply, v2.RandomChoice, v2.RandomOrder):
        return None
    parts = [part for inner in transform.transforms if (part := batched(inner, device)) is not None]
    if len(parts) < len(transform.transforms):
        return None
    if kind is v2.RandomApply:
        return _Sometimes(parts, transform.p)
    if kind is v2.RandomChoice:
        return _OneOf(parts, torch.tensor(transform.p, device=device))
    return _InTurn(parts) if kind is v2.Compose else _InAnyOrder(parts)


def is_never_random(transform: Any) -> bool:
    """Whether a transform is known to leave nothing to chance."""
    kind = type(transform)
    return kind in _ALWAYS or kind is v2.Resize or (kind in _SOMETIMES and transform.p in (0, 1))


def keeps_batches_uniform(transform: Any) -> bool:
    """Whether images that go through a transform one by one still have one shape and dtype afterwards."""
    return type(transform) in _UNIFORM
