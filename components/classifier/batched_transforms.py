"""Batched equivalents of torchvision's random transforms, by its own procedures: each image by draws of its own.

Every draw comes from the generator that is passed in, as torchvision draws it (``uniform_`` in float32, a probability
met by ``rand < p``): what comes out is equal in distribution to calling the transform on each image. A kernel takes a
transform object, images (batch, channels, height, width), uint8 or float, and a generator on their device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from components.classifier.crops import random_crops

# Which images: indices of some of a batch, or all of it.
Which = Tensor | slice
# What becomes of some images: shape and dtype stay.
Change = Callable[[Tensor, Which], Tensor]

# What torchvision takes for these two interpolations; its affine transforms have no other.
_INTERPOLATIONS = {"nearest": "nearest", "bilinear": "bilinear", 0: "nearest", 2: "bilinear"}
# How often torchvision tries to find a rectangle that fits.
_TRIES = 10
# Values that a processor works on at once, so that what is in between stays in its cache: 1 MB as float32.
_CACHED = 2**18


def uniform(count: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """One number of a range for each image: drawn in float32, given in float64, as torchvision has them in Python."""
    drawn = torch.empty(count, device=generator.device).uniform_(bounds[0], bounds[1], generator=generator)
    return drawn.to(torch.float64)


@cache
def _logarithms(ratio: tuple[float, float]) -> tuple[float, float]:
    low, high = torch.log(torch.tensor(ratio)).tolist()
    return low, high


def orders(count: int, length: int, generator: torch.Generator) -> Tensor:
    """A permutation for each image, each equally likely: int64, shape (count, length)."""
    return torch.rand(count, length, generator=generator, device=generator.device, dtype=torch.float64).argsort(1)


def per_image(values: Tensor) -> Tensor:
    """One value an image, shape (batch, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


@cache
def per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value a channel, shape (1, channels, 1, 1); copied to a device once."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def working_dtype(images: Tensor) -> torch.dtype:
    """What is computed in: float32 for whole numbers."""
    return images.dtype if images.is_floating_point() else torch.float32


def rounded_like(values: Tensor, images: Tensor) -> Tensor:
    """Whole numbers in the images' dtype where images are such; else the values."""
    return values if images.is_floating_point() else values.round_().to(images.dtype)


_counts_on_cpu = ContextVar("counts on the CPU", default=True)


def host_can_count(device: torch.device) -> bool:
    """Whether the host knows how many images are chosen without waiting for the device."""
    return device.type == "cpu" and _counts_on_cpu.get()


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Within, the host counts nothing on the CPU either: a step runs the same kernels whatever was drawn."""
    token = _counts_on_cpu.set(False)
    try:
        yield
    finally:
        _counts_on_cpu.reset(token)


def where_chosen(chosen: Tensor, images: Tensor, change: Change) -> Tensor:
    """The images, the chosen ones changed, which keeps shape and dtype: on the CPU only those are computed."""
    return where_each([(chosen, change)], images)


def where_each(changes: Sequence[tuple[Tensor, Change]], images: Tensor) -> Tensor:
    """As :func:`where_chosen` for several changes, of which an image is chosen for one at most."""
    done = images
    if not host_can_count(images.device):
        for chosen, change in changes:
            done = torch.where(per_image(chosen), change(images, slice(None)), done)
        return done
    most = max(1, _CACHED // max(1, images[0].numel())) if len(images) else 1
    for chosen, change in changes:
        which = chosen.nonzero().squeeze(1)
        if len(which) == len(images) <= most:
            return change(images, slice(None))
        # One image is a view, which is read and written without indexing.
        ones = [slice(index, index + 1) for index in which.tolist()] if most == 1 else torch.split(which, most)
        for some in ones if len(which) else ():
            done = images.clone() if done is images else done
            done[some] = change(images[some], some)
    return done


def tried_sides(
    scale: tuple[float, float], ratio: Sequence[float], area: int, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Both sides of ten rectangles an image, as torchvision tries them: float64, shape (count, 10), whole numbers.

    `scale` bounds shares of the images' `area`, and `ratio` that of the first side to the second.
    """
    areas = area * uniform(count * _TRIES, scale, generator).view(count, _TRIES)
    # The exponential in float32, the rest in float64, as torchvision does; sides rounded half to even.
    ratios = uniform(count * _TRIES, _logarithms(tuple(ratio)), generator).view(count, _TRIES)
    ratios = ratios.to(torch.float32).exp_().to(torch.float64)
    return (areas * ratios).sqrt_().round_(), (areas / ratios).sqrt_().round_()


def first_fit(fits: Tensor, *tried: Tensor) -> list[Tensor]:
    """Of each image whether a try fits, and of all that was tried the first that does; shape (count,)."""
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    return [values.gather(1, first).squeeze(1) for values in (fits, *tried)]


def starts(side: Tensor, whole: int, generator: torch.Generator) -> Tensor:
    """Where a part of so many pixels begins in each image, int64: anywhere with equal probability."""
    # Below the bound: what is drawn is at most 1 - 2^-53, and the bound a small whole number.
    drawn = torch.rand(len(side), generator=generator, device=generator.device, dtype=torch.float64)
    return (drawn * (whole - side + 1)).to(torch.int64)


def _crop(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Padding for all, then a window for each image."""
    height, width = transform.size
    left, right, top, bottom = transform.padding or (0, 0, 0, 0)
    if transform.pad_if_needed:
        missing = max(0, height - (images.shape[2] + top + bottom))
        top, bottom = top + missing, bottom + missing
        missing = max(0, width - (images.shape[3] + left + right))
        left, right = left + missing, right + missing
    if any((left, top, right, bottom)):
        mode = transform.padding_mode
        images = tv.pad(images, padding=[left, top, right, bottom], fill=transform.fill, padding_mode=mode)
    if height > images.shape[2] or width > images.shape[3]:
        raise ValueError(f"a crop of {height}×{width} is larger than {images.shape[2]}×{images.shape[3]}")
    return random_crops(images.permute(0, 2, 3, 1), height, width, generator).permute(0, 3, 1, 2)


def _erasing(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """One rectangle each, none where ten tries found none that fits."""
    count, channels, height, width = images.shape
    rows, columns = tried_sides(transform.scale, transform.ratio, height * width, count, generator)
    found, rows, columns = first_fit((rows < height) & (columns < width), rows, columns)
    inside = []
    for side, size in ((rows * found, height), (columns * found, width)):  # no rows where none was found
        start = starts(side, size, generator).unsqueeze(1)
        pixel = torch.arange(size, device=images.device)
        inside.append((pixel >= start) & (pixel < start + side.unsqueeze(1)))
    if transform.value is None:
        fill = torch.randn(images.shape, generator=generator, device=images.device)
    else:
        fill = per_channel(tuple(transform.value), images.device)
        if fill.shape[1] not in (1, channels):
            raise ValueError(f"{fill.shape[1]} values for {channels} channels")
    is_erased = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
    return torch.where(is_erased.unsqueeze(1), fill.to(images.dtype), images)


def _affine(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    count = len(images)
    angle = uniform(count, transform.degrees, generator)
    zero = torch.zeros_like(angle)
    shift, shear, scale = [zero, zero], [zero, zero], zero + 1
    if transform.translate is not None:
        for axis, size in enumerate((images.shape[3], images.shape[2])):
            reach = float(transform.translate[axis] * size)
            shift[axis] = uniform(count, (-reach, reach), generator).round_()
    if transform.scale is not None:
        scale = uniform(count, transform.scale, generator)
    for start in range(0, len(transform.shear or ()), 2):
        shear[start // 2] = uniform(count, transform.shear[start : start + 2], generator)
    return _sampled(transform, images, angle, shift, scale, shear)


def _rotation(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    # The other way round than RandomAffine turns, and within one turn: both as torchvision has it.
    angle = -uniform(len(images), transform.degrees, generator).remainder(360)
    zero = torch.zeros_like(angle)
    return _sampled(transform, images, angle, [zero, zero], zero + 1, [zero, zero])


def affine_mode(transform: Any) -> str | None:
    """The interpolation of a transform, where the kernels have it."""
    return _INTERPOLATIONS.get(getattr(transform.interpolation, "value", transform.interpolation))


def _sampled(
    transform: Any, images: Tensor, angle: Tensor, shift: Sequence[Tensor], scale: Tensor, shear: Sequence[Tensor]
) -> Tensor:
    center = (0.0, 0.0)
    if transform.center is not None:
        center = (transform.center[0] - 0.5 * images.shape[3], transform.center[1] - 0.5 * images.shape[2])
    rows = inverse_rows(center, angle, shift, scale, shear)
    return sampled(images, rows, str(affine_mode(transform)), transform.fill)


def sampled(images: Tensor, rows: Sequence[Sequence[Tensor]], mode: str, fill: Any) -> Tensor:
    """Torchvision's ``affine_image`` with one matrix an image.

    Args:
        images: Shape (batch, channels, height, width).
        rows: Two of a, b, c, each of shape (batch,): where to read along x and y is a·x + b·y + c, in pixels from the
            middle.
        mode: nearest or bilinear.
        fill: What is outside: a number, one for each channel, or None, which mixes with black.
    """
    (height, width), kind = images.shape[2:], working_dtype(images)
    x = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width, device=images.device).view(1, 1, -1)
    y = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height, device=images.device).view(1, -1, 1)
    grid = torch.empty(len(images), height, width, 2, dtype=kind, device=images.device)
    for axis, (row, size) in enumerate(zip(rows, (width, height), strict=True)):
        # By sums and not by a matrix product, which a GPU may round to TF32: 2^-11 of an image's side.
        a, b, c = ((value.to(kind) / (0.5 * size)).view(-1, 1, 1) for value in row)
        torch.add(x.to(kind) * a, y.to(kind) * b, out=grid[..., axis]).add_(c)
    return read_at(images, grid, mode, fill)


def read_at(images: Tensor, grid: Tensor, mode: str, fill: Any) -> Tensor:
    """Torchvision's ``_apply_grid_transform`` with one grid an image: shape (batch, height, width, 2), in -1..1."""
    kind = grid.dtype
    colours = fill if isinstance(fill, list | tuple) else [fill or 0]
    values = images.to(kind)
    # Outside an image nearest reads zeros by itself; between pixels the border is mixed with the fill.
    has_border = fill is not None and (mode == "bilinear" or any(colours))
    if has_border:
        # What is read of an image of ones tells how much of a pixel comes from inside the image.
        values = torch.cat((values, torch.ones_like(values[:, :1])), dim=1)
    values = F.grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)
    if has_border:
        outer = per_channel(tuple(map(float, colours)), images.device).to(kind)
        values, inside = values[:, :-1], values[:, -1:]
        if mode == "nearest":
            values = torch.where(inside < 0.5, outer, values)
        else:
            values = (values - outer).mul_(inside).add_(outer)
    return rounded_like(values, images)


def inverse_rows(
    center: Sequence[float | Tensor], angle: Tensor, shift: Sequence[Tensor], scale: Tensor, shear: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The rows of torchvision's ``_get_inverse_affine_matrix`` for each image, float64; angles in degrees."""
    turn, along_x, along_y = torch.deg2rad(angle), torch.deg2rad(shear[0]), torch.deg2rad(shear[1])
    (center_x, center_y), (from_x, from_y) = center, (center[0] + shift[0], center[1] + shift[1])
    a = torch.cos(turn - along_y) / torch.cos(along_y)
    b = -(a * torch.tan(along_x) + torch.sin(turn))
    c = torch.sin(turn - along_y) / torch.cos(along_y)
    d = torch.cos(turn) - c * torch.tan(along_x)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    return (a, b, center_x - a * from_x - b * from_y), (c, d, center_y - c * from_x - d * from_y)


def _blur(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    sigma = uniform(len(images), transform.sigma, generator)
    return rounded_like(blurred(images, transform.kernel_size, (sigma, sigma)), images)


def blurred(images: Tensor, kernel_size: Sequence[int], sigmas: Sequence[Tensor]) -> Tensor:
    """Torchvision's ``gaussian_blur_image``, floats, with sigmas along x and y, shape (batch,): rows, then columns."""
    kind, (across, down) = working_dtype(images), kernel_size
    current = F.pad(images.to(kind), (across // 2, across // 2, down // 2, down // 2), mode="reflect")
    for dim, size, sigma in ((3, across, sigmas[0]), (2, down, sigmas[1])):
        # After torchvision's _get_gaussian_kernel1d.
        limit = (size - 1) / (2.0 * math.sqrt(2.0))
        offsets = torch.linspace(-limit, limit, size, dtype=kind, device=sigma.device)
        weights = torch.softmax(-(offsets / sigma.to(kind).unsqueeze(1)).pow(2), dim=1)
        length = current.shape[dim] - size + 1
        total = current.narrow(dim, 0, length) * per_image(weights[:, 0])
        for start in range(1, size):
            total.addcmul_(current.narrow(dim, start, length), per_image(weights[:, start]))
        current = total
    return current


def _noise(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    kind = working_dtype(images)
    drawn = torch.randn(images.shape, generator=generator, device=images.device, dtype=kind)
    done: Tensor
    if images.is_floating_point():
        done = images + (transform.mean + drawn * transform.sigma)
        return done.clamp_(0, 1) if transform.clip else done
    done = images + (transform.mean * 255 + drawn * (transform.sigma * 255)).to(torch.int16)
    return (done.clamp_(0, 255) if transform.clip else done).to(torch.uint8)


def _channel_permutation(_transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    return permuted(images, orders(len(images), images.shape[1], generator))


def permuted(images: Tensor, order: Tensor) -> Tensor:
    """Images with their channels in another order, shape (batch, channels)."""
    return images.gather(1, order.view(*order.shape, 1, 1).expand(images.shape))


KERNELS: dict[type, Callable[[Any, Tensor, torch.Generator], Tensor]] = {
    v2.GaussianBlur: _blur,
    v2.GaussianNoise: _noise,
    v2.RandomAffine: _affine,
    v2.RandomChannelPermutation: _channel_permutation,
    v2.RandomCrop: _crop,
    v2.RandomErasing: _erasing,
    v2.RandomRotation: _rotation,
}
