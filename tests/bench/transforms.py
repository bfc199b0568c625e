"""How fast transforms run on a whole batch, against torchvision's own, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from components.classifier.augmentation import batched
from tests.bench.measure import Ratio, compare, seconds

BATCH = 128


def transform_rates(_folder: Path) -> Iterator[Ratio]:
    """(t) Images a second of RandAugment and RandomResizedCrop on the CPU, batches of 128, large and small images."""
    generator = torch.Generator().manual_seed(0)
    for side, channels in ((224, 3), (28, 1)):
        images = torch.randint(0, 256, (BATCH, side, side, channels), generator=generator, dtype=torch.uint8)
        for transform in (v2.RandAugment(), v2.RandomResizedCrop(side, scale=(0.5, 1.0))):
            yield _compared(transform, images.permute(0, 3, 1, 2), generator)


def _compared(transform: Any, images: Tensor, generator: torch.Generator) -> Ratio:
    part = batched(transform, images.device)
    assert part is not None

    def singly() -> Tensor:
        return torch.stack([transform(tv_tensors.Image(image)) for image in images])

    def rate(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: len(images) / seconds(work)

    side, name = images.shape[3], type(transform).__name__
    return compare(
        f"{name}, {side}×{side}, against torchvision's",
        rate(lambda: part(images, generator)),
        rate(singly),
        unit="images/s",
        bound="≥ 2" if side < 100 and name == "RandAugment" else "≥ 0.9",
    )
