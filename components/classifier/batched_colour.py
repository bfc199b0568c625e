"""Batched colour transforms, after torchvision.transforms.v2.functional (``_color.py``, ``_misc.py``)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from components.classifier.batched_parts import Batched, Which, an_image_each, orders, uniform, where_chosen

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


class ColourJitter(Batched):
    """``ColorJitter``: brightness, contrast, saturation and hue, for each image by its own factors in its own order."""

    def __init__(self, transform: Any) -> None:
        ranges = (transform.brightness, transform.contrast, transform.saturation, transform.hue)
        self._ranges: dict[int, tuple[float, float]] = {
            part: given for part, given in enumerate(ranges) if given is not None
        }

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        grey = images.shape[1] == 1
        # Saturation and hue leave grey images alone. The order of some parts is as random as the order of all.
        parts = [part for part in self._ranges if not (grey and part in (_SATURATION, _HUE))]
        factors = {part: _factors(len(images), self._ranges[part], generator) for part in parts}
        if len(parts) == 1:
            return _adjusted(images, parts[0], factors[parts[0]])
        order = orders(len(images), len(parts), generator)
        blends = [part for part in parts if part != _HUE]
        for place in range(len(parts)):
            due = order[:, place]
            if _HUE in parts:
                images = where_chosen(due == parts.index(_HUE), images, _HueShift(factors[_HUE]))
            if blends:
                is_due = {part: due == parts.index(part) for part in blends}
                among = torch.stack(list(is_due.values())).any(dim=0)
                images = where_chosen(among, images, _Blend(is_due, factors))
        return images


def _factors(count: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    return uniform(count, bounds[0], bounds[1], generator)


def _adjusted(images: Tensor, part: int, factors: Tensor) -> Tensor:
    if part == _HUE:
        return _HueShift(factors)(images, slice(None))
    everywhere = torch.ones(len(images), dtype=torch.bool, device=images.device)
    return _Blend({part: everywhere}, {part: factors})(images, slice(None))


class _HueShift:
    """The hue of some images turned, each by its own share of the circle."""

    def __init__(self, shift: Tensor) -> None:
        self._shift = shift

    def __call__(self, images: Tensor, which: Which) -> Tensor:
        return hue_shifted(images, self._shift[which])


class _Blend:
    """One blend in which every image has the part that is its turn.

    Brightness, contrast and saturation all mix an image with something: black, its mean grey, its own grey.
    """

    def __init__(self, is_due: dict[int, Tensor], factors: dict[int, Tensor]) -> None:
        self._is_due = is_due
        self._factors = factors

    def __call__(self, images: Tensor, which: Which) -> Tensor:
        is_due = {part: an_image_each(due[which]) for part, due in self._is_due.items()}
        kind = images.dtype if images.is_floating_point() else torch.float32
        other = torch.zeros((), dtype=kind, device=images.device)
        if _CONTRAST in is_due or _SATURATION in is_due:
            # Cut to whole numbers where images are, as both of torchvision's adjustments have it.
            grey = (tv.rgb_to_grayscale(images) if images.shape[1] == 3 else images).to(kind)
            if _CONTRAST in is_due:
                other = torch.where(is_due[_CONTRAST], grey.mean(dim=(1, 2, 3), keepdim=True), other)
            if _SATURATION in is_due:
                other = torch.where(is_due[_SATURATION], grey, other)
        factor = torch.ones((), dtype=torch.float64, device=images.device)
        for part, due in is_due.items():
            factor = torch.where(due, an_image_each(self._factors[part][which]), factor)
        return blended(images, other, factor)


def blended(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """``images * factor + other * (1 - factor)``, kept in the range of the images' dtype.

    Args:
        images: Shape (batch, channels, height, width).
        other: Float; anything that broadcasts with the images.
        factor: float64, shape (batch, 1, 1, 1).
    """
    whole = not images.is_floating_point()
    kind = torch.float32 if whole else images.dtype
    mixed = images * factor.to(kind)
    mixed.add_(other * (1 - factor).to(kind)).clamp_(0, torch.iinfo(images.dtype).max if whole else 1)
    return mixed.to(images.dtype) if whole else mixed


def hue_shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Images whose hue is turned, each by its own share of the circle.

    Args:
        images: Shape (batch, 3, height, width); grey ones come back as they are.
        shift: Shape (batch,), in -0.5..0.5.
    """
    if images.shape[1] == 1:
        return images
    # Channel by channel in memory: what follows goes through each alone.
    unit = tv.to_dtype(images.contiguous(), torch.float32, scale=True)
    hue, saturation, value = _hsv(unit)
    hue = _fraction(hue + shift.to(torch.float32).view(-1, 1, 1))
    shifted: Tensor = tv.to_dtype(_rgb(hue, saturation, value), images.dtype, scale=True)
    return shifted


def _hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in 0..1, saturation and value, after torchvision's ``_rgb_to_hsv``, which follows Pillow's ``Convert.c``."""
    red, green, blue = images.unbind(1)
    lowest, highest = torch.minimum(torch.minimum(red, green), blue), torch.maximum(torch.maximum(red, green), blue)
    grey = highest == lowest
    spread = highest - lowest
    one = torch.ones((), dtype=images.dtype, device=images.device)
    saturation = spread / torch.where(grey, one, highest)
    from_red, from_green, from_blue = (
        (highest.unsqueeze(1) - images) / torch.where(grey, one, spread).unsqueeze(1)
    ).unbind(1)
    is_red = highest == red
    is_green = ~is_red & (highest == green)
    sixth = torch.where(
        is_red, from_blue - from_green, torch.where(is_green, from_red + 2.0 - from_blue, from_green + 4.0 - from_red)
    )
    return _fraction(sixth * (1.0 / 6.0) + 1.0), saturation, highest


def _fraction(values: Tensor) -> Tensor:
    """Values modulo 1."""
    return values - values.floor()


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Back again: what torchvision's ``_hsv_to_rgb`` looks up by the sixth of the circle, as one formula.

    A channel loses the share ``w`` of the colour: 0 where it is the strongest, 1 where it is the weakest, and between
    by how far the hue has gone (https://en.wikipedia.org/wiki/HSL_and_HSV, HSV to RGB alternative).
    """
    # 5, 3, 1 for red, green, blue; made on the device, so that nothing is copied there.
    turned = torch.arange(5, 0, -2, device=hue.device).view(1, 3, 1, 1) + (hue * 6).unsqueeze(1)
    turned = torch.where(turned < 6, turned, turned - 6)
    share = torch.minimum(turned, 4 - turned).clamp_(0, 1)
    value = value.unsqueeze(1)
    mixed = (1 - saturation.unsqueeze(1) * share).mul_(value).clamp_(0, 1)
    return torch.where(share > 0, mixed, value)


class Blur(Batched):
    """``GaussianBlur``: one sigma an image, the kernel along rows and then along columns."""

    def __init__(self, transform: Any) -> None:
        self._size: tuple[int, int] = tuple(transform.kernel_size)
        self._sigma: tuple[float, float] = tuple(transform.sigma)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        sigma = uniform(len(images), self._sigma[0], self._sigma[1], generator)
        kind = images.dtype if images.is_floating_point() else torch.float32
        across, down = self._size
        blurred = F.pad(images.to(kind), (across // 2, across // 2, down // 2, down // 2), mode="reflect")
        for dim, size in ((3, across), (2, down)):
            weights = _gaussian(size, sigma, kind)
            length = blurred.shape[dim] - size + 1
            total = blurred.narrow(dim, 0, length) * an_image_each(weights[:, 0])
            for place in range(1, size):
                total.addcmul_(blurred.narrow(dim, place, length), an_image_each(weights[:, place]))
            blurred = total
        return blurred if images.is_floating_point() else blurred.round_().to(images.dtype)


def _gaussian(size: int, sigma: Tensor, kind: torch.dtype) -> Tensor:
    """Kernels of each sigma, shape (batch, size), after torchvision's ``_get_gaussian_kernel1d``."""
    limit = (size - 1) / (2.0 * math.sqrt(2.0))
    places = torch.linspace(-limit, limit, size, dtype=kind, device=sigma.device)
    return torch.softmax(-(places / sigma.to(kind).unsqueeze(1)).pow(2), dim=1)


class Noise(Batched):
    """``GaussianNoise``."""

    def __init__(self, transform: Any) -> None:
        self._mean: float = transform.mean
        self._sigma: float = transform.sigma
        self._clip: bool = transform.clip

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        whole = not images.is_floating_point()
        kind = torch.float32 if whole else images.dtype
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=kind)
        if whole:
            noisy = images + (self._mean * 255 + noise * (self._sigma * 255)).to(torch.int16)
            return (noisy.clamp_(0, 255) if self._clip else noisy).to(torch.uint8)
        noisy = images + (self._mean + noise * self._sigma)
        return noisy.clamp_(0, 1) if self._clip else noisy


class ChannelPermutation(Batched):
    """``RandomChannelPermutation``."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each transformed by draws of its own."""
        count, channels = images.shape[:2]
        order = orders(count, channels, generator)
        return images.gather(1, order.view(count, channels, 1, 1).expand(images.shape))
