"""Parts of stored images: the middle is torchvision's and costs no copy, random ones are anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from components.classifier.crops import random_crops
from components.classifier.images import CentralParts, ResidentImages
from components.shared.cropping import central_crop

SIZES = [(12, 13, 8, 8), (9, 8, 8, 8), (8, 8, 8, 8), (11, 8, 8, 5), (256, 256, 224, 224), (10, 7, 5, 6)]


@pytest.mark.parametrize(("height", "width", "taken_height", "taken_width"), SIZES)
def test_the_middle_is_torchvisions_and_a_view(height: int, width: int, taken_height: int, taken_width: int) -> None:
    stored = torch.randint(256, (5, height, width, 3), dtype=torch.uint8)
    store = CentralParts(ResidentImages(stored), (taken_height, taken_width, 3))

    first, second = store.spans([slice(0, 2), slice(2, 5)])

    assert len(store) == 5
    middle = v2.CenterCrop((taken_height, taken_width))(stored.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.equal(torch.cat([first, second]), middle)
    assert first.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
    single = central_crop(stored[0].numpy(), (taken_height, taken_width, 3))
    assert np.array_equal(single, middle[0].numpy())
    assert np.shares_memory(single, stored.numpy())


def test_random_parts_are_anywhere_with_equal_probability() -> None:
    rows, columns, drawn = 3, 4, 24_000
    # Each pixel holds its own position, so that a part's first pixel says where it is from.
    stored = torch.arange(7 * 9, dtype=torch.uint8).view(1, 7, 9, 1).expand(drawn, 7, 9, 1)
    parts = random_crops(stored, 7 - rows + 1, 9 - columns + 1, torch.Generator().manual_seed(1))

    assert parts.shape == (drawn, 5, 6, 1)
    assert parts.is_contiguous()
    starts = parts[:, 0, 0, 0].long()
    offsets = torch.arange(5).view(-1, 1) * 9 + torch.arange(6)
    assert torch.equal(parts[..., 0].long(), starts.view(-1, 1, 1) + offsets)
    counts = torch.bincount(starts, minlength=63).view(7, 9)[:rows, :columns]
    assert counts.sum() == drawn
    # 11 degrees of freedom: above 31.3 once in a thousand.
    assert float(((counts - drawn / 12) ** 2 / (drawn / 12)).sum()) < 31.3
    # Neighbours in a batch are independent of each other.
    pairs = torch.bincount((starts[0::2] // 9) * rows + starts[1::2] // 9, minlength=9)
    assert float(((pairs - drawn / 18) ** 2 / (drawn / 18)).sum()) < 26.1
