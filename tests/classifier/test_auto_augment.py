"""Automatic augmentations draw what torchvision draws, as often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from components.classifier.batched_transforms import as_on_gpu
from tests.classifier.both_ways import alike, as_batch, equally_often, one_by_one, outcomes, pictures

CIFAR10, SVHN = v2.AutoAugmentPolicy.CIFAR10, v2.AutoAugmentPolicy.SVHN


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandAugment(num_ops=1),
        v2.RandAugment(num_ops=1, magnitude=30, fill=9),
        v2.RandAugment(num_ops=1, magnitude=2, num_magnitude_bins=4, interpolation="bilinear"),
        v2.TrivialAugmentWide(num_magnitude_bins=2),
        v2.TrivialAugmentWide(num_magnitude_bins=3, fill=[1, 2, 3]),
    ],
    ids=repr,
)
def test_each_operation_with_each_sign_comes_as_often(transform: Any) -> None:
    images = pictures(1, 6, 5).expand(1500, -1, -1, -1)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    assert len(set(outcomes(expected))) > 10
    assert set(outcomes(found)) == set(outcomes(expected))
    assert equally_often(outcomes(found), outcomes(expected))


def brightness(images: Tensor) -> Tensor:
    return images.double().mean((1, 2, 3))


def tilt(images: Tensor) -> Tensor:
    """The upper left corner against the lower right one."""
    return images[:, :, :3, :3].double().mean((1, 2, 3)) - images[:, :, 3:, 3:].double().mean((1, 2, 3))


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandAugment(),
        v2.RandAugment(3, 20, fill=100),
        v2.TrivialAugmentWide(),
        v2.AutoAugment(),
        v2.AutoAugment(CIFAR10),
        v2.AutoAugment(SVHN, fill=100),
        v2.AugMix(),
        v2.AugMix(10, mixture_width=2, chain_depth=1, alpha=0.4, all_ops=False, interpolation="nearest", fill=7),
    ],
    ids=repr,
)
def test_several_in_turn_are_distributed_as_torchvisions(transform: Any) -> None:
    image = pictures(1, 6, 6, seed=3)
    image[:, :, :3, :3] //= 2
    images = image.expand(700, -1, -1, -1)
    expected, found = one_by_one(transform, images), as_batch(transform, images)
    with as_on_gpu():
        there = as_batch(transform, images, seed=1)
    for way in (found, there):
        for measure in (brightness, tilt):
            assert alike(measure(way), measure(expected))
        # Policies and repeated draws: what comes out unchanged, and how many different images there are.
        assert equally_often(*(each.eq(images).flatten(1).all(1).tolist() for each in (way, expected)))
        kinds = [len(set(outcomes(each))) for each in (way, expected)]
        assert abs(kinds[0] - kinds[1]) < 0.15 * kinds[1]


def test_probability_decides_how_often_a_policy_acts() -> None:
    """Of an image of one tone only a few policies of SVHN change anything, by known shares."""
    images = torch.full((4000, 1, 4, 4), 60, dtype=torch.uint8)
    transform = v2.AutoAugment(SVHN, fill=60)
    found, expected = as_batch(transform, images)[:, 0, 0, 0], one_by_one(transform, images[:1000])[:, 0, 0, 0]
    assert set(found.tolist()) >= set(expected.tolist()) >= {60, 195}
    assert equally_often((found == 60).tolist(), (expected == 60).tolist())
