"""A run's transforms: batched where they can be, image by image where not, in order, and what torchvision sees."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from components.classifier.augmentation import Augmentation, PerImageTransforms
from components.classifier.images import random_flips
from components.shared.errors import ParamsError
from components.shared.params.types import TransformSpec
from tests.classifier.both_ways import CPU, alike, equally_often, outcomes
from tests.configs import Entry, transform


def specs(*entries: Entry) -> list[TransformSpec]:
    return [TransformSpec.model_validate(entry) for entry in entries]


def augmentation(*entries: Entry, shape: tuple[int, int, int] = (8, 8, 1)) -> Augmentation:
    return Augmentation(specs(*entries), shape, CPU)


def singly(*entries: Entry, shape: tuple[int, int, int] = (8, 8, 1)) -> PerImageTransforms:
    return PerImageTransforms(specs(*entries), shape)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, shape: tuple[int, int, int] = (8, 8, 1), seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator(seed))


INVERT = transform("RandomInvert", p=1)
# At a distortion of 0 it is there, and changes nothing; with a fill by types of images it is torchvision's to apply.
SINGLY = {"fill": {"others": 0}}
STRAIGHT = transform("RandomPerspective", distortion_scale=0, p=1, **SINGLY)
FIXED: list[Entry] = [
    INVERT,
    STRAIGHT,
    transform("RandomSolarize", threshold=100, p=1),
    transform("RandomHorizontalFlip", p=1),
    transform("Resize", size=[8, 8]),
    transform("Compose", transforms=[transform("Pad", padding=1), transform("CenterCrop", size=8)]),
    transform("ToDtype", dtype="torch.float32", scale=True),
]


@given(st.lists(st.sampled_from(FIXED), min_size=1, max_size=6), st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_any_mixture_without_chance_is_image_by_image_to_the_bit(entries: list[Entry], channels: int) -> None:
    shape = (8, 8, channels)
    if any("RandomSolarize" in str(entry) for entry in entries) and any("float32" in str(entry) for entry in entries):
        entries = [entry for entry in entries if "RandomSolarize" not in str(entry)]  # 100 is no threshold for floats
    images = noise(3, shape)
    found = augmentation(*entries, shape=shape)(images, generator())
    expected = singly(*entries, shape=shape)(images)
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("entries", "runs"),
    [
        ([INVERT, transform("RandomErasing")], ["RandomInvert, RandomErasing run batched"]),
        (
            [INVERT, STRAIGHT, transform("AugMix", **SINGLY), INVERT, transform("RandomCrop", size=8, padding=1)],
            [
                "RandomInvert runs batched",
                "RandomPerspective, AugMix run image by image",
                "RandomInvert, RandomCrop run batched",
            ],
        ),
        (
            [
                transform("RandomResizedCrop", size=8),
                transform("RandAugment"),
                transform("TrivialAugmentWide"),
                transform("AutoAugment"),
                transform("Resize", size=[8, 8]),
            ],
            ["RandomResizedCrop, RandAugment, TrivialAugmentWide, AutoAugment, Resize run batched"],
        ),
        # Images differ in size between the two, so that they cannot be one batch.
        (
            [
                INVERT,
                transform("RandomResize", min_size=9, max_size=20),
                transform("RandomInvert"),
                transform("CenterCrop", size=8),
            ],
            ["RandomInvert runs batched", "RandomResize, RandomInvert, CenterCrop run image by image"],
        ),
        # So they do where some have become floats.
        (
            [
                transform("RandomApply", transforms=[transform("ToDtype", dtype="torch.float32", scale=True)]),
                transform("RandomHorizontalFlip"),
            ],
            ["RandomApply, RandomHorizontalFlip run image by image"],
        ),
        (
            [transform("RandomApply", transforms=[INVERT]), transform("RandomApply", transforms=[STRAIGHT])],
            ["RandomApply runs batched", "RandomApply runs image by image"],
        ),
    ],
)
def test_the_log_says_what_runs_how(entries: list[Entry], runs: list[str]) -> None:
    assert augmentation(*entries).describe() == "; ".join(runs)


def test_trying_out_takes_nothing_from_the_runs_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    augmentation(transform("RandomRotation", degrees=30), transform("RandomPerspective", **SINGLY), INVERT)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_batched_transforms_draw_from_the_generator_and_the_others_from_torch() -> None:
    images = noise(40)
    batched = augmentation(transform("RandomErasing"), transform("RandomCrop", size=8, padding=1))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = batched(images, generator(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(batched(images, generator(1)), first)
    assert not torch.equal(batched(images, generator(2)), first)

    singly = augmentation(transform("RandomPerspective", **SINGLY))
    torch.manual_seed(0)
    first = singly(images, generator(1))
    assert not torch.equal(singly(images, generator(1)), first)
    torch.manual_seed(0)
    assert torch.equal(singly(images, generator(2)), first)


def test_a_mixture_of_both_is_distributed_as_image_by_image() -> None:
    entries = [
        transform("RandomCrop", size=[3, 2], padding=1),
        transform("RandomPerspective", p=0.5, **SINGLY),
        transform("RandomInvert", p=0.3),
    ]
    images = noise(1, (3, 2, 1)).expand(800, -1, -1, -1)
    found = augmentation(*entries, shape=(3, 2, 1))(images, generator())
    torch.manual_seed(1)
    expected = singly(*entries, shape=(3, 2, 1))(images)
    assert alike(found.mean((1, 2, 3)), expected.mean((1, 2, 3)))
    cut = [entry for entry in entries if "Perspective" not in str(entry)]
    found = augmentation(*cut, shape=(3, 2, 1))(images, generator())
    expected = singly(*cut, shape=(3, 2, 1))(images)
    assert equally_often(outcomes(found), outcomes(expected))


def test_whatever_numbers_a_transform_gives_end_in_0_to_1() -> None:
    images = torch.full((2, 8, 8, 1), 255, dtype=torch.uint8)
    for dtype, highest in (("torch.float64", 1.0), ("torch.int32", 255 / 256)):
        done = augmentation(transform("ToDtype", dtype=dtype, scale=True))(images, generator())
        assert done.dtype is torch.float32
        assert set(done.flatten().tolist()) == {highest}


def test_images_are_left_as_they_were() -> None:
    images = noise(20, (8, 8, 3))
    before = images.clone()
    inplace = transform("RandomErasing", p=1, inplace=True)
    augmentation(inplace, transform("ColorJitter", brightness=0.5), shape=(8, 8, 3))(images, generator())
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("entries", "path", "message"),
    [
        ([transform("CenterCrop", size=4)], "additional_transforms[0]", "CenterCrop turns (1, 8, 8) into (1, 4, 4)"),
        ([INVERT, transform("RandomCrop", size=9)], "additional_transforms[1]", "RandomCrop fails on an image: Requi"),
        ([transform("ToDtype", dtype="torch.bool")], "additional_transforms[0]", "gives torch.bool, which no image"),
        (
            [transform("ToDtype", dtype="torch.complex64")],
            "additional_transforms[0]",
            "gives torch.complex64, which no",
        ),
        ([transform("GaussianBlur", kernel_size=4)], "additional_transforms[0].kwargs", "GaussianBlur refuses them: K"),
        ([transform("CenterCrop", sise=4)], "additional_transforms[0].kwargs.sise", "no such argument; did you mean s"),
        (
            [transform("ToDtype", dtype="float32"), transform("JPEG", quality=50)],
            "additional_transforms[1]",
            "JPEG fails on an image: encode_jpeg",
        ),
    ],
)
def test_a_transform_that_fails_is_named_before_training(entries: list[Entry], path: str, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        augmentation(*entries)
    first = caught.value.problems[0]
    assert first.path == path
    assert message in first.message


def test_a_transform_that_fails_only_now_and_then_is_named_when_it_does() -> None:
    torch.manual_seed(0)
    sometimes = augmentation(transform("RandomApply", transforms=[transform("RGB")], p=0.1))
    with pytest.raises(ParamsError, match=r"additional_transforms\[0\]: torchvision.transforms.v2.RandomApply turns"):
        sometimes(noise(200), generator())


def counted(batch: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Images whose values all differ, as far as 256 values reach."""
    return torch.arange(batch * height * width * channels).to(torch.uint8).view(batch, height, width, channels)


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.floats(0, 1) | st.sampled_from([0, 1]),
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
    if probability in (0, 1):
        assert torch.equal(flipped, images.flip(1, 2) if probability else images)
    for found, image in zip(flipped, images, strict=True):
        assert any(torch.equal(found, each) for each in (image, image.flip(1), image.flip(0), image.flip(0, 1)))
    assert torch.equal(random_flips(images, probability, generator(seed)), flipped)


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


def test_transforms_apply_in_order_to_each_image() -> None:
    images = counted(3, 8, 8, 1)
    done = singly(transform("RandomInvert", p=1), transform("RandomSolarize", threshold=128, p=1))(images)
    inverted = 255 - images.to(torch.int64)
    solarised = torch.where(inverted >= 128, 255 - inverted, inverted)
    assert done.shape == (3, 1, 8, 8)
    assert torch.allclose(done, solarised.permute(0, 3, 1, 2) / 255)


def test_a_horizon_within_an_image_leaves_no_pixel_that_is_no_number() -> None:
    images = torch.full((3000, 8, 8, 1), 255, dtype=torch.uint8)
    perspective = transform("RandomApply", transforms=[transform("RandomPerspective", p=1)], p=1)
    torch.manual_seed(0)
    done = singly(transform("ToDtype", dtype="float32", scale=True), perspective)(images)
    assert done.isfinite().all()
    assert (float(done.min()), float(done.max())) == (0, 1)


@pytest.mark.parametrize(("side", "count"), [(8, 500), (2, 100)])
def test_corners_on_a_line_are_drawn_again(side: int, count: int) -> None:
    images = torch.full((count, side, side, 1), 255, dtype=torch.uint8)
    perspective = transform("RandomPerspective", distortion_scale=1.0, p=1)
    for entry in (perspective, transform("RandomApply", transforms=[perspective], p=1)):
        outcomes = []
        for _ in range(2):
            torch.manual_seed(0)
            outcomes.append(singly(entry, shape=(side, side, 1))(images))
        assert torch.equal(*outcomes)


def test_a_resized_crop_brings_whole_batches_from_the_stored_size_to_the_models() -> None:
    crop = transform("RandomResizedCrop", size=8, scale=[1.0, 1.0], ratio=[1.0, 1.0])
    chain = Augmentation(specs(crop, transform("RandAugment", num_ops=0)), (12, 12, 3), CPU, (8, 8, 3))
    images = noise(5, (12, 12, 3))
    found = chain(images, generator())
    assert chain.describe() == "RandomResizedCrop, RandAugment run batched"
    assert not chain.crops
    assert torch.equal(found, v2.functional.resize(images.permute(0, 3, 1, 2), [8, 8]) / 255)
