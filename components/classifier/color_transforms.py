"""Batched equivalents of torchvision's transforms of color: brightness, contrast, saturation and hue of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from components.classifier.batched_transforms import (
    Which,
    orders,
    per_image,
    permuted,
    uniform,
    where_chosen,
    working_dtype,
)


def white_of(images: Tensor) -> int:
    """What white is in the images' dtype."""
    return 1 if images.is_floating_point() else torch.iinfo(images.dtype).max


def gray_of(images: Tensor) -> Tensor:
    """The images in gray, one channel, as floats; cut to whole numbers where images are, as torchvision has it."""
    return (tv.rgb_to_grayscale(images) if images.shape[1] == 3 else images).to(working_dtype(images))


def _colour_jitter(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image by its own factors in its own order."""
    count = len(images)
    # Saturation and hue leave gray images alone. The order of some parts is as random as the order of all.
    names = ("brightness", "contrast", "saturation", "hue") if images.shape[1] > 1 else ("brightness", "contrast")
    ranges = {name: bounds for name in names if (bounds := getattr(transform, name)) is not None}
    factors = {name: uniform(count, bounds, generator) for name, bounds in ranges.items()}
    order = torch.zeros(count, 1, dtype=torch.int64, device=images.device)
    if len(ranges) > 1:
        order = orders(count, len(ranges), generator)
    for turn in range(len(ranges)):
        due = {name: order[:, turn] == number for number, name in enumerate(ranges)}
        if (is_hue := due.pop("hue", None)) is not None:
            images = where_chosen(is_hue, images, partial(_hue_shifted, shift=factors["hue"]))
        if due:
            among = torch.stack(list(due.values())).any(dim=0)
            images = where_chosen(among, images, partial(_blended, due=due, factors=factors))
    return images


def _blended(images: Tensor, which: Which, due: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Tensor:
    # Brightness, contrast and saturation all mix an image with something: black, its mean gray, its own gray.
    kind, device = working_dtype(images), images.device
    other, factor = torch.zeros((), dtype=kind, device=device), torch.ones((), dtype=torch.float64, device=device)
    if due.keys() & {"contrast", "saturation"}:
        gray = gray_of(images)
    for name, chosen in due.items():
        is_due = per_image(chosen[which])
        if name != "brightness":
            with_what = gray.mean(dim=(1, 2, 3), keepdim=True) if name == "contrast" else gray
            other = torch.where(is_due, with_what, other)
        factor = torch.where(is_due, per_image(factors[name][which]), factor)
    return mixed(images, other, factor)


def mixed(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """The share of the images and the rest of the other, as torchvision's ``_blend``, which rounds once."""
    kind = working_dtype(images)
    done = torch.addcmul(images * share.to(kind), other, (1 - share).to(kind))
    return done.clamp_(0, white_of(images)).to(images.dtype)


def _hue_shifted(images: Tensor, which: Which, shift: Tensor) -> Tensor:
    # Channel by channel in memory: what follows goes through each alone.
    unit = tv.to_dtype(images.contiguous(), torch.float32, scale=True)
    hue, saturation, value = _hsv(unit)
    hue = hue + shift[which].to(torch.float32).view(-1, 1, 1)
    shifted: Tensor = tv.to_dtype(_rgb(hue - hue.floor(), saturation, value), images.dtype, scale=True)
    return shifted


def _hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Hue in 0..1, saturation and value, after torchvision's _rgb_to_hsv.
    red, green, blue = images.unbind(1)
    lowest, highest = torch.minimum(torch.minimum(red, green), blue), torch.maximum(torch.maximum(red, green), blue)
    gray, spread = highest == lowest, highest - lowest
    one = torch.ones((), dtype=images.dtype, device=images.device)
    saturation = spread / torch.where(gray, one, highest)
    distance = (highest.unsqueeze(1) - images) / torch.where(gray, one, spread).unsqueeze(1)
    from_red, from_green, from_blue = distance.unbind(1)
    is_red = highest == red
    is_green = ~is_red & (highest == green)
    others = torch.where(is_green, from_red + 2.0 - from_blue, from_green + 4.0 - from_red)
    turn = torch.where(is_red, from_blue - from_green, others) * (1.0 / 6.0) + 1.0
    return turn - turn.floor(), saturation, highest


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    # What torchvision's _hsv_to_rgb takes from a table, as one formula (en.wikipedia.org/wiki/HSL_and_HSV, the
    # alternative from HSV): a channel loses a share of the color, 0 where it is strongest and 1 where it is weakest.
    # 5, 3, 1 for red, green, blue; made on the device, so that nothing is copied there.
    turned = torch.arange(5, 0, -2, device=hue.device).view(1, 3, 1, 1) + (hue * 6).unsqueeze(1)
    turned = torch.where(turned < 6, turned, turned - 6)
    share = torch.minimum(turned, 4 - turned).clamp_(0, 1)
    value = value.unsqueeze(1)
    weaker = (1 - saturation.unsqueeze(1) * share).mul_(value).clamp_(0, 1)
    return torch.where(share > 0, weaker, value)


def _photometric_distort(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Each part with its probability, contrast before saturation and hue or after them, channels in another order."""
    count, is_gray = len(images), images.shape[1] == 1

    def is_met(chance: float) -> Tensor:
        return torch.rand(count, generator=generator, device=images.device) < chance

    names = ("brightness", "contrast", "saturation", "hue")
    chosen = {name: is_met(transform.p) for name in names}
    factors = {name: uniform(count, getattr(transform, name), generator) for name in names}
    is_early = is_met(0.5)
    for name, due in (
        ("brightness", chosen["brightness"]),
        ("contrast", chosen["contrast"] & is_early),
        ("saturation", chosen["saturation"]),
        ("hue", chosen["hue"]),
        ("contrast", chosen["contrast"] & ~is_early),
    ):
        if is_gray and name in ("saturation", "hue"):
            continue
        change = partial(_blended, due={name: due}, factors=factors)
        images = where_chosen(due, images, partial(_hue_shifted, shift=factors["hue"]) if name == "hue" else change)
    order = orders(count, images.shape[1], generator)
    return where_chosen(is_met(transform.p), images, lambda some, which: permuted(some, order[which]))


COLOR_KERNELS: dict[type, Callable[[Any, Tensor, torch.Generator], Tensor]] = {
    v2.ColorJitter: _colour_jitter,
    v2.RandomPhotometricDistort: _photometric_distort,
}
