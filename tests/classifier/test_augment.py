"""Random changes to training images: each image for itself, as often as asked for, from the seed alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.classifier.augmentation import PerImageTransforms, random_flips
from components.shared.errors import ParamsError
from components.shared.params.types import TransformSpec
from tests.configs import Entry, transform


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counted(batch: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Images whose values all differ, as far as 256 values reach."""
    return torch.arange(batch * height * width * channels).to(torch.uint8).view(batch, height, width, channels)


def four_flips(image: torch.Tensor) -> list[torch.Tensor]:
    """An image as it is, left-right, upside down, and both; shape (height, width, channels)."""
    return [image, image.flip(1), image.flip(0), image.flip(0, 1)]


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.floats(0, 1),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_each_image_is_one_of_its_own_four_flips(
    batch: int, height: int, width: int, channels: int, probability: float, seed: int
) -> None:
    images = counted(batch, height, width, channels)
    before = images.clone()
    flipped = random_flips(images, probability, generator(seed))
    assert flipped.dtype is torch.uint8
    assert torch.equal(images, before)
    for image, given_image in zip(flipped, images, strict=True):
        assert any(torch.equal(image, candidate) for candidate in four_flips(given_image))


def test_probability_0_flips_none_and_1_flips_all_both_ways() -> None:
    images = counted(50, 3, 4, 3)
    assert torch.equal(random_flips(images, 0.0, generator()), images)
    assert torch.equal(random_flips(images, 1.0, generator()), images.flip(1, 2))


def test_each_flip_comes_as_often_as_asked_for_and_apart_from_the_other() -> None:
    count, probability = 20_000, 0.4
    image = torch.arange(4, dtype=torch.uint8).view(1, 2, 2, 1)
    flipped = random_flips(image.expand(count, -1, -1, -1), probability, generator(1)).view(count, 4)
    # The first pixel tells which of the four an image is: 0 none, 1 left-right, 2 upside down, 3 both.
    kinds = torch.bincount(flipped[:, 0].long(), minlength=4).tolist()
    p, q = probability, 1 - probability
    for found, expected in zip(kinds, (q * q, p * q, q * p, p * p), strict=True):
        assert abs(found - count * expected) < 5 * math.sqrt(count * expected * (1 - expected))
    for found in (kinds[1] + kinds[3], kinds[2] + kinds[3]):
        assert abs(found - count * p) < 5 * math.sqrt(count * p * q)


def test_flips_follow_from_the_generator_alone() -> None:
    images = counted(64, 2, 2, 1)
    torch.manual_seed(0)
    first = random_flips(images, 0.5, generator(7))
    torch.manual_seed(1)
    assert torch.equal(random_flips(images, 0.5, generator(7)), first)
    assert not torch.equal(random_flips(images, 0.5, generator(8)), first)
    running = generator(7)
    assert torch.equal(random_flips(images, 0.5, running), first)
    assert not torch.equal(random_flips(images, 0.5, running), first)


def transforms(*entries: Entry, shape: tuple[int, int, int] = (8, 8, 1)) -> PerImageTransforms:
    return PerImageTransforms([TransformSpec.model_validate(entry) for entry in entries], shape)


def test_transforms_apply_in_order_to_each_image() -> None:
    images = counted(3, 8, 8, 1)
    done = transforms(transform("RandomInvert", p=1), transform("RandomSolarize", threshold=128, p=1))(images)
    inverted = 255 - images.to(torch.int64)
    solarised = torch.where(inverted >= 128, 255 - inverted, inverted)
    assert done.shape == (3, 1, 8, 8)
    assert torch.allclose(done, solarised.permute(0, 3, 1, 2) / 255)


def test_a_horizon_within_an_image_leaves_no_pixel_that_is_no_number() -> None:
    images = torch.full((3000, 8, 8, 1), 255, dtype=torch.uint8)
    perspective = transform("RandomApply", transforms=[transform("RandomPerspective", p=1)], p=1)
    torch.manual_seed(0)
    done = transforms(transform("ToDtype", dtype="float32", scale=True), perspective)(images)
    assert done.isfinite().all()
    assert (float(done.min()), float(done.max())) == (0, 1)


@pytest.mark.parametrize(("side", "count"), [(8, 1000), (2, 100)])
def test_corners_on_a_line_are_drawn_again(side: int, count: int) -> None:
    images = torch.full((count, side, side, 1), 255, dtype=torch.uint8)
    perspective = transform("RandomPerspective", distortion_scale=1.0, p=1)
    for entry in (perspective, transform("RandomApply", transforms=[perspective], p=1)):
        outcomes = []
        for _ in range(2):
            torch.manual_seed(0)
            outcomes.append(transforms(entry, shape=(side, side, 1))(images))
        assert torch.equal(*outcomes)


def test_a_perspective_of_a_single_row_is_refused() -> None:
    with pytest.raises(ParamsError, match="RandomPerspective fails on an image"):
        transforms(transform("RandomPerspective", p=1), shape=(1, 8, 1))


def test_transforms_see_one_image_at_a_time() -> None:
    torch.manual_seed(0)
    alike = torch.randint(0, 256, (1, 8, 8, 1), dtype=torch.uint8).expand(32, -1, -1, -1)
    done = transforms(transform("RandomInvert", p=0.5))(alike)
    assert len({tuple(image.flatten().tolist()) for image in done}) == 2


@pytest.mark.parametrize(
    ("dtype", "scale", "highest"),
    [
        ("torch.float32", True, 1.0),
        ("torch.float64", True, 1.0),
        ("torch.int32", True, 255 / 256),
        ("uint8", False, 1.0),
    ],
)
def test_whatever_numbers_a_transform_gives_end_in_0_to_1(dtype: str, scale: bool, highest: float) -> None:
    done = transforms(transform("ToDtype", dtype=dtype, scale=scale))(torch.full((2, 8, 8, 1), 255, dtype=torch.uint8))
    assert done.dtype is torch.float32
    assert set(done.flatten().tolist()) == {highest}


@pytest.mark.parametrize(
    ("entries", "path", "message"),
    [
        (
            [transform("Identity"), transform("CenterCrop", size=4)],
            "additional_transforms[1]",
            "torchvision.transforms.v2.CenterCrop turns (1, 8, 8) into (1, 4, 4)",
        ),
        ([transform("RGB")], "additional_transforms[0]", "RGB turns (1, 8, 8) into (3, 8, 8)"),
        (
            [transform("ToDtype", dtype="float32"), transform("JPEG", quality=50), transform("Identity")],
            "additional_transforms[1]",
            "torchvision.transforms.v2.JPEG fails on an image: encode_jpeg",
        ),
        (
            [transform("ToDtype", dtype="torch.bool")],
            "additional_transforms[0]",
            "ToDtype gives torch.bool, which no image is made of",
        ),
        (
            [transform("ToDtype", dtype="torch.complex64")],
            "additional_transforms[0]",
            "ToDtype gives torch.complex64, which no image is made of",
        ),
        (
            [transform("RandomCrop", size=9)],
            "additional_transforms[0]",
            "RandomCrop fails on an image: Required crop size",
        ),
        (
            [transform("GaussianBlur", kernel_size=4)],
            "additional_transforms[0].kwargs",
            "GaussianBlur refuses them: Kernel size",
        ),
        (
            [transform("CenterCrop", sise=4)],
            "additional_transforms[0].kwargs.sise",
            "CenterCrop has no such argument; did you mean size?",
        ),
    ],
)
def test_a_transform_that_fails_is_named_before_training(entries: list[Entry], path: str, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        transforms(*entries)
    first = caught.value.problems[0]
    assert first.path == path
    assert message in first.message


def test_a_transform_that_fails_only_now_and_then_is_named_when_it_does() -> None:
    torch.manual_seed(0)
    sometimes = transforms(transform("RandomApply", transforms=[transform("RGB")], p=0.1))
    with pytest.raises(ParamsError, match=r"additional_transforms\[0\]: torchvision.transforms.v2.RandomApply turns"):
        sometimes(counted(200, 8, 8, 1))


def test_trying_transforms_out_takes_nothing_from_the_runs_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    transforms(transform("RandomRotation", degrees=30), transform("RandomErasing", p=1))
    assert torch.equal(torch.random.get_rng_state(), before)
