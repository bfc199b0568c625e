"""Batched equivalents of torchvision's random transforms, by its own procedures: each image by draws of its own.

Every draw comes from the generator that is passed in, one value an image, as torchvision draws it (``uniform_`` in
float32, a probability met by ``rand < p``), so that what comes out is equal in distribution to calling the transform on
each image. Each function makes the equivalent of a transform object; None where there is none for its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

# Takes images (batch, channels, height, width), uint8 or float, and a generator on their device; leaves them unchanged.
Batched = Callable[[Tensor, torch.Generator], Tensor]
# Which images: indices of some of a batch, or all of it.
Which = Tensor | slice

# What torchvision takes for these two interpolations; its affine transforms have no other.
_INTERPOLATIONS = {"nearest": "nearest", "bilinear": "bilinear", 0: "nearest", 2: "bilinear"}
# How often RandomErasing tries to find a rectangle that fits.
_TRIES = 10


def uniform(count: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """One number of a range for each image: drawn in float32, given in float64, as torchvision has them in Python."""
    drawn = torch.empty(count, device=generator.device).uniform_(bounds[0], bounds[1], generator=generator)
    return drawn.to(torch.float64)


def orders(count: int, length: int, generator: torch.Generator) -> Tensor:
    """A permutation for each image, each equally likely: int64, shape (count, length)."""
    return torch.rand(count, length, generator=generator, device=generator.device, dtype=torch.float64).argsort(1)


def per_image(values: Tensor) -> Tensor:
    """Values of shape (batch,) as (batch, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def host_can_count(device: torch.device) -> bool:
    """Whether the host knows how many images are chosen without waiting for the device."""
    return device.type == "cpu"


def where_chosen(chosen: Tensor, images: Tensor, change: Callable[[Tensor, Which], Tensor]) -> Tensor:
    """The images, the chosen ones changed: on the CPU only those are computed, on other devices all.

    Args:
        chosen: bool, shape (batch,).
        images: Shape (batch, channels, height, width).
        change: Gets images and which of the batch they are; keeps shape and dtype.
    """
    if not host_can_count(images.device):
        return torch.where(per_image(chosen), change(images, slice(None)), images)
    which = chosen.nonzero().squeeze(1)
    if len(which) == 0:
        return images
    if len(which) == len(images):
        return change(images, slice(None))
    done = images.clone()
    done[which] = change(images[which], which)
    return done


def crop(transform: Any, _device: torch.device) -> Batched | None:
    """``RandomCrop``: padding for all, then a window for each image."""
    height, width = transform.size

    def cropped(images: Tensor, generator: torch.Generator) -> Tensor:
        left, right, top, bottom = transform.padding or (0, 0, 0, 0)
        if transform.pad_if_needed:
            missing = max(0, height - (images.shape[2] + top + bottom))
            top, bottom = top + missing, bottom + missing
            missing = max(0, width - (images.shape[3] + left + right))
            left, right = left + missing, right + missing
        if any((left, top, right, bottom)):
            padding, mode = [left, top, right, bottom], transform.padding_mode
            images = tv.pad(images, padding=padding, fill=transform.fill, padding_mode=mode)
        count, rows, columns = len(images), images.shape[2] - height, images.shape[3] - width
        if rows < 0 or columns < 0:
            raise ValueError(f"a crop of {height}×{width} is larger than {images.shape[2]}×{images.shape[3]}")
        tops = torch.randint(rows + 1, (count,), generator=generator, device=images.device)
        lefts = torch.randint(columns + 1, (count,), generator=generator, device=images.device)
        # Every window as a view, (batch, tops, lefts, height, width, channels), of which each image gets one.
        windows = images.permute(0, 2, 3, 1).unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
        return windows[torch.arange(count, device=images.device), tops, lefts].permute(0, 3, 1, 2)

    return None if isinstance(transform.fill, dict) else cropped


def erasing(transform: Any, device: torch.device) -> Batched:
    """``RandomErasing`` without its probability: one rectangle each, none where ten tries found none that fits."""
    low, high = torch.log(torch.tensor(transform.ratio)).tolist()  # in float32, as torchvision has them
    value = None if transform.value is None else torch.tensor(transform.value, device=device).view(1, -1, 1, 1)

    def erased(images: Tensor, generator: torch.Generator) -> Tensor:
        count, channels, height, width = images.shape
        area = height * width * uniform(count * _TRIES, transform.scale, generator).view(count, _TRIES)
        # The exponential in float32, the rest in float64, as torchvision does; sides rounded half to even.
        ratio = uniform(count * _TRIES, (low, high), generator).view(count, _TRIES)
        ratio = ratio.to(torch.float32).exp_().to(torch.float64)
        rows, columns = (area * ratio).sqrt_().round_(), (area / ratio).sqrt_().round_()
        fits = (rows < height) & (columns < width)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        found = fits.gather(1, first).squeeze(1)
        inside = []
        for sides, size in ((rows, height), (columns, width)):
            side = sides.gather(1, first).squeeze(1) * found  # no rows where none was found
            # Below the bound: what is drawn is at most 1 - 2^-53, and the bound a small whole number.
            drawn = torch.rand(count, generator=generator, device=images.device, dtype=torch.float64)
            start = (drawn * (size - side + 1)).to(torch.int64).unsqueeze(1)
            place = torch.arange(size, device=images.device)
            inside.append((place >= start) & (place < start + side.unsqueeze(1)))
        if value is not None and value.shape[1] not in (1, channels):
            raise ValueError(f"{value.shape[1]} values for {channels} channels")
        fill = torch.randn(images.shape, generator=generator, device=images.device) if value is None else value
        is_erased = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
        return torch.where(is_erased.unsqueeze(1), fill.to(images.dtype), images)

    return erased


def affine(transform: Any, device: torch.device) -> Batched | None:
    """``RandomAffine``."""
    if (sample := _sampler(transform, device)) is None:
        return None

    def moved(images: Tensor, generator: torch.Generator) -> Tensor:
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
        if transform.shear is not None:
            shear[0] = uniform(count, transform.shear[:2], generator)
            if len(transform.shear) == 4:
                shear[1] = uniform(count, transform.shear[2:], generator)
        return sample(images, angle, shift, scale, shear)

    return moved


def rotation(transform: Any, device: torch.device) -> Batched | None:
    """``RandomRotation`` that keeps the size of images; by ``expand`` every image gets a size of its own."""
    sample = _sampler(transform, device)
    if sample is None or transform.expand:
        return None

    def rotated(images: Tensor, generator: torch.Generator) -> Tensor:
        # The other way round than RandomAffine turns, and within one turn: both as torchvision has it.
        angle = -uniform(len(images), transform.degrees, generator).remainder(360)
        zero = torch.zeros_like(angle)
        return sample(images, angle, [zero, zero], zero + 1, [zero, zero])

    return rotated


def _sampler(transform: Any, device: torch.device) -> Callable[..., Tensor] | None:
    """Torchvision's ``affine_image`` with one matrix an image."""
    mode = _INTERPOLATIONS.get(getattr(transform.interpolation, "value", transform.interpolation))
    fill = transform.fill
    if mode is None or isinstance(fill, dict):
        return None
    values = fill if isinstance(fill, list | tuple) else [0.0 if fill is None else float(fill)]
    # Outside an image nearest reads zeros by itself; between pixels the border is mixed with the fill.
    is_plain = fill is None or (mode == "nearest" and not any(values))
    border = None if is_plain else torch.tensor([float(value) for value in values], device=device).view(1, -1, 1, 1)

    def sample(images: Tensor, angle: Tensor, shift: list[Tensor], scale: Tensor, shear: list[Tensor]) -> Tensor:
        height, width = images.shape[2:]
        center = (0.0, 0.0)
        if transform.center is not None:
            center = (transform.center[0] - 0.5 * width, transform.center[1] - 0.5 * height)
        kind = images.dtype if images.is_floating_point() else torch.float32
        x = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width, device=images.device).view(1, 1, -1)
        y = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height, device=images.device).view(1, -1, 1)
        grid = []
        for row, size in zip(_inverse_rows(center, angle, shift, scale, shear), (width, height), strict=True):
            # By sums and not by a matrix product, which a GPU may round to TF32: 2^-11 of an image's side.
            a, b, c = ((value.to(kind) / (0.5 * size)).view(-1, 1, 1) for value in row)
            grid.append(x.to(kind) * a + y.to(kind) * b + c)
        values = images.to(kind)
        if border is not None:
            # What is read of an image of ones tells how much of a pixel comes from inside the image.
            values = torch.cat((values, torch.ones_like(values[:, :1])), dim=1)
        values = F.grid_sample(values, torch.stack(grid, dim=3), mode=mode, padding_mode="zeros", align_corners=False)
        if border is not None:
            values, inside = values[:, :-1], values[:, -1:]
            outer = border.to(kind)
            values = (
                torch.where(inside < 0.5, outer, values)
                if mode == "nearest"
                else (values - outer).mul_(inside).add_(outer)
            )
        return values if images.is_floating_point() else values.round_().to(images.dtype)

    return sample


def _inverse_rows(
    center: tuple[float, float], angle: Tensor, shift: list[Tensor], scale: Tensor, shear: list[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Both rows of torchvision's ``_get_inverse_affine_matrix``, float64."""
    turn, along_x, along_y = torch.deg2rad(angle), torch.deg2rad(shear[0]), torch.deg2rad(shear[1])
    center_x, center_y = center
    from_x, from_y = center_x + shift[0], center_y + shift[1]
    a = torch.cos(turn - along_y) / torch.cos(along_y)
    b = -(a * torch.tan(along_x) + torch.sin(turn))
    c = torch.sin(turn - along_y) / torch.cos(along_y)
    d = torch.cos(turn) - c * torch.tan(along_x)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    return (a, b, center_x - a * from_x - b * from_y), (c, d, center_y - c * from_x - d * from_y)


def colour_jitter(transform: Any, _device: torch.device) -> Batched:
    """``ColorJitter``: each image by its own factors in its own order."""
    names = ("brightness", "contrast", "saturation", "hue")
    ranges = {name: bounds for name in names if (bounds := getattr(transform, name)) is not None}

    def jittered(images: Tensor, generator: torch.Generator) -> Tensor:
        count = len(images)
        # Saturation and hue leave gray images alone. The order of some parts is as random as the order of all.
        parts = [name for name in ranges if images.shape[1] > 1 or name in ("brightness", "contrast")]
        factors = {name: uniform(count, ranges[name], generator) for name in parts}
        order = (
            orders(count, len(parts), generator)
            if len(parts) > 1
            else torch.zeros(count, 1, dtype=torch.int64, device=images.device)
        )
        for turn in range(len(parts)):
            due = {name: order[:, turn] == number for number, name in enumerate(parts)}
            if (is_hue := due.pop("hue", None)) is not None:
                images = where_chosen(is_hue, images, partial(_hue_shifted, shift=factors["hue"]))
            if due:
                among = torch.stack(list(due.values())).any(dim=0)
                images = where_chosen(among, images, partial(_blended, due=due, factors=factors))
        return images

    return jittered


def _blended(images: Tensor, which: Which, due: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Tensor:
    """One blend, each image by the part that is due.

    Brightness, contrast and saturation all mix an image with something: black, its mean gray, its own gray.
    """
    is_whole = not images.is_floating_point()
    kind = torch.float32 if is_whole else images.dtype
    other = torch.zeros((), dtype=kind, device=images.device)
    factor = torch.ones((), dtype=torch.float64, device=images.device)
    if due.keys() & {"contrast", "saturation"}:
        # Cut to whole numbers where images are, as both of torchvision's adjustments have it.
        gray = (tv.rgb_to_grayscale(images) if images.shape[1] == 3 else images).to(kind)
    for name, chosen in due.items():
        is_due = per_image(chosen[which])
        if name == "contrast":
            other = torch.where(is_due, gray.mean(dim=(1, 2, 3), keepdim=True), other)
        elif name == "saturation":
            other = torch.where(is_due, gray, other)
        factor = torch.where(is_due, per_image(factors[name][which]), factor)
    mixed = images * factor.to(kind)
    mixed.add_(other * (1 - factor).to(kind)).clamp_(0, torch.iinfo(images.dtype).max if is_whole else 1)
    return mixed.to(images.dtype) if is_whole else mixed


def _hue_shifted(images: Tensor, which: Which, shift: Tensor) -> Tensor:
    # Channel by channel in memory: what follows goes through each alone.
    unit = tv.to_dtype(images.contiguous(), torch.float32, scale=True)
    hue, saturation, value = _hsv(unit)
    hue = hue + shift[which].to(torch.float32).view(-1, 1, 1)
    shifted: Tensor = tv.to_dtype(_rgb(hue - hue.floor(), saturation, value), images.dtype, scale=True)
    return shifted


def _hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in 0..1, saturation and value, after torchvision's ``_rgb_to_hsv``, which follows Pillow's ``Convert.c``."""
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
    """Back again: what torchvision's ``_hsv_to_rgb`` takes from a table by the sixth of the circle, as one formula.

    A channel loses a share of the color: 0 where it is the strongest, 1 where it is the weakest, and between by how far
    the hue has gone (https://en.wikipedia.org/wiki/HSL_and_HSV, HSV to RGB alternative).
    """
    # 5, 3, 1 for red, green, blue; made on the device, so that nothing is copied there.
    turned = torch.arange(5, 0, -2, device=hue.device).view(1, 3, 1, 1) + (hue * 6).unsqueeze(1)
    turned = torch.where(turned < 6, turned, turned - 6)
    share = torch.minimum(turned, 4 - turned).clamp_(0, 1)
    value = value.unsqueeze(1)
    mixed = (1 - saturation.unsqueeze(1) * share).mul_(value).clamp_(0, 1)
    return torch.where(share > 0, mixed, value)


def blur(transform: Any, _device: torch.device) -> Batched:
    """``GaussianBlur``: one sigma an image, the kernel along rows and then along columns."""

    def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
        sigma = uniform(len(images), transform.sigma, generator)
        kind = images.dtype if images.is_floating_point() else torch.float32
        across, down = transform.kernel_size
        current = F.pad(images.to(kind), (across // 2, across // 2, down // 2, down // 2), mode="reflect")
        for dim, size in ((3, across), (2, down)):
            # After torchvision's _get_gaussian_kernel1d.
            limit = (size - 1) / (2.0 * math.sqrt(2.0))
            places = torch.linspace(-limit, limit, size, dtype=kind, device=sigma.device)
            weights = torch.softmax(-(places / sigma.to(kind).unsqueeze(1)).pow(2), dim=1)
            length = current.shape[dim] - size + 1
            total = current.narrow(dim, 0, length) * per_image(weights[:, 0])
            for place in range(1, size):
                total.addcmul_(current.narrow(dim, place, length), per_image(weights[:, place]))
            current = total
        return current if images.is_floating_point() else current.round_().to(images.dtype)

    return blurred


def noise(transform: Any, _device: torch.device) -> Batched:
    """``GaussianNoise``."""
    mean: float = transform.mean
    sigma: float = transform.sigma
    is_clipped: bool = transform.clip

    def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
        is_whole = not images.is_floating_point()
        kind = torch.float32 if is_whole else images.dtype
        drawn = torch.randn(images.shape, generator=generator, device=images.device, dtype=kind)
        if is_whole:
            done = images + (mean * 255 + drawn * (sigma * 255)).to(torch.int16)
            return (done.clamp_(0, 255) if is_clipped else done).to(torch.uint8)
        done = images + (mean + drawn * sigma)
        return done.clamp_(0, 1) if is_clipped else done

    return noisy


def channel_permutation(_transform: Any, _device: torch.device) -> Batched:
    """``RandomChannelPermutation``."""

    def permuted(images: Tensor, generator: torch.Generator) -> Tensor:
        order = orders(len(images), images.shape[1], generator)
        return images.gather(1, order.view(*order.shape, 1, 1).expand(images.shape))

    return permuted
