"""The batched equivalent of torchvision's RandomResizedCrop: each image its own window, all brought to one size.

On the CPU each window goes through torchvision's own resizing, whose arithmetic on bytes nothing else has. Where the
host cannot read the windows, a pixel is a sum over as many rows and columns as the largest window needs, in float32 and
rounded once, as torchvision itself has it on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from components.classifier.batched_transforms import first_fit, host_can_count, rounded_like, starts, tried_sides

_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# How far a filter reaches, in pixels of the larger of both images.
_REACH = {"bilinear": 1, "bicubic": 2}


def _mode(transform: Any) -> str:
    mode = getattr(transform.interpolation, "value", transform.interpolation)
    return str(_MODES.get(mode, mode))


def is_resizable(transform: Any) -> bool:
    """Whether the sums here have the transform's interpolation."""
    mode = _mode(transform)
    return mode in ("nearest", "nearest-exact", "bilinear") or (mode == "bicubic" and bool(transform.antialias))


def random_resized_crop(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """A window for each image, resized to the transform's size."""
    top, left, height, width = random_windows(
        transform.scale, tuple(transform.ratio), (images.shape[2], images.shape[3]), len(images), generator
    )
    size = list(transform.size)
    if host_can_count(images.device):
        windows = torch.stack((top, left, height, width), dim=1).tolist()
        options = {"interpolation": transform.interpolation, "antialias": transform.antialias}
        return torch.stack(
            [tv.resized_crop(image, *window, size, **options) for image, window in zip(images, windows, strict=True)]
        )
    mode, is_smooth = _mode(transform), bool(transform.antialias)
    across = _taps(left, width, images.shape[3], size[1], mode, is_smooth)
    down = _taps(top, height, images.shape[2], size[0], mode, is_smooth)
    done = _summed(_summed(images, 3, across), 2, down)
    if mode == "bicubic" and images.dtype is torch.uint8:
        done = done.clamp_(0, 255)
    return rounded_like(done, images).to(images.dtype)


def random_windows(
    scale: tuple[float, float],
    ratio: tuple[float, float],
    size: tuple[int, int],
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width for each image, int64: the first of ten that fits, else one in the middle."""
    height, width = size
    columns, rows = tried_sides(scale, ratio, height * width, count, generator)
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    found, *drawn = first_fit(fits, rows, columns)
    sides, begins = [], []
    for inner, whole, middle in zip(drawn, size, _middle(ratio, size), strict=True):
        side = torch.where(found, inner, middle)
        begins.append(torch.where(found, starts(side, whole, generator), (whole - middle) // 2))
        sides.append(side.to(torch.int64))
    return begins[0], begins[1], sides[0], sides[1]


def _middle(ratio: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width where no window fits: all of it, or as much as the ratios allow."""
    height, width = size
    if width / height < min(ratio):
        return round(width / min(ratio)), width
    if width / height > max(ratio):
        return height, round(height * max(ratio))
    return size


class _Tap(NamedTuple):
    """Of each pixel one of those it is made of, and that one's share; shape (batch, pixels)."""

    pixel: Tensor
    share: Tensor


def _taps(start: Tensor, side: Tensor, whole: int, pixels: int, mode: str, is_smooth: bool) -> list[_Tap]:
    """What the pixels along an axis are made of, after torch's upsampling kernels and in their float32."""
    last = (side - 1).unsqueeze(1)
    scale = (side.to(torch.float32) / pixels).unsqueeze(1)
    pixel = torch.arange(pixels, dtype=torch.float32, device=start.device)
    if mode.startswith("nearest"):
        found = ((pixel + 0.5) * scale if mode == "nearest-exact" else pixel * scale).floor()
        firsts, shares = found.to(torch.int64), [torch.ones_like(found)]
    elif not is_smooth:
        found = ((pixel + 0.5) * scale - 0.5).clamp_(min=0)
        firsts = found.to(torch.int64)
        second = (found - firsts).clamp_(0, 1)
        shares = [1 - second, second]
    else:
        larger, reach = scale.clamp(min=1), _REACH[mode]
        middle = (pixel + 0.5) * scale
        firsts = (middle - reach * larger + 0.5).to(torch.int64).clamp_(min=0)
        ends = torch.minimum((middle + reach * larger + 0.5).to(torch.int64), last + 1)
        shares = []
        for tap in range(2 * math.ceil(reach * max(1, whole / pixels)) + 1):
            share = _FILTERS[mode](((firsts + tap - middle + 0.5) * (1 / larger)).abs_())
            shares.append(share.masked_fill_(firsts + tap >= ends, 0))
        total = torch.stack(shares).sum(0)
        shares = [share / total for share in shares]
    return [_Tap(start.unsqueeze(1) + torch.minimum(firsts + n, last), share) for n, share in enumerate(shares)]


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    # With a = -0.5, as Pillow has it.
    near = ((1.5 * distance - 2.5) * distance) * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}


def _summed(images: Tensor, axis: int, taps: Sequence[_Tap]) -> Tensor:
    """Images of so many pixels along an axis, each the sum of its taps; float32, or float64 of float64."""
    shape, pixels = list(images.shape), taps[0].pixel.shape[1]
    shape[axis] = pixels
    along = (-1, 1, 1, pixels) if axis == 3 else (-1, 1, pixels, 1)
    total = images.new_zeros(shape, dtype=torch.float64 if images.dtype is torch.float64 else torch.float32)
    for pixel, share in taps:
        total.addcmul_(images.gather(axis, pixel.view(along).expand(shape)), share.view(along).to(total.dtype))
    return total
