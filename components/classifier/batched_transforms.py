"""Which of torchvision's transforms have a batched equivalent, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchvision.transforms import v2

from components.classifier.batched_colour import Blur, ChannelPermutation, ColourJitter, Noise
from components.classifier.batched_geometry import INTERPOLATIONS, Affine, Crop, Erasing, Rotation
from components.classifier.batched_parts import Always, Batched, InAnyOrder, InTurn, OneOf, Sometimes

# Nothing random, and torchvision's own kernels take batches.
_ALWAYS = frozenset(
    {
        v2.CenterCrop,
        v2.ConvertImageDtype,
        v2.Grayscale,
        v2.Identity,
        v2.Pad,
        v2.RGB,
        v2.ToDtype,
        v2.ToImage,
        v2.ToPureTensor,
    }
)

# Nothing random but whether they are applied.
_SOMETIMES = frozenset(
    {
        v2.RandomAdjustSharpness,
        v2.RandomAutocontrast,
        v2.RandomEqualize,
        v2.RandomGrayscale,
        v2.RandomHorizontalFlip,
        v2.RandomInvert,
        v2.RandomPosterize,
        v2.RandomSolarize,
        v2.RandomVerticalFlip,
    }
)

# Without a batched equivalent, but what they make has one shape and the dtype it had, whatever chance does.
_UNIFORM = frozenset(
    {
        v2.AugMix,
        v2.AutoAugment,
        v2.ElasticTransform,
        v2.JPEG,
        v2.RandAugment,
        v2.RandomPerspective,
        v2.RandomPhotometricDistort,
        v2.RandomResizedCrop,
        v2.Resize,
        v2.TrivialAugmentWide,
    }
)


def batched(transform: Any, device: torch.device) -> Batched | None:
    """The batched equivalent of a transform: equal in distribution to calling it on each image.

    Args:
        transform: A transform object.
        device: Where batches will be.

    Returns:
        The equivalent; None where there is none for this class or these arguments.
    """
    kind = type(transform)
    if kind in _ALWAYS:
        return None if isinstance(getattr(transform, "fill", None), dict) else Always(transform)
    if kind in _SOMETIMES:
        return Sometimes(Always(transform), transform.p)
    maker = _MAKERS.get(kind)
    return None if maker is None else maker(transform, device)


def is_never_random(transform: Any) -> bool:
    """Whether a transform is known to leave nothing to chance."""
    kind = type(transform)
    return kind in _ALWAYS or kind is v2.Resize or (kind in _SOMETIMES and transform.p in (0, 1))


def keeps_batches_uniform(transform: Any) -> bool:
    """Whether images that go through a transform one by one still have one shape and dtype afterwards."""
    return type(transform) in _UNIFORM


def _crop(transform: Any, _: torch.device) -> Batched | None:
    return None if isinstance(transform.fill, dict) else Crop(transform)


def _known_sampling(transform: Any) -> bool:
    interpolation = getattr(transform.interpolation, "value", transform.interpolation)
    return interpolation in INTERPOLATIONS and not isinstance(transform.fill, dict)


def _affine(transform: Any, device: torch.device) -> Batched | None:
    return Affine(transform, device) if _known_sampling(transform) else None


def _rotation(transform: Any, device: torch.device) -> Batched | None:
    # With expand, every image gets a size of its own.
    return Rotation(transform, device) if _known_sampling(transform) and not transform.expand else None


def _erasing(transform: Any, device: torch.device) -> Batched:
    return Sometimes(Erasing(transform, device), transform.p)


def _parts(transform: Any, device: torch.device) -> list[Batched] | None:
    parts = [part for inner in transform.transforms if (part := batched(inner, device)) is not None]
    return parts if len(parts) == len(transform.transforms) else None


def _compose(transform: Any, device: torch.device) -> Batched | None:
    parts = _parts(transform, device)
    return None if parts is None else InTurn(parts)


def _apply(transform: Any, device: torch.device) -> Batched | None:
    parts = _parts(transform, device)
    return None if parts is None else Sometimes(InTurn(parts), transform.p)


def _choice(transform: Any, device: torch.device) -> Batched | None:
    parts = _parts(transform, device)
    return None if parts is None else OneOf(parts, torch.tensor(transform.p, device=device))


def _order(transform: Any, device: torch.device) -> Batched | None:
    parts = _parts(transform, device)
    return None if parts is None else InAnyOrder(parts)


_MAKERS: dict[type, Callable[[Any, torch.device], Batched | None]] = {
    v2.ColorJitter: lambda transform, _: ColourJitter(transform),
    v2.Compose: _compose,
    v2.GaussianBlur: lambda transform, _: Blur(transform),
    v2.GaussianNoise: lambda transform, _: Noise(transform),
    v2.RandomAffine: _affine,
    v2.RandomApply: _apply,
    v2.RandomChannelPermutation: lambda *_: ChannelPermutation(),
    v2.RandomChoice: _choice,
    v2.RandomCrop: _crop,
    v2.RandomErasing: _erasing,
    v2.RandomOrder: _order,
    v2.RandomRotation: _rotation,
}
