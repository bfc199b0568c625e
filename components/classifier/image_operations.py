"""The operations that torchvision's automatic augmentations choose from, each image by its own operation and magnitude.

An operation is one of four kinds: a tone for a tone, sampling along an affine grid, a mixture with gray, or sharpness.
On the CPU each image goes through its own alone. Where the host cannot count the chosen, uint8 images go through all
four, but tones through a table of 256 of them: seven operations at the cost of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from components.classifier.batched_transforms import (
    Change,
    Which,
    host_can_count,
    inverse_rows,
    per_image,
    sampled,
    where_each,
    working_dtype,
)
from components.classifier.color_transforms import gray_of, mixed, white_of

# In the order of their numbers; those of one kind follow one another.
MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TONES = ("Brightness", "Contrast", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")
OPERATIONS = ("Identity", *MOVES, "Color", "Sharpness", *TONES)


def operated(images: Tensor, numbers: Tensor, magnitudes: Tensor, mode: str, fill: Any) -> Tensor:
    """Each image after its own operation, as torchvision applies it.

    Args:
        images: Shape (batch, 1 or 3, height, width), uint8 or floats in 0..1.
        numbers: Which of OPERATIONS; int64, shape (batch,).
        magnitudes: With sign, as torchvision has them; float64, shape (batch,).
        mode: nearest or bilinear, for what moves pixels.
        fill: What they leave behind: a number, one for each channel, or None.

    Raises:
        ValueError: Torchvision has none of this for such images.
    """
    channels = images.shape[1]
    if channels not in (1, 3) or not (images.dtype is torch.uint8 or images.is_floating_point()):
        raise ValueError(f"no images: {channels} channels of {images.dtype}")
    if isinstance(fill, list | tuple) and len(fill) not in (1, channels):
        raise ValueError(f"{len(fill)} values for {channels} channels")
    moves = partial(_moved, numbers=numbers, magnitudes=magnitudes, mode=mode, fill=fill)
    changes: list[tuple[Tensor, Change]] = [
        (_are(numbers, MOVES), moves),
        (_are(numbers, ["Sharpness"]), partial(_sharpened, magnitudes=magnitudes)),
    ]
    if channels == 3:
        changes.append((_are(numbers, ["Color"]), partial(_colored, magnitudes=magnitudes)))
    if host_can_count(images.device) or images.is_floating_point():
        for name in TONES:
            changes.append((_are(numbers, [name]), partial(_toned, name=name, magnitudes=magnitudes)))
    else:
        changes.append((_are(numbers, TONES), partial(_by_table, numbers=numbers, magnitudes=magnitudes)))
    return where_each(changes, images)


def _are(numbers: Tensor, names: Sequence[str]) -> Tensor:
    return (numbers >= OPERATIONS.index(names[0])) & (numbers <= OPERATIONS.index(names[-1]))


def _moved(images: Tensor, which: Which, numbers: Tensor, magnitudes: Tensor, mode: str, fill: Any) -> Tensor:
    number, magnitude = numbers[which], magnitudes[which]
    zero = torch.zeros_like(magnitude)
    shear_x, shear_y, shift_x, shift_y, turn = (
        torch.where(number == OPERATIONS.index(name), magnitude, zero) for name in MOVES
    )
    is_shear = _are(number, MOVES[:2])
    # Shears keep the upper left corner; all else is about the middle.
    center = [torch.where(is_shear, -0.5 * size, zero) for size in (images.shape[3], images.shape[2])]
    shear = [torch.rad2deg(torch.atan(share)) for share in (shear_x, shear_y)]
    rows = inverse_rows(center, -turn.remainder(360), [shift_x.trunc(), shift_y.trunc()], zero + 1, shear)
    return sampled(images, rows, mode, fill)


def _colored(images: Tensor, which: Which, magnitudes: Tensor) -> Tensor:
    return mixed(images, gray_of(images), per_image(1 + magnitudes[which]))


def _sharpened(images: Tensor, which: Which, magnitudes: Tensor) -> Tensor:
    return _blended_with_blur(images, per_image(1 - (1 + magnitudes[which])))


def _blended_with_blur(images: Tensor, share: Tensor | float) -> Tensor:
    if min(images.shape[2:]) <= 2:
        return images
    kind = working_dtype(images)
    done = images.to(kind, copy=True)
    # Sums of 3×3 and four times the middle: whole numbers stay exact, and a thirteenth of one is never half a level.
    total = done[:, :, :-2] + done[:, :, 1:-1] + done[:, :, 2:]
    total = total[..., :-2] + total[..., 1:-1] + total[..., 2:]
    inside = done[:, :, 1:-1, 1:-1]
    blurred = total.add_(inside, alpha=4).div_(13)
    if not images.is_floating_point():
        blurred.round_()
    blurred.sub_(inside)
    if isinstance(share, Tensor):
        inside.copy_(torch.addcmul(inside, blurred, share.to(kind)))
    else:
        inside.add_(blurred, alpha=share)
    return done.clamp_(0, white_of(images)).to(images.dtype)


def _by_table(images: Tensor, which: Which, numbers: Tensor, magnitudes: Tensor) -> Tensor:
    """What becomes of each of the 256 tones in each image, then of its pixels."""
    number, count, channels = numbers[which], *images.shape[:2]
    tones = torch.arange(256, dtype=torch.uint8, device=images.device).expand(count, channels, 1, 256)
    table = tones
    for name in TONES:
        is_due = per_image(number == OPERATIONS.index(name))
        table = torch.where(is_due, _toned(images, which, name, magnitudes, tones=tones), table)
    return table.squeeze(2).gather(2, images.flatten(2).to(torch.int64)).view(images.shape)


def _toned(images: Tensor, which: Which, name: str, magnitudes: Tensor, tones: Tensor | None = None) -> Tensor:
    """What becomes of the images' pixels, or of tones (batch, channels, 1, n) in these images."""
    return _TONES[name](images if tones is None else tones, images, per_image(magnitudes[which]))


def _brightness(tones: Tensor, _images: Tensor, magnitude: Tensor) -> Tensor:
    return (tones * (1 + magnitude).to(working_dtype(tones))).clamp_(0, white_of(tones)).to(tones.dtype)


def _contrast(tones: Tensor, images: Tensor, magnitude: Tensor) -> Tensor:
    return mixed(tones, gray_of(images).mean(dim=(1, 2, 3), keepdim=True), 1 + magnitude)


def _posterize(tones: Tensor, _images: Tensor, magnitude: Tensor) -> Tensor:
    bits = magnitude.to(torch.int64)
    if not tones.is_floating_point():
        return tones & ((255 << (8 - bits)) & 255).to(torch.uint8)
    levels = (1 << bits).to(tones.dtype)
    return torch.minimum((tones * levels).floor_().clamp_(min=0), levels - 1) * (1 / levels)


def _solarize(tones: Tensor, _images: Tensor, magnitude: Tensor) -> Tensor:
    threshold = (magnitude * white_of(tones)).to(working_dtype(tones))
    if not tones.is_floating_point():
        threshold = threshold.ceil_().to(tones.dtype)
    return torch.where(tones >= threshold, _invert(tones, tones, magnitude), tones)


def _autocontrast(tones: Tensor, images: Tensor, _magnitude: Tensor) -> Tensor:
    kind, white = working_dtype(tones), white_of(tones)
    lowest, highest = (end(dim=(2, 3), keepdim=True).to(kind) for end in (images.amin, images.amax))
    scale, is_flat = (highest - lowest).mul_(1 / white), highest == lowest
    lowest, scale = lowest.masked_fill(is_flat, 0), scale.masked_fill_(is_flat, 1)
    return (tones.to(kind) - lowest).div_(scale).clamp_(0, white).to(tones.dtype)


def _equalize(tones: Tensor, images: Tensor, _magnitude: Tensor) -> Tensor:
    """After torchvision's ``equalize_image``, which has it from Pillow."""
    pixels = tv.to_dtype(images, torch.uint8, scale=True).flatten(2).to(torch.int64)
    counts = _counted(pixels)
    below = counts.cumsum(-1)
    brightest = counts.gather(-1, below.argmax(-1, keepdim=True))
    step = (pixels.shape[-1] - brightest).div_(255, rounding_mode="floor")
    known = torch.arange(256, device=images.device)
    table = (below - counts + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    # Darkest stays darkest, and images with less than 255 pixels besides their brightest stay as they are.
    table = torch.where(step > 0, table.masked_fill_(known == 0, 0), known).to(torch.uint8)
    if tones is not images:
        pixels = tones.flatten(2).to(torch.int64)
    done = table.gather(2, pixels).view(tones.shape)
    return done if tones.dtype is torch.uint8 else tv.to_dtype(done, tones.dtype, scale=True)


def _counted(pixels: Tensor) -> Tensor:
    """How often each of 256 values is there; int64, shape (batch, channels, 256), of (batch, channels, pixels)."""
    counts = pixels.new_zeros((*pixels.shape[:2], 256))
    mode = torch.get_deterministic_debug_mode()
    # Whole numbers add up to the same in any order, for which torch would sort all pixels on a GPU.
    torch.set_deterministic_debug_mode("default")
    try:
        return counts.scatter_add_(2, pixels, counts.new_ones(1).expand_as(pixels))
    finally:
        torch.set_deterministic_debug_mode(mode)


def _invert(tones: Tensor, _images: Tensor, _magnitude: Tensor) -> Tensor:
    return 1 - tones if tones.is_floating_point() else ~tones


_TONES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "Brightness": _brightness,
    "Contrast": _contrast,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
}


def _as_tones(name: str, _transform: Any, images: Tensor, _generator: torch.Generator) -> Tensor:
    return _TONES[name](images, images, images.new_zeros(()))


def _adjust_sharpness(transform: Any, images: Tensor, _generator: torch.Generator) -> Tensor:
    return _blended_with_blur(images, 1 - transform.sharpness_factor)


# In place of torchvision's own kernels, which copy a filter from the host, index by a mask, or sort pixels on a GPU.
OPERATION_KERNELS: dict[type, Callable[[Any, Tensor, torch.Generator], Tensor]] = {
    v2.RandomAdjustSharpness: _adjust_sharpness,
    v2.RandomAutocontrast: partial(_as_tones, "AutoContrast"),
    v2.RandomEqualize: partial(_as_tones, "Equalize"),
}
