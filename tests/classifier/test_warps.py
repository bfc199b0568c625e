"""Perspectives and elastic transforms are torchvision's: its pixels by given corners, its outcomes as often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from components.classifier.augmentation import batched
from components.classifier.warps import in_perspective
from tests.classifier.both_ways import CPU, alike, as_batch, equally_often, furthest, one_by_one, outcomes, pictures

CORNERS = [
    [[0, 0], [13, 0], [13, 10], [0, 10]],
    [[3, 2], [11, 1], [9, 8], [1, 9]],
    [[0, 4], [12, 0], [8, 6], [4, 10]],
    [[5, 0], [7, 3], [13, 7], [2, 10]],
]


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("mode", "fill"), [("nearest", None), ("nearest", 7), ("bilinear", 0), ("bilinear", [7, 8, 9])]
)
def test_a_perspective_by_given_corners_is_torchvisions(mode: str, fill: Any, kind: torch.dtype) -> None:
    y, x = torch.meshgrid(torch.arange(11), torch.arange(14), indexing="ij")
    smooth = (100 + 60 * torch.sin(x / 4 + y / 5)).to(torch.uint8).expand(len(CORNERS), 3, -1, -1)
    images = smooth if kind is torch.uint8 else smooth / 255
    rest = CORNERS[0]
    found = in_perspective(images, torch.tensor(CORNERS, dtype=torch.float64), mode, fill)
    expected = torch.stack([tv.perspective(images[0], rest, to, mode, fill) for to in CORNERS])
    if mode == "bilinear":
        assert furthest(found, expected) <= (1 if kind is torch.uint8 else 1e-3)
    else:  # a place on the edge of two pixels may be either's
        assert (found != expected).any(1).double().mean() <= 0.01


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (v2.RandomPerspective(0.6, p=1, interpolation="nearest"), (5, 6)),
        (v2.RandomPerspective(0.6, p=0.7, interpolation="nearest", fill=9), (7, 9)),
    ],
    ids=repr,
)
def test_each_set_of_corners_comes_as_often(transform: Any, shape: tuple[int, int]) -> None:
    images = pictures(1, *shape).expand(900, -1, -1, -1)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    kinds = [len(set(outcomes(way))) for way in (found, expected)]
    assert abs(kinds[0] - kinds[1]) <= 0.15 * kinds[1]
    assert equally_often(*([image in set(common) for image in way] for way, common in _halves(found, expected)))
    for measure in (_mean, _left):
        assert alike(measure(found), measure(expected))


def _halves(found: Tensor, expected: Tensor) -> list[tuple[list[Any], list[Any]]]:
    """Outcomes of both, and those that torchvision's first half has."""
    first = outcomes(expected[:300])
    return [(outcomes(found), first), (outcomes(expected[300:]), first)]


def _mean(images: Tensor) -> Tensor:
    return images.double().mean((1, 2, 3))


def _left(images: Tensor) -> Tensor:
    return images[..., : images.shape[3] // 2].double().mean((1, 2, 3))


def test_no_pixel_of_a_perspective_is_no_number() -> None:
    images = torch.ones(3000, 1, 8, 8)
    done = as_batch(v2.RandomPerspective(0.5, p=1), images)
    assert done.isfinite().all()
    assert (float(done.min()), float(done.max())) == (0, 1)


@pytest.mark.parametrize(("scale", "shape"), [(0.5, (1, 9)), (0.5, (9, 1)), (0.75, (9, 9)), (1.0, (28, 28))])
def test_where_corners_may_end_on_a_line_torchvision_is_left_to_it(scale: float, shape: tuple[int, int]) -> None:
    part = batched(v2.RandomPerspective(scale, p=1), CPU)
    assert part is not None
    with pytest.raises(ValueError, match="on a line"):
        part(torch.zeros(2, 1, *shape), torch.Generator())


@pytest.mark.parametrize(
    "transform",
    [
        v2.ElasticTransform(alpha=30.0, sigma=0.6),
        v2.ElasticTransform(alpha=[4.0, 20.0], sigma=[0.4, 0.8], fill=[9, 9, 9]),
        v2.ElasticTransform(alpha=6.0, sigma=0.0, interpolation="nearest"),
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.ElasticTransform(alpha=9.0, sigma=1.0)]),
    ],
    ids=repr,
)
def test_shifts_are_distributed_as_torchvisions(transform: Any) -> None:
    """Read back from ramps: how far single pixels move, and how much neighbours move alike."""
    ramp = torch.arange(12) * 20
    ramps = torch.stack((ramp.expand(12, 12), ramp.view(-1, 1).expand(12, 12), ramp.expand(12, 12))).to(torch.uint8)
    images = ramps.expand(500, -1, -1, -1)
    found, expected = as_batch(transform, images), one_by_one(transform, images)
    assert found.dtype is expected.dtype
    for channel in (0, 1):
        assert alike(found[:, channel, 6, 6], expected[:, channel, 6, 6])
        between = [way[:, channel, 6, 7].double() - way[:, channel, 6, 6].double() for way in (found, expected)]
        assert alike(*between)
        assert alike(found[:, channel, 0, 0], expected[:, channel, 0, 0])


def test_without_alpha_an_elastic_transform_leaves_images_as_they_were() -> None:
    images = pictures(5, 12, 12)
    assert furthest(as_batch(v2.ElasticTransform(alpha=0.0, sigma=0.5), images), images) == 0
