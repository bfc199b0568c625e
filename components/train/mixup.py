"""Mixup and CutMix: pairs of training images blended or patched together, a share a batch.

Sources: Zhang et al., mixup: Beyond Empirical Risk Minimization (2018); Yun et al., CutMix (2019). As in both papers'
own code one share is drawn for the whole batch. The partner of an image is its neighbour in the batch, which is as
random as any other where the order is, and needs no second draw.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from torch import Tensor

from components.shared.params.params import Params


class Mixture(NamedTuple):
    """What was drawn for a batch: how much of each image is its own, and the box of what is not; None: blended."""

    share: float
    box: tuple[int, int, int, int] | None = None  # top, bottom, left, right

    def numbers(self) -> list[float]:
        """As :func:`mix_by` takes it: the share, that of each pixel outside the box, and the box."""
        return [self.share, 1.0 if self.box else self.share, *(self.box or (0, 0, 0, 0))]


NUMBERS = len(Mixture(1.0).numbers())


class Mixed(NamedTuple):
    """A mixed batch: its images, their partners' labels, and how much of each image is its own."""

    images: Tensor
    others: Tensor
    share: float | Tensor


class Mixing:
    """Mixes the batches of a run by the two alphas of its params; shares are drawn from `draws`."""

    def __init__(self, params: Params, draws: random.Random) -> None:
        self._mixup, self._cutmix, self.draws = params.mixup_alpha, params.cutmix_alpha, draws
        self.is_on = self._mixup > 0 or self._cutmix > 0

    def draw(self, height: int, width: int) -> Mixture:
        """Draw how a batch of images of this size is mixed."""
        # On the host, so that no step waits for the device to tell a share.
        is_cut = self._cutmix > 0 and (self._mixup <= 0 or self.draws.random() < 0.5)
        alpha = self._cutmix if is_cut else self._mixup
        share = self.draws.betavariate(alpha, alpha)
        if not is_cut:
            return Mixture(share)
        (top, bottom), (left, right) = self._span(height, share), self._span(width, share)
        return Mixture(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))

    def __call__(self, images: Tensor, labels: Tensor) -> Mixed:
        """Mix network input, float (batch, channels, height, width), and labels, int64 (batch,)."""
        share, box = self.draw(*images.shape[2:])
        others = labels.roll(1)
        if box is None:
            return Mixed(torch.lerp(images.roll(1, 0), images, share), others, share)
        top, bottom, left, right = box
        mixed = images.clone(memory_format=torch.preserve_format)
        mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
        return Mixed(mixed, others, share)

    def _span(self, size: int, share: float) -> tuple[int, int]:
        """One side of the box: its middle anywhere, cut off at the edges, as in the paper."""
        length, middle = int(size * math.sqrt(1 - share)), self.draws.randrange(size)
        return max(0, middle - length // 2), min(size, middle + (length + 1) // 2)


def mix_by(numbers: Tensor, images: Tensor, labels: Tensor) -> Mixed:
    """As :class:`Mixing` mixes, by what a :class:`Mixture` gives as numbers: float64, (NUMBERS,), on the device.

    Other numbers need no other kernels, which is what a captured step has to be.
    """
    share, outside, top, bottom, left, right = numbers.unbind()
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
    is_inside = ((rows >= top) & (rows < bottom)).unsqueeze(1) & (columns >= left) & (columns < right)
    # Of a pixel: all or nothing where a box is cut, which lerp gives exactly. Not by torch.where, which copies a number
    # from the host.
    own = (outside * ~is_inside).to(images.dtype)
    return Mixed(torch.lerp(images.roll(1, 0), images, own), labels.roll(1), share)
