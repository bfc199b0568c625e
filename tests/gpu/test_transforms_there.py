"""Batched transforms on the device are in distribution what they are on the CPU, which are torchvision's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from components.classifier.augmentation import batched
from components.classifier.image_operations import MOVES, OPERATIONS, operated
from tests.classifier.both_ways import alike, pictures
from tests.classifier.test_image_operations import both
from tests.gpu.conftest import DEVICE

COUNT = 4000
TRANSFORMS: list[Any] = [
    v2.RandomResizedCrop((9, 7), scale=(0.3, 1.0), antialias=True),
    v2.RandAugment(num_ops=2),
    v2.TrivialAugmentWide(),
    v2.AutoAugment(),
    v2.AugMix(),
    v2.RandomPerspective(p=0.7),
    v2.ElasticTransform(sigma=0.5),
    v2.RandomPhotometricDistort(),
    v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    v2.RandomAffine(20, translate=(0.1, 0.1), scale=(0.8, 1.2)),
    v2.RandomErasing(p=0.5),
    v2.RandomCrop((9, 7), padding=2),
]


def on(device: str, transform: Any, images: Tensor) -> Tensor:
    there = torch.device(device)
    part = batched(transform, there)
    assert part is not None, "it is made image by image"
    done: Tensor = part(images.to(there), torch.Generator(there).manual_seed(1 if there.type == "cpu" else 2)).cpu()
    return done


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_as_on_the_cpu(transform: Any) -> None:
    images = pictures(1).expand(COUNT, -1, -1, -1)

    found, expected = (on(device, transform, images).double() for device in (DEVICE, "cpu"))

    assert found.shape == expected.shape
    assert alike(found.mean((1, 2, 3)), expected.mean((1, 2, 3)))
    assert alike(found.std((1, 2, 3)), expected.std((1, 2, 3)))
    assert alike(found[:, 0, 4, 3], expected[:, 0, 4, 3])


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_operations_of_automatic_augmentation_are_torchvisions(mode: str) -> None:
    numbers, magnitudes, images, expected = both(9, 7, 3, torch.uint8, mode, None)

    found = operated(images.to(DEVICE), numbers.to(DEVICE), magnitudes.to(DEVICE), mode, None).cpu()

    apart = (found.int() - expected.int()).abs().flatten(1).amax(1)
    for number, name in enumerate(OPERATIONS):
        off = apart[numbers == number]
        if name in MOVES and mode == "nearest":  # a place on the edge of two pixels may be either's
            assert (off > 0).double().mean() <= 0.3, name
        else:
            assert off.max() <= 1, name
