"""Batched equivalents of torchvision's perspectives and elastic transforms: each image its own corners or field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from components.classifier.batched_transforms import affine_mode, blurred, read_at, working_dtype


def _perspective(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    size = images.shape[2:]
    reach = [int(transform.distortion_scale * (side // 2)) for side in size]
    # Corners that move by a third may end on a line: there torchvision raises, or gives what rounding makes of 0/0.
    if any(3 * most >= side - 1 for most, side in zip(reach, size, strict=True)):
        raise ValueError(f"the corners of {size[0]}×{size[1]} may end on a line")
    rest = _at_rest((size[0], size[1]), generator.device)
    moved = torch.stack(
        [
            torch.randint(most + 1, (len(images), 4), generator=generator, device=generator.device)
            for most in reach[::-1]
        ],
        dim=2,
    )
    # Inwards: to the right and down from the upper left.
    corners = torch.where(rest > 0, rest - moved, moved)
    return in_perspective(images, corners, str(affine_mode(transform)), transform.fill)


def _at_rest(size: tuple[int, int], device: torch.device) -> Tensor:
    # Made on the device, so that nothing is copied there.
    corner = torch.arange(4, device=device)
    is_right, is_low = (corner == 1) | (corner == 2), corner >= 2
    return torch.stack((is_right * (size[1] - 1), is_low * (size[0] - 1)), dim=1).to(torch.float64)


def in_perspective(images: Tensor, corners: Tensor, mode: str, fill: Any) -> Tensor:
    """Torchvision's ``perspective_image`` with corners (batch, 4, 2) of its own for each image."""
    (height, width), kind = images.shape[2:], working_dtype(images)
    rows = _to_rectangle(corners, height, width)
    x = torch.arange(width, dtype=kind, device=images.device).add_(0.5).view(1, 1, -1)
    y = torch.arange(height, dtype=kind, device=images.device).add_(0.5).view(1, -1, 1)

    def along(row: Tensor, size: float) -> Tensor:
        a, b, c = ((value.to(kind) / size).view(-1, 1, 1) for value in row.unbind(1))
        return x * a + y * b + c

    below = along(rows[:, 2], 1)
    grid = torch.stack([along(rows[:, axis], 0.5 * size) / below - 1 for axis, size in enumerate((width, height))], 3)
    # A pixel on the horizon is x/0: of bytes it is 0 then, and of floats it is made so.
    done = read_at(images, grid, mode, fill)
    return torch.nan_to_num(done) if images.is_floating_point() else done


def _to_rectangle(corners: Tensor, height: int, width: int) -> Tensor:
    """The projection that brings corners back to where an image has them; float64, shape (batch, 3, 3)."""
    # Heckbert, Fundamentals of Texture Mapping and Image Warping, 2.2.3: the unit square to four corners, inverted.
    (x0, x1, x2, x3), (y0, y1, y2, y3) = corners[..., 0].unbind(1), corners[..., 1].unbind(1)
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    right_x, right_y, low_x, low_y = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    whole = right_x * low_y - low_x * right_y
    g, h = (sum_x * low_y - low_x * sum_y) / whole, (right_x * sum_y - sum_x * right_y) / whole
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0
    across = torch.stack((e - f * h, c * h - b, b * f - c * e), 1) * (width - 1)
    down = torch.stack((f * g - d, a - c * g, c * d - a * f), 1) * (height - 1)
    last = a * e - b * d
    below = torch.stack((d * h - e * g, b * g - a * h, last), 1)
    return torch.stack((across, down, below), 1) / last.view(-1, 1, 1)


def _elastic(transform: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """A field of shifts for each image: noise between -1 and 1, blurred, times alpha."""
    (height, width), kind = images.shape[2:], working_dtype(images)
    grid = []
    for axis, size in enumerate((width, height)):
        shape = (len(images), 1, height, width)
        noise = torch.rand(shape, generator=generator, device=images.device) * 2 - 1
        if transform.sigma[axis] > 0:
            if min(transform.sigma) <= 0:
                raise ValueError("both of sigma must be positive, or none")
            reach = int(8 * transform.sigma[axis] + 1)
            sigmas = [torch.full((len(images),), sigma, device=images.device) for sigma in transform.sigma]
            noise = blurred(noise, [reach + (reach % 2 == 0)] * 2, sigmas)
        ends = (1 - size) / size, (size - 1) / size
        at_rest = torch.linspace(*ends, size, device=images.device, dtype=kind)
        at_rest = at_rest.view((1, 1, -1) if axis == 0 else (1, -1, 1))
        grid.append(at_rest + (noise.squeeze(1) * transform.alpha[axis] / size).to(kind))
    return read_at(images, torch.stack(grid, 3), str(affine_mode(transform)), transform.fill)


WARP_KERNELS: dict[type, Callable[[Any, Tensor, torch.Generator], Tensor]] = {
    v2.ElasticTransform: _elastic,
    v2.RandomPerspective: _perspective,
}
