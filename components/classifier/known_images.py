"""Known images for a trial of transforms, and what is measured of what comes out of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from components.classifier.augmentation import as_unit

# Values of an image, evenly from all of it, whose statistics are taken.
_SAMPLED, _SAMPLED_FOR_EXTREMES = 2**14, 2**18
READ = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMBERS = (*READ, torch.bool, torch.int8, torch.int16, torch.int32, torch.int64)
# How far values may leave 0..1.
_BEYOND = 0.5
# Of the pixels of an image so many show what became of a level; the rest may be filled, erased or noise.
_SHARE = 0.01
# One and a half gray levels: what rounding may do to an image.
_ROUNDING = 1.5 / 255
LEVELS = {"black": (0, 0, 0), "white": (255, 255, 255), "a tone": (200, 120, 40)}


class Output(NamedTuple):
    """What a transform gave for one image by one draw.

    The extremes, as stored, are NaN where values are not real numbers. The rest is in units of white, for images of the
    right shape alone: `medians` of each channel, and `off`, how far the nearest hundredth of its pixels is from what
    went in.
    """

    draw: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    lowest: float
    highest: float
    mean: float = math.nan
    spread: float = math.nan
    medians: tuple[float, ...] = ()
    off: tuple[float, ...] = ()

    @property
    def white(self) -> int:
        """What white is in its dtype."""
        return 1 if self.dtype.is_floating_point else 255


def measured(image: Tensor, known: Tensor, draw: int, taken: tuple[int, ...]) -> Output:
    """Measure what a transform made of a known image by a draw; its shape is the known one's, or the one `taken`."""
    stored = Output(draw, image.dtype, tuple(image.shape), *extremes(image))
    if stored.shape not in (tuple(known.shape), taken) or image.dtype not in _NUMBERS:
        return stored
    sample = image.flatten(1)[:, :: max(1, image.numel() // _SAMPLED)].float()
    unit = sample if image.is_floating_point() else sample / 255
    off = (unit - as_unit(known[:, 0, :1])).abs().kthvalue(math.ceil(_SHARE * sample.shape[1])).values
    return stored._replace(
        mean=float(unit.mean()),
        spread=float(unit.std(correction=0)),
        medians=tuple(unit.median(1).values.tolist()),
        off=tuple(off.tolist()),
    )


def extremes(image: Tensor) -> tuple[float, float]:
    """The lowest and the highest value; NaN where they are no real numbers."""
    if image.dtype not in _NUMBERS or not image.numel():
        return math.nan, math.nan
    lowest, highest = image.flatten()[:: max(1, image.numel() // _SAMPLED_FOR_EXTREMES)].float().aminmax()
    return float(lowest), float(highest)


def scale_problem(dtype: torch.dtype, lowest: float, highest: float) -> str | None:
    """What is wrong with values of an image, if they are not on the scale on which they are read."""
    name, white = str(dtype).removeprefix("torch."), 1 if dtype.is_floating_point else 255
    span = f"values up to {highest:.4g}" if lowest >= 0 else f"values from {lowest:.4g} to {highest:.4g}"
    if dtype not in READ:
        return f"{name}{'' if math.isnan(highest) else f', {span},'} where uint8 or floats in 0..1 are read"
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        return f"values as {name} that are not finite"
    if lowest < -_BEYOND * white or highest > (1 + _BEYOND) * white:
        return f"{span} as {name} where 0..{white} is read"
    return None


def known_images(channels: int, height: int, width: int) -> list[Tensor]:
    """The levels, and last a gradient with some texture that no flip, turn or stretch of tones gives back."""
    levels = [level[:channels] if channels > 1 else level[1:2] for level in LEVELS.values()]
    flat = [torch.tensor(level, dtype=torch.uint8).view(-1, 1, 1).expand(-1, height, width) for level in levels]
    down, across = torch.linspace(0, 1, height).view(1, -1, 1), torch.linspace(0, 1, width).view(1, 1, -1)
    texture = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))
    tint = torch.linspace(0, 0.2, channels).view(-1, 1, 1)
    return [*flat, ((0.1 + 0.3 * down + 0.2 * across + tint + 0.1 * texture) * 255).to(torch.uint8)]


def alike(image: Tensor, before: Tensor) -> bool:
    """Whether an image is as it was, but for its dtype and for rounding."""
    if image.shape != before.shape or image.dtype is torch.bool or image.is_complex():
        return False
    same = torch.equal(image.double(), before.double())
    return same or bool((as_unit(image) - as_unit(before)).abs().max() <= _ROUNDING)
