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


class Mixed(NamedTuple):
    """A mixed batch: its images, their partners' labels, and how much of each image is its own."""

    images: Tensor
    others: Tensor
    share: float


class Mixing:
    """Mixes the batches of a run by the two alphas of its params; shares are drawn from `draws`."""

    def __init__(self, params: Params, draws: random.Random) -> None:
        self._mixup, self._cutmix, self.draws = params.mixup_alpha, params.cutmix_alpha, draws
        self.is_on = self._mixup > 0 or self._cutmix > 0

    def __call__(self, images: Tensor, labels: Tensor) -> Mixed:
        """Mix network input, float (batch, channels, height, width), and labels, int64 (batch,)."""
        # On the host, so that no step waits for the device to tell a share.
        is_cut = self._cutmix > 0 and (self._mixup <= 0 or self.draws.random() < 0.5)
        alpha = self._cutmix if is_cut else self._mixup
        share = self.draws.betavariate(alpha, alpha)
        others = labels.roll(1)
        if not is_cut:
            return Mixed(torch.lerp(images.roll(1, 0), images, share), others, share)
        height, width = images.shape[2:]
        (top, bottom), (left, right) = self._span(height, share), self._span(width, share)
        mixed = images.clone(memory_format=torch.preserve_format)
        mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
        return Mixed(mixed, others, 1 - (bottom - top) * (right - left) / (height * width))

    def _span(self, size: int, share: float) -> tuple[int, int]:
        """One side of the box: its middle anywhere, cut off at the edges, as in the paper."""
        length, middle = int(size * math.sqrt(1 - share)), self.draws.randrange(size)
        return max(0, middle - length // 2), min(size, middle + (length + 1) // 2)
