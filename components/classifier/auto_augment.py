"""Batched equivalents of torchvision's automatic augmentations: each image gets operations and magnitudes of its own.

What can be drawn, and how strong it is, is read from torchvision's own tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torchvision.transforms import v2

from components.classifier.batched_transforms import affine_mode, per_image
from components.classifier.image_operations import OPERATIONS, operated

# Bins of AutoAugment and AugMix, as torchvision has them.
_MAGNITUDES = 10


class _Space(NamedTuple):
    """What is drawn from, on a device: of each operation its number, magnitudes (operations, bins), and if signed."""

    numbers: Tensor
    magnitudes: Tensor
    signed: Tensor


def _spaces(transform: Any, is_whole: bool) -> Mapping[str, tuple[Callable[[int, int, int], Tensor | None], bool]]:
    space: Any = transform._AUGMENTATION_SPACE if is_whole else transform._PARTIAL_AUGMENTATION_SPACE
    return cast("Mapping[str, tuple[Callable[[int, int, int], Tensor | None], bool]]", space)


def has_operations(transform: Any) -> bool:
    """Whether the kernels have what an automatic augmentation may do to an image."""
    # Of a single bin torchvision divides by 0.
    bins = getattr(transform, "num_magnitude_bins", _MAGNITUDES)
    return affine_mode(transform) is not None and bins > 1 and set(_spaces(transform, True)) <= set(OPERATIONS)


@cache
def _space(kind: Any, is_whole: bool, bins: int, size: tuple[int, int], device: torch.device) -> _Space:
    # Once for each size of images: nothing is copied to a device while a step is made.
    numbers, magnitudes, signed = [], torch.zeros(len(_spaces(kind, is_whole)), bins, dtype=torch.float64), []
    for row, (name, (made, is_signed)) in enumerate(_spaces(kind, is_whole).items()):
        numbers.append(OPERATIONS.index(name))
        signed.append(is_signed)
        if (values := made(bins, *size)) is not None:
            magnitudes[row] = values
    return _Space(torch.tensor(numbers, device=device), magnitudes.to(device), torch.tensor(signed, device=device))


def _space_for(transform: Any, images: Tensor, bins: int) -> _Space:
    kind: Any = type(transform)
    return _space(kind, getattr(transform, "all_ops", True), bins, (images.shape[2], images.shape[3]), images.device)


def _drawn(below: int, images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(below, (len(images),), generator=generator, device=images.device)


def _signed(magnitudes: Tensor, signed: Tensor, generator: torch.Generator) -> Tensor:
    is_negative = torch.rand(len(magnitudes), generator=generator, device=magnitudes.device) <= 0.5
    return torch.where(signed & is_negative, -magnitudes, magnitudes)


def _by_one(transform: Any, images: Tensor, space: _Space, bins: int | Tensor, generator: torch.Generator) -> Tensor:
    """Each image after one operation, any equally likely, of its bin."""
    row = _drawn(len(space.numbers), images, generator)
    magnitudes = _signed(space.magnitudes[row, bins], space.signed[row], generator)
    return operated(images, space.numbers[row], magnitudes, str(affine_mode(transform)), transform.fill)


def _rand_augment(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    space = _space_for(transform, images, transform.num_magnitude_bins)
    for _ in range(transform.num_ops):
        images = _by_one(transform, images, space, transform.magnitude, generator)
    return images


def _trivial_augment(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    bins = transform.num_magnitude_bins
    space = _space_for(transform, images, bins)
    return _by_one(transform, images, space, _drawn(bins, images, generator), generator)


class _Policies(NamedTuple):
    """By policy and turn, shape (policies, 2): row of the space, probability, bin."""

    rows: Tensor
    chances: Tensor
    bins: Tensor


@cache
def _policies(policy: Any, device: torch.device) -> _Policies:
    names = list(v2.AutoAugment._AUGMENTATION_SPACE)
    chosen = v2.AutoAugment(policy)._policies
    rows = [[names.index(name) for name, _, _ in turns] for turns in chosen]
    chances = [[chance for _, chance, _ in turns] for turns in chosen]
    bins = [[index or 0 for _, _, index in turns] for turns in chosen]
    return _Policies(*(torch.tensor(each, device=device) for each in (rows, chances, bins)))


def _auto_augment(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    space, policies = _space_for(transform, images, _MAGNITUDES), _policies(transform.policy, images.device)
    policy = _drawn(len(policies.rows), images, generator)
    for turn in range(policies.rows.shape[1]):
        row = policies.rows[policy, turn]
        magnitudes = _signed(space.magnitudes[row, policies.bins[policy, turn]], space.signed[row], generator)
        chance = torch.rand(len(images), generator=generator, device=images.device)
        numbers = torch.where(chance <= policies.chances[policy, turn], space.numbers[row], 0)  # 0 is Identity
        images = operated(images, numbers, magnitudes, str(affine_mode(transform)), transform.fill)
    return images


def _aug_mix(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """The image and several chains of operations on it, mixed by shares that are drawn."""
    space, mode = _space_for(transform, images, _MAGNITUDES), str(affine_mode(transform))
    fixed, count = transform.chain_depth, len(images)

    # torch.distributions.Dirichlet, the public face of this, takes no generator.
    def shares(of: int) -> Tensor:
        alphas = torch.full((count, of), transform.alpha, dtype=torch.float32, device=images.device)
        return torch._sample_dirichlet(alphas, generator)

    kept, mixed = shares(2).unbind(1)
    weights = shares(transform.mixture_width) * mixed.unsqueeze(1)
    mix = per_image(kept) * images
    for chain in range(transform.mixture_width):
        depth = None if fixed > 0 else 1 + _drawn(3, images, generator)
        done = images
        for turn in range(fixed if fixed > 0 else 3):
            row = _drawn(len(space.numbers), images, generator)
            bins = _drawn(transform.severity, images, generator)
            magnitudes = _signed(space.magnitudes[row, bins], space.signed[row], generator)
            numbers = space.numbers[row] if depth is None else torch.where(turn < depth, space.numbers[row], 0)
            done = operated(done, numbers, magnitudes, mode, transform.fill)
        mix.add_(per_image(weights[:, chain]) * done)
    return mix.to(images.dtype)  # cut and not rounded, as torchvision has it


AUTO_KERNELS: dict[type, Callable[[Any, Tensor, torch.Generator], Tensor]] = {
    v2.AugMix: _aug_mix,
    v2.AutoAugment: _auto_augment,
    v2.RandAugment: _rand_augment,
    v2.TrivialAugmentWide: _trivial_augment,
}
