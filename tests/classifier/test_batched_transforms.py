"""Batched transforms are torchvision's: the same pixels where chance is fixed, else the same outcomes as often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2

from components.classifier.augmentation import batched
from components.classifier.batched_transforms import as_on_gpu
from tests.classifier.both_ways import (
    CPU,
    as_batch,
    equally_often,
    furthest,
    one_by_one,
    outcomes,
    pictures,
)

EXACT: list[Any] = [
    v2.CenterCrop((11, 3)),
    v2.ConvertImageDtype(torch.float32),
    v2.Grayscale(3),
    v2.Identity(),
    v2.Pad([1, 2], fill=7),
    v2.Pad(2, fill=[1, 2, 3]),
    v2.Pad(2, padding_mode="reflect"),
    v2.RandomAdjustSharpness(2.5, p=1),
    v2.RandomAutocontrast(p=1),
    v2.RandomEqualize(p=1),
    v2.RandomGrayscale(p=1),
    v2.RandomHorizontalFlip(p=1),
    v2.RandomInvert(p=1),
    v2.RandomPosterize(3, p=1),
    v2.RandomSolarize(100, p=1),
    v2.RandomVerticalFlip(p=1),
    v2.RGB(),
    v2.ToDtype(torch.float32, scale=True),
    v2.ToDtype(torch.int32, scale=True),
    v2.ToImage(),
    v2.ToPureTensor(),
    v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.RandomInvert(p=1)]),
    v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.RandomPosterize(2, p=1), v2.RandomSolarize(0.5, p=1)]),
    v2.RandomApply([v2.RandomInvert(p=1), v2.RandomHorizontalFlip(p=1)], p=1),
    v2.RandomChoice([v2.RandomInvert(p=1), v2.RandomHorizontalFlip(p=1)], p=[0, 1]),
    v2.RandomOrder([v2.RandomInvert(p=1), v2.RandomHorizontalFlip(p=1)]),
    v2.RandomCrop((9, 7)),
    v2.RandomCrop((13, 11), padding=2, fill=7),
    v2.RandomRotation((90, 90)),
]


@pytest.mark.parametrize("transform", EXACT, ids=repr)
def test_what_leaves_nothing_to_chance_is_the_same(transform: Any) -> None:
    for channels in (1, 3) if "fill=[1, 2, 3]" not in repr(transform) else (3,):
        images = pictures(5, channels=channels)
        assert furthest(as_batch(transform, images), one_by_one(transform, images)) == 0


FLIP, INVERT = v2.RandomHorizontalFlip(p=1), v2.RandomInvert(p=1)
DISCRETE: list[Any] = [
    v2.RandomVerticalFlip(0.7),
    v2.RandomChannelPermutation(),
    v2.RandomApply([FLIP, v2.RandomInvert(p=0.5)], p=0.4),
    v2.RandomApply([v2.RandomApply([FLIP], p=0.5), v2.RandomApply([INVERT], p=0.2)], p=0.9),
    v2.RandomChoice([FLIP, INVERT, v2.Identity()], p=[0.2, 0.5, 0.3]),
    v2.RandomChoice([v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)]),
    # Which of them came first can be told: a solarised image inverted is not an inverted one solarised at 100.
    v2.RandomOrder([INVERT, v2.RandomSolarize(100, p=1), v2.RandomPosterize(2, p=1)]),
    v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomChoice([INVERT, v2.RandomVerticalFlip(0.5)])]),
]


@pytest.mark.parametrize("transform", DISCRETE, ids=repr)
def test_each_outcome_comes_as_often(transform: Any) -> None:
    images = pictures(1, 3, 2).expand(1000, -1, -1, -1)
    found, expected = outcomes(as_batch(transform, images)), outcomes(one_by_one(transform, images))
    assert len(set(expected)) > 1
    assert set(found) == set(expected)
    assert equally_often(found, expected)


@pytest.mark.parametrize("transform", [*DISCRETE[-5:], v2.ColorJitter((1.6, 1.6), (0.5, 0.5), (1.9, 1.9))], ids=repr)
def test_outcomes_are_the_same_where_the_host_cannot_count_the_chosen(transform: Any) -> None:
    """As on a GPU: every image is worked on, and the chosen ones are kept."""
    images = pictures(1, 3, 2).expand(1000, -1, -1, -1)
    found = outcomes(as_batch(transform, images))
    with as_on_gpu():
        again = outcomes(as_batch(transform, images, seed=1))
    assert set(again) == set(found)
    assert equally_often(again, found)


EVERY_KIND: list[Any] = [
    *DISCRETE,
    v2.AugMix(),
    v2.AutoAugment(fill=[1, 2, 3]),
    v2.ColorJitter(0.5, 0.5, 0.5, 0.2),
    v2.ElasticTransform(sigma=0.4),
    v2.GaussianBlur(3),
    v2.GaussianNoise(),
    v2.RandAugment(fill=7),
    v2.RandomAffine(30, (0.2, 0.2), (0.8, 1.2), 10, interpolation="bilinear"),
    v2.RandomAutocontrast(),
    v2.RandomCrop((9, 7), padding=2),
    v2.RandomEqualize(),
    v2.RandomErasing(),
    v2.RandomPerspective(fill=[1, 2, 3]),
    v2.RandomPhotometricDistort(),
    v2.RandomResizedCrop((9, 7)),
    v2.RandomRotation(180),
    v2.TrivialAugmentWide(interpolation="bilinear"),
]


@given(st.lists(st.sampled_from(EVERY_KIND), min_size=1, max_size=4), st.integers(2, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_nothing_of_one_image_reaches_another(kinds: list[Any], count: int, data: st.DataObject) -> None:
    """With the same draws, another picture in one place leaves all other places as they were."""
    transform = v2.Compose(kinds)
    seed, place = data.draw(st.integers(0, 99)), data.draw(st.integers(0, count - 1))
    images = pictures(count)
    others = images.clone()
    others[place] = pictures(1, seed=1)[0]
    first, second = as_batch(transform, images, seed), as_batch(transform, others, seed)
    assert first.shape == images.shape
    for index in range(count):
        if index != place:
            assert torch.equal(first[index], second[index])


def test_draws_follow_from_the_generator_alone() -> None:
    images = pictures(64)
    transform = v2.Compose([v2.RandomCrop(7, padding=1), v2.ColorJitter(0.5, 0.5, 0.5, 0.2), v2.RandomErasing(0.5)])
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = as_batch(transform, images, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(as_batch(transform, images, seed=7), first)
    assert not torch.equal(as_batch(transform, images, seed=8), first)


@pytest.mark.parametrize(
    "transform",
    [
        v2.AugMix(interpolation="bicubic"),
        v2.JPEG(50),
        v2.RandomPerspective(fill={"others": 1}),
        v2.RandomRotation(30, expand=True),
        v2.RandomCrop(5, fill={"others": 1}),
        v2.Pad(1, fill={"others": 1}),
        v2.RandomResizedCrop(5, interpolation="lanczos"),
        v2.RandomResizedCrop(5, interpolation="bicubic", antialias=False),
        v2.RandAugment(interpolation="bicubic"),
        v2.TrivialAugmentWide(num_magnitude_bins=1),
        v2.AutoAugment(fill={"others": 1}),
        v2.RandomApply([v2.RandomInvert(), v2.JPEG(50)]),
        v2.Compose([v2.Compose([v2.ElasticTransform(interpolation="bicubic")])]),
        torch.nn.Identity(),
    ],
    ids=repr,
)
def test_what_has_no_equivalent_is_left_to_torchvision(transform: Any) -> None:
    assert batched(transform, CPU) is None


class _Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what would make the host wait for a device, or copy to it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if by_mask or name in (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "lift_fresh",
            "equal",
            "repeat",
            "multinomial",
        ):
            self.found.add(name)
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "transform",
    [
        *EVERY_KIND,
        v2.RandomAdjustSharpness(2),
        v2.RandomPosterize(3),
        v2.RandomResizedCrop(5, interpolation="bicubic"),
        v2.RandomSolarize(100),
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.RandAugment(), v2.TrivialAugmentWide()]),
    ],
    ids=repr,
)
@as_on_gpu()
def test_where_the_host_cannot_count_it_waits_for_nothing(transform: Any) -> None:
    images = pictures(6)
    as_batch(transform, images)  # what is copied to a device once is there
    part, generator = batched(transform, CPU), torch.Generator().manual_seed(1)
    assert part is not None
    part(images, generator)
    with _Watched() as watched:
        part(images, generator)
    assert watched.found == set()
