"""Colour in batches: torchvision's pixels by forced factors, its distribution by drawn ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from tests.classifier.both_ways import alike, as_batch, equally_often, furthest, one_by_one, outcomes, pictures

UNIT = v2.ToDtype(torch.float32, scale=True)


def forced(part: str, factor: float) -> Any:
    return v2.ColorJitter(**{part: (factor, factor)})


@given(st.sampled_from(["brightness", "contrast", "saturation"]), st.floats(0, 3), st.sampled_from([1, 3]))
@settings(max_examples=80, deadline=None)
def test_a_forced_blend_is_torchvisions(part: str, factor: float, channels: int) -> None:
    images = pictures(6, channels=channels)
    transform = forced(part, factor)
    # torchvision adds the other picture by a fused multiply-add and takes the mean of one image at a time, so float32
    # may round otherwise; where the sum is a whole number, cutting it off then takes away a level.
    assert furthest(as_batch(transform, images), one_by_one(transform, images)) <= (part != "brightness")
    both = v2.Compose([UNIT, transform])
    assert furthest(as_batch(both, images), one_by_one(both, images)) <= 1e-6


@given(st.floats(-0.5, 0.5), st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_a_forced_hue_is_torchvisions(shift: float, channels: int) -> None:
    images = pictures(6, channels=channels)
    transform = forced("hue", shift)
    # The same steps in the same order, but for fused ones: a value just at a whole number may lose a level.
    assert furthest(as_batch(transform, images), one_by_one(transform, images)) <= 1
    both = v2.Compose([UNIT, transform])
    assert furthest(as_batch(both, images), one_by_one(both, images)) <= 1e-5


def test_parts_come_in_each_order_as_often() -> None:
    """All 24 orders of four forced parts give pictures of their own, which tell the order."""
    transform = v2.ColorJitter((1.6, 1.6), (0.5, 0.5), (1.9, 1.9), (0.2, 0.2))
    image = torch.tensor([[200, 40, 90, 10], [30, 120, 60, 250], [77, 5, 180, 130]], dtype=torch.uint8).view(1, 3, 2, 2)
    images = image.expand(3000, -1, -1, -1)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    kinds = torch.stack(list({image.numpy().tobytes(): image for image in expected}.values()))
    assert len(kinds) > 12  # some orders clip to the same picture
    assert equally_often(nearest(found, kinds), nearest(expected, kinds))


def nearest(images: Tensor, kinds: Tensor) -> list[int]:
    """Which of some pictures each image is, give or take a level a pixel."""
    apart = (images.unsqueeze(1).int() - kinds.unsqueeze(0).int()).abs().flatten(2).amax(2)
    assert int(apart.amin(1).max()) <= 3  # a level lost early is made a few by what comes after
    return apart.argmin(1).tolist()


def spread(images: Tensor) -> Tensor:
    return images.double().flatten(1).std(1)


def mean(images: Tensor) -> Tensor:
    return images.double().flatten(1).mean(1)


def red_over_blue(images: Tensor) -> Tensor:
    return images[:, 0].double().flatten(1).mean(1) - images[:, 2].double().flatten(1).mean(1)


DRAWN: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
    (v2.ColorJitter(brightness=0.5), mean),
    (v2.ColorJitter(contrast=(0.2, 1.7)), spread),
    (v2.ColorJitter(saturation=0.8), red_over_blue),
    (v2.ColorJitter(hue=0.4), red_over_blue),
    (v2.ColorJitter(0.5, 0.5, 0.5, 0.1), mean),
    (v2.ColorJitter(0.5, 0.5, 0.5, 0.1), spread),
    (v2.ColorJitter(0.5, 0.5, 0.5, 0.1), red_over_blue),
    (v2.Compose([UNIT, v2.ColorJitter(0.5, 0.5, 0.5, 0.1)]), red_over_blue),
    (v2.GaussianBlur(3, (0.2, 2.0)), spread),
    (v2.GaussianBlur((5, 1), (0.2, 2.0)), spread),
    (v2.GaussianNoise(0.1, 0.2), mean),
    (v2.GaussianNoise(0.1, 0.2), spread),
    (v2.GaussianNoise(0.1, 0.2, clip=False), spread),
    (v2.Compose([UNIT, v2.GaussianNoise(0.1, 0.2, clip=False)]), mean),
    (v2.RandomApply([v2.ColorJitter(brightness=0.5)], p=0.3), mean),
]


@pytest.mark.parametrize(("transform", "statistic"), DRAWN)
def test_drawn_factors_are_distributed_as_torchvisions(transform: Any, statistic: Callable[[Tensor], Tensor]) -> None:
    image = torch.randint(30, 200, (1, 3, 6, 6), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    image[:, 0] += 50  # rather red, so that saturation and hue show
    images = image.expand(1500, -1, -1, -1)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    assert found.dtype is expected.dtype
    assert alike(statistic(found), statistic(expected))


@given(st.sampled_from([(3, 3), (5, 3), (1, 1), (7, 5)]), st.floats(0.1, 4), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_forced_blur_is_torchvisions(size: tuple[int, int], sigma: float, channels: int, whole: bool) -> None:
    images = pictures(4, channels=channels)
    blur = v2.GaussianBlur(size, (sigma, sigma))
    transform = blur if whole else v2.Compose([UNIT, blur])
    # Rows and columns one after the other, and not at once: float32 rounds otherwise, and halves a level apart.
    assert furthest(as_batch(transform, images), one_by_one(transform, images)) <= (1 if whole else 1e-5)


def test_noise_without_spread_is_torchvisions() -> None:
    images = pictures(4)
    for transform in (v2.GaussianNoise(0.25, 0), v2.GaussianNoise(0.25, 0, clip=False), v2.GaussianNoise(-0.5, 0)):
        assert furthest(as_batch(transform, images), one_by_one(transform, images)) == 0
        both = v2.Compose([UNIT, transform])
        assert furthest(as_batch(both, images), one_by_one(both, images)) == 0


def test_noise_is_each_pixels_own() -> None:
    flat = torch.full((50, 3, 8, 8), 128, dtype=torch.uint8)
    assert len(set(outcomes(as_batch(v2.GaussianNoise(), flat)))) == 50
    assert len(set(as_batch(v2.GaussianNoise(), flat)[0].flatten().tolist())) > 20
