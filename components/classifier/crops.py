"""Random parts of stored images for training: a window for each image, cut for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor


def random_crops(images: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A window of each image, anywhere in it with equal probability, each image's for itself.

    Args:
        images: uint8 or float, shape (batch, height, width, channels), at least as large as the windows.
        height: Of the windows, in pixels.
        width: The same.
        generator: On the images' device.

    Returns:
        The windows, shape (batch, height, width, channels), dense in this order.
    """
    count, rows, columns = len(images), images.shape[1] - height, images.shape[2] - width
    tops = torch.randint(rows + 1, (count,), generator=generator, device=images.device)
    lefts = torch.randint(columns + 1, (count,), generator=generator, device=images.device)
    # Every window as a view, (batch, tops, lefts, height, width, channels), of which each image gets one.
    windows = images.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    return windows[torch.arange(count, device=images.device), tops, lefts]
