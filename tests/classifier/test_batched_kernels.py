"""Batched kernels are torchvision's: its pixels by forced parameters, its outcomes as often by drawn ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from tests.classifier.both_ways import alike, as_batch, equally_often, furthest, one_by_one, outcomes, pictures

UNIT = v2.ToDtype(torch.float32, scale=True)


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomCrop((5, 4), padding=[0, 1, 2, 0], fill=9),
        v2.RandomCrop((5, 4), padding=1, fill=[1, 2, 3]),
        v2.RandomCrop((5, 4), padding=2, padding_mode="reflect"),
        v2.RandomCrop((4, 4)),
        v2.RandomCrop((7, 3), padding=[1, 0], pad_if_needed=True, fill=3),
        v2.Compose([UNIT, v2.RandomCrop((5, 4), padding=1, fill=0.5)]),
        v2.RandomAffine(0, translate=(0.4, 0.35), fill=9),
    ],
    ids=repr,
)
def test_each_crop_and_shift_comes_as_often(transform: Any) -> None:
    images = pictures(1, 6, 5).expand(1500, -1, -1, -1)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    assert found.dtype is expected.dtype
    assert set(outcomes(found)) == set(outcomes(expected))
    assert equally_often(outcomes(found), outcomes(expected))


def erased(images: Tensor) -> Tensor:
    """Pixels that are not as they were: images were all 200."""
    return (images != 200).any(1)


def rectangles(images: Tensor) -> list[Hashable]:
    """Top, left, height and width of what is erased in each image."""
    found: list[Hashable] = []
    for gone in erased(images):
        rows, columns = gone.any(1).nonzero().flatten().tolist(), gone.any(0).nonzero().flatten().tolist()
        if rows:
            assert int(gone.sum()) == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        found.append((rows[0], columns[0], len(rows), len(columns)) if rows else None)
    return found


ERASINGS: list[Any] = [
    v2.RandomErasing(p=1),
    v2.RandomErasing(p=0.4, scale=(0.1, 0.1), ratio=(1, 1)),
    # Hardly ever fits in ten tries, so that many images stay as they are.
    v2.RandomErasing(p=1, scale=(0.8, 1.0), ratio=(0.5, 2.0)),
    v2.RandomErasing(p=1, scale=(0.0, 0.05), inplace=True),
]


@pytest.mark.parametrize("transform", ERASINGS, ids=repr)
def test_what_is_erased_is_distributed_as_torchvisions(transform: Any) -> None:
    images = torch.full((1500, 1, 6, 5), 200, dtype=torch.uint8)
    # A copy for torchvision, which may erase in place.
    found, expected = rectangles(as_batch(transform, images)), rectangles(one_by_one(transform, images.clone()))
    for part in (lambda one: one, lambda one: one and one[:2], lambda one: one and one[2:], lambda one: one is None):
        assert equally_often([part(one) for one in found], [part(one) for one in expected])


@pytest.mark.parametrize(
    ("value", "dtype"), [(0, torch.uint8), (7.9, torch.uint8), ([1, 2, 3], torch.uint8), (0.25, torch.float32)]
)
def test_what_is_erased_gets_the_value(value: Any, dtype: torch.dtype) -> None:
    images = torch.full((20, 3, 8, 8), 200, dtype=dtype)
    transform = v2.RandomErasing(p=1, value=value)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    for channel in range(3):
        assert set(found[:, channel].flatten().tolist()) == set(expected[:, channel].flatten().tolist())


def test_erasing_by_noise_is_torchvisions_noise() -> None:
    images = torch.full((600, 3, 8, 8), 200.0)
    transform = v2.RandomErasing(p=1, value="random")
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    assert alike(found[found != 200][:5000], expected[expected != 200][:5000])
    # In uint8 a draw below 0 wraps around, as torchvision has it.
    whole, kinds = (way(transform, images.to(torch.uint8)) for way in (as_batch, one_by_one))
    assert {0, 1, 2, 254, 255} <= set(whole.flatten().tolist())
    assert equally_often(whole[whole != 200][:5000].tolist(), kinds[kinds != 200][:5000].tolist())


ANGLES = st.one_of(st.floats(-720, 720), st.sampled_from([0.0, 90.0, 180.0, 270.0, -90.0, 360.0, 45.0]))
FILLS: list[Any] = [0, 50, [10, 20, 30], None]


def smooth(count: int, height: int, width: int) -> Tensor:
    """Pictures without sharp edges: a place read a millionth of a pixel off changes little."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [
        100 + 60 * torch.sin(x / 4 + channel + y / (5 + number)) for number in range(count) for channel in range(3)
    ]
    return torch.stack(waves).view(count, 3, height, width).to(torch.uint8)


def differing(found: Tensor, expected: Tensor) -> float:
    """The share of pixels that differ."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return float((found != expected).any(1).double().mean())


@given(ANGLES, st.sampled_from(["nearest", "bilinear"]), st.sampled_from(FILLS), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_forced_rotation_is_torchvisions(angle: float, mode: str, fill: Any, centred: bool) -> None:
    images = smooth(3, 11, 14)
    transform = v2.RandomRotation((angle, angle), interpolation=mode, fill=fill, center=None if centred else [3, 5])
    _same_but_for_rounding(transform, images, mode)


@given(
    ANGLES,
    st.floats(0.3, 3),
    st.floats(-40, 40),
    st.floats(-40, 40),
    st.sampled_from(["nearest", "bilinear"]),
    st.sampled_from(FILLS),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_forced_affine_is_torchvisions(
    angle: float, scale: float, shear_x: float, shear_y: float, mode: str, fill: Any, centred: bool
) -> None:
    images = smooth(3, 11, 14)
    transform = v2.RandomAffine(
        (angle, angle),
        scale=(scale, scale),
        shear=(shear_x, shear_x, shear_y, shear_y),
        interpolation=mode,
        fill=fill,
        center=None if centred else [3, 5],
    )
    _same_but_for_rounding(transform, images, mode)


def _same_but_for_rounding(transform: Any, images: Tensor, mode: str) -> None:
    """Places are sums here and a matrix product there: float32 may round them to two sides of a pixel's edge."""
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    if mode == "bilinear":
        assert furthest(found, expected) <= 1
    else:
        # Where a multiple of 45° puts whole rows of places on the edge of two pixels, either is as near.
        assert differing(found, expected) <= 0.2
        inside = (found.int() - expected.int()).abs().amax(1) <= 45
        assert float(inside.double().mean()) >= 0.9


def test_by_an_angle_that_meets_no_edge_not_a_pixel_differs() -> None:
    images = pictures(20, 28, 28)
    for mode in ("nearest", "bilinear"):
        for transform in (
            v2.RandomRotation((17, 17), interpolation=mode, fill=3),
            v2.RandomAffine((-23, -23), scale=(1.1, 1.1), shear=(7, 7), interpolation=mode),
        ):
            found, expected = as_batch(transform, images), one_by_one(transform, images)
            assert differing(found, expected) <= 1e-3
            both = v2.Compose([UNIT, transform])
            found, expected = as_batch(both, images), one_by_one(both, images)
            assert float(((found - expected).abs() > 1e-4).any(1).double().mean()) <= 1e-3


def centre(images: Tensor) -> Tensor:
    """Where the light of each image lies, as an angle around the middle."""
    light = images.double().sum(1)
    y, x = torch.meshgrid(torch.arange(11) - 5.0, torch.arange(11) - 5.0, indexing="ij")
    return torch.atan2((light * y).sum((1, 2)), (light * x).sum((1, 2)))


def amount(images: Tensor) -> Tensor:
    return images.double().sum((1, 2, 3))


@pytest.mark.parametrize(
    ("transform", "statistic"),
    [
        (v2.RandomRotation(50, interpolation="bilinear"), centre),
        (v2.RandomRotation((100, 460), interpolation="bilinear"), centre),
        (v2.RandomAffine(0, scale=(0.5, 1.5), interpolation="bilinear"), amount),
        (v2.RandomAffine(0, shear=30, interpolation="bilinear"), centre),
        (v2.RandomAffine(0, shear=(0, 0, -30, 30), interpolation="bilinear"), centre),
        (v2.RandomAffine(20, (0.2, 0.2), (0.8, 1.2), 10, interpolation="bilinear"), amount),
    ],
)
def test_drawn_places_are_distributed_as_torchvisions(transform: Any, statistic: Callable[[Tensor], Tensor]) -> None:
    image = torch.zeros(1, 1, 11, 11)
    image[..., 2:5, 7:10] = 1  # a spot off the middle
    images = image.expand(800, -1, -1, -1)
    found, expected = statistic(as_batch(transform, images)), statistic(one_by_one(transform, images))
    assert not math.isclose(float(expected.std()), 0)
    assert alike(found, expected)


def forced(part: str, factor: float) -> Any:
    return v2.ColorJitter(**{part: (factor, factor)})


@given(st.sampled_from(["brightness", "contrast", "saturation"]), st.floats(0, 3), st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
def test_a_forced_blend_is_torchvisions(part: str, factor: float, channels: int) -> None:
    images = pictures(6, channels=channels)
    transform = forced(part, factor)
    # torchvision adds the other picture by a fused multiply-add and takes the mean of one image at a time, so float32
    # may round otherwise; where the sum is a whole number, cutting it off then takes away a level.
    assert furthest(as_batch(transform, images), one_by_one(transform, images)) <= (part != "brightness")
    both = v2.Compose([UNIT, transform])
    assert furthest(as_batch(both, images), one_by_one(both, images)) <= 1e-6


@given(st.floats(-0.5, 0.5), st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
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
    images = image.expand(800, -1, -1, -1)
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
    (v2.Compose([UNIT, v2.ColorJitter(0.5, 0.5, 0.5, 0.1)]), red_over_blue),
    (v2.RandomPhotometricDistort(p=1), spread),
    (v2.Compose([UNIT, v2.RandomPhotometricDistort(hue=(0.0, 0.3), p=0.7)]), red_over_blue),
    (v2.GaussianBlur(3, (0.2, 2.0)), spread),
    (v2.GaussianNoise(0.1, 0.2), spread),
    (v2.GaussianNoise(0.1, 0.2, clip=False), spread),
    (v2.Compose([UNIT, v2.GaussianNoise(0.1, 0.2, clip=False)]), mean),
]


@pytest.mark.parametrize(("transform", "statistic"), DRAWN)
def test_drawn_factors_are_distributed_as_torchvisions(transform: Any, statistic: Callable[[Tensor], Tensor]) -> None:
    image = torch.randint(30, 200, (1, 3, 6, 6), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    image[:, 0] += 50  # rather red, so that saturation and hue show
    images = image.expand(800, -1, -1, -1)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    assert found.dtype is expected.dtype
    assert alike(statistic(found), statistic(expected))


@given(st.sampled_from([(3, 3), (5, 3), (1, 1), (7, 5)]), st.floats(0.1, 4), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=25, deadline=None)
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
