"""Batched transforms of place: crops, erased rectangles, rotations, after torchvision.transforms.v2."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from components.classifier.batched_parts import Batched, uniform, whole_below

# What torchvision takes for these two ways to read between pixels; its affine transforms know no other.
INTERPOLATIONS = {"nearest": "nearest", "bilinear": "bilinear", 0: "nearest", 2: "bilinear"}

# How often RandomErasing tries to find a rectangle that fits.
_TRIES = 10


class Crop(Batched):
    """``RandomCrop``: padding for all, then for each image its own place."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        height, width = self._transform.size
        padding = self._padding(*images.shape[2:])
        if any(padding):
            mode = self._transform.padding_mode
            images = tv.pad(images, padding=padding, fill=self._transform.fill, padding_mode=mode)
        rows, columns = images.shape[2] - height, images.shape[3] - width
        if rows < 0 or columns < 0:
            raise ValueError(f"a crop of {height}×{width} is larger than {images.shape[2]}×{images.shape[3]}")
        count = len(images)
        top = torch.randint(rows + 1, (count,), generator=generator, device=images.device)
        left = torch.randint(columns + 1, (count,), generator=generator, device=images.device)
        # Every window as a view, (batch, tops, lefts, height, width, channels), of which each image gets one.
        windows = images.permute(0, 2, 3, 1).unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
        return windows[torch.arange(count, device=images.device), top, left].permute(0, 3, 1, 2)

    def _padding(self, height: int, width: int) -> list[int]:
        """Left, top, right, bottom."""
        left, right, top, bottom = self._transform.padding or (0, 0, 0, 0)
        if self._transform.pad_if_needed:
            missing_rows = max(0, self._transform.size[0] - (height + top + bottom))
            missing_columns = max(0, self._transform.size[1] - (width + left + right))
            top, bottom = top + missing_rows, bottom + missing_rows
            left, right = left + missing_columns, right + missing_columns
        return [left, top, right, bottom]


class Erasing(Batched):
    """``RandomErasing`` of every image it gets: one rectangle each, none where ten tries found none that fits."""

    def __init__(self, transform: Any, device: torch.device) -> None:
        self._scale: tuple[float, float] = tuple(transform.scale)
        # In float32, as torchvision has them.
        low, high = torch.log(torch.tensor(transform.ratio)).tolist()
        self._log_ratio: tuple[float, float] = (low, high)
        self._values: list[float] | None = transform.value
        self._fill = None if transform.value is None else torch.tensor(transform.value, device=device)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        count, channels, height, width = images.shape
        area = height * width * uniform(count * _TRIES, self._scale[0], self._scale[1], generator).view(count, _TRIES)
        # The exponential in float32, the rest in float64, as torchvision does; sides rounded half to even.
        ratio = uniform(count * _TRIES, self._log_ratio[0], self._log_ratio[1], generator).view(count, _TRIES)
        ratio = ratio.to(torch.float32).exp_().to(torch.float64)
        rows, columns = (area * ratio).sqrt_().round_(), (area / ratio).sqrt_().round_()
        fits = (rows < height) & (columns < width)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        found = fits.gather(1, first).squeeze(1)
        # A rectangle of no rows where none was found.
        rows = rows.gather(1, first).squeeze(1) * found
        columns = columns.gather(1, first).squeeze(1) * found
        top, left = whole_below(height - rows + 1, generator), whole_below(width - columns + 1, generator)
        inside = _between(top, rows, height).unsqueeze(2) & _between(left, columns, width).unsqueeze(1)
        if self._fill is None:
            fill = torch.randn(images.shape, generator=generator, device=images.device)
        else:
            fill = self._fill.view(1, -1, 1, 1)
            if fill.shape[1] not in (1, channels):
                raise ValueError(f"{fill.shape[1]} values for {channels} channels")
        return torch.where(inside.unsqueeze(1), fill.to(images.dtype), images)


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Which of the places 0..size lie in an interval, for each image: bool, shape (batch, size)."""
    places = torch.arange(size, device=start.device)
    return (places >= start.unsqueeze(1)) & (places < (start + length).unsqueeze(1))


class Affine(Batched):
    """``RandomAffine``."""

    def __init__(self, transform: Any, device: torch.device) -> None:
        self._transform = transform
        self._sampler = _Sampler(transform, device)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        given, count = self._transform, len(images)
        height, width = images.shape[2:]
        angle = uniform(count, given.degrees[0], given.degrees[1], generator)
        zero = torch.zeros_like(angle)
        shift_x = shift_y = shear_x = shear_y = zero
        scale = zero + 1
        if given.translate is not None:
            reach_x, reach_y = float(given.translate[0] * width), float(given.translate[1] * height)
            shift_x = uniform(count, -reach_x, reach_x, generator).round_()
            shift_y = uniform(count, -reach_y, reach_y, generator).round_()
        if given.scale is not None:
            scale = uniform(count, given.scale[0], given.scale[1], generator)
        if given.shear is not None:
            shear_x = uniform(count, given.shear[0], given.shear[1], generator)
            if len(given.shear) == 4:
                shear_y = uniform(count, given.shear[2], given.shear[3], generator)
        return self._sampler(images, angle, (shift_x, shift_y), scale, (shear_x, shear_y))


class Rotation(Batched):
    """``RandomRotation`` that keeps the size of images."""

    def __init__(self, transform: Any, device: torch.device) -> None:
        self._degrees: tuple[float, float] = tuple(transform.degrees)
        self._sampler = _Sampler(transform, device)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        # The other way round than RandomAffine turns, and within one turn: both as torchvision has it.
        angle = -uniform(len(images), self._degrees[0], self._degrees[1], generator).remainder(360)
        zero = torch.zeros_like(angle)
        return self._sampler(images, angle, (zero, zero), zero + 1, (zero, zero))


class _Sampler:
    """Reads every image at places of its own: torchvision's ``affine_image`` with one matrix an image."""

    def __init__(self, transform: Any, device: torch.device) -> None:
        interpolation = transform.interpolation
        self._mode = INTERPOLATIONS[getattr(interpolation, "value", interpolation)]
        self._center = transform.center
        fill = transform.fill
        values = (
            None if fill is None else [float(value) for value in (fill if isinstance(fill, list | tuple) else [fill])]
        )
        # Beside an image nearest reads zeros by itself; between pixels the border is mixed with the fill.
        plain = values is None or (self._mode == "nearest" and not any(values))
        self._fill = None if plain else torch.tensor(values, device=device).view(1, -1, 1, 1)

    def __call__(
        self,
        images: Tensor,
        angle: Tensor,
        shift: tuple[Tensor, Tensor],
        scale: Tensor,
        shear: tuple[Tensor, Tensor],
    ) -> Tensor:
        height, width = images.shape[2:]
        center = (
            (0.0, 0.0)
            if self._center is None
            else tuple(given - 0.5 * size for given, size in zip(self._center, (width, height), strict=True))
        )
        kind = images.dtype if images.is_floating_point() else torch.float32
        rows = _inverse_rows(center, angle, shift, scale, shear)
        x = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width, device=images.device).view(1, 1, -1)
        y = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height, device=images.device).view(1, -1, 1)
        places = []
        for row, size in zip(rows, (width, height), strict=True):
            # By sums and not by a matrix product, which a GPU may round to TF32: 2^-11 of an image's side.
            a, b, c = ((value.to(kind) / (0.5 * size)).view(-1, 1, 1) for value in row)
            places.append(x.to(kind) * a + y.to(kind) * b + c)
        return self._sampled(images, torch.stack(places, dim=3), kind)

    def _sampled(self, images: Tensor, grid: Tensor, kind: torch.dtype) -> Tensor:
        values = images.to(kind)
        if self._fill is None:
            values = F.grid_sample(values, grid, mode=self._mode, padding_mode="zeros", align_corners=False)
        else:
            # What is read of a picture of ones tells how much of a pixel comes from inside the image.
            values = torch.cat((values, torch.ones_like(values[:, :1])), dim=1)
            values = F.grid_sample(values, grid, mode=self._mode, padding_mode="zeros", align_corners=False)
            values, inside = values[:, :-1], values[:, -1:]
            fill = self._fill.to(kind)
            if self._mode == "nearest":
                values = torch.where(inside < 0.5, fill, values)
            else:
                values = (values - fill).mul_(inside).add_(fill)
        return values if images.is_floating_point() else values.round_().to(images.dtype)


_Row = tuple[Tensor, Tensor, Tensor]


def _inverse_rows(
    center: tuple[float, ...],
    angle: Tensor,
    shift: tuple[Tensor, Tensor],
    scale: Tensor,
    shear: tuple[Tensor, Tensor],
) -> tuple[_Row, _Row]:
    """From where each pixel is read: both rows of torchvision's ``_get_inverse_affine_matrix``, float64."""
    turn, along_x, along_y = torch.deg2rad(angle), torch.deg2rad(shear[0]), torch.deg2rad(shear[1])
    center_x, center_y = center
    from_x, from_y = center_x + shift[0], center_y + shift[1]
    a = torch.cos(turn - along_y) / torch.cos(along_y)
    b = -(a * torch.tan(along_x) + torch.sin(turn))
    c = torch.sin(turn - along_y) / torch.cos(along_y)
    d = torch.cos(turn) - c * torch.tan(along_x)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    return (
        (a, b, center_x - a * from_x - b * from_y),
        (c, d, center_y - c * from_x - d * from_y),
    )
