"""Random resized crops: torchvision's windows as often, and torchvision's pixels of each window."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from components.classifier.batched_transforms import as_on_gpu
from components.classifier.resized_crop import random_windows
from tests.classifier.both_ways import alike, as_batch, equally_often, furthest, one_by_one, pictures

SIZES = [(5, 9), (32, 40)]
SHAPES = [(1, 1), (3, 200), (32, 40), (70, 50)]
MODES = [("bilinear", True), ("bilinear", False), ("bicubic", True), ("nearest", True), ("nearest-exact", True)]


def windows(transform: Any, images: Tensor, seed: int = 0) -> list[list[int]]:
    generator, size = torch.Generator().manual_seed(seed), (images.shape[2], images.shape[3])
    return torch.stack(random_windows(transform.scale, transform.ratio, size, len(images), generator), 1).tolist()


@pytest.mark.parametrize(("mode", "smooth"), MODES)
def test_each_window_is_resized_as_torchvision_does_it(mode: str, smooth: bool) -> None:
    for (height, width), size in itertools.product(SHAPES, SIZES):
        transform = v2.RandomResizedCrop(size, interpolation=InterpolationMode(mode), antialias=smooth)
        for images in (whole := pictures(4, height + 2, width + 2)[:, :, 1:-1, 1:-1], whole / 255):
            expected = [
                tv.resized_crop(image, *window, list(size), interpolation=transform.interpolation, antialias=smooth)
                for image, window in zip(images, windows(transform, images), strict=True)
            ]
            assert furthest(as_batch(transform, images), torch.stack(expected)) == 0


@pytest.mark.parametrize(("mode", "smooth"), MODES)
@as_on_gpu()
def test_where_the_host_cannot_count_it_is_torchvision_in_float32(mode: str, smooth: bool) -> None:
    """As torchvision has it on a GPU: of uint8 images a rounded value in 200 may be a level off, of others 1e-5."""
    apart = []
    for (height, width), size in itertools.product(SHAPES, SIZES):
        transform = v2.RandomResizedCrop(size, interpolation=InterpolationMode(mode), antialias=smooth)
        for images in (whole := pictures(4, height + 2, width + 2)[:, :, 1:-1, 1:-1], whole / 255):
            expected = torch.stack(
                [
                    tv.resized_crop(image, *window, list(size), interpolation=transform.interpolation, antialias=smooth)
                    for image, window in zip(images.float(), windows(transform, images), strict=True)
                ]
            )
            if images is whole:
                expected = expected.clamp_(0, 255).round_().to(torch.uint8)
                apart.append((found := as_batch(transform, images)) != expected)
                assert furthest(found, expected) <= 1
            else:
                assert furthest(as_batch(transform, images), expected) <= 1e-5
    assert torch.cat([one.flatten() for one in apart]).double().mean() <= 1 / 200


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (12, 10)),
        ({"scale": (0.3, 0.9), "ratio": (0.5, 2.0)}, (9, 14)),
        # Fits now and then: the middle is taken where ten tries found nothing.
        ({"scale": (0.9, 1.6), "ratio": (0.6, 1.7)}, (12, 10)),
        ({"scale": (1.2, 1.5), "ratio": (0.9, 1.1)}, (5, 14)),
        ({"scale": (1.2, 1.5), "ratio": (0.9, 1.1)}, (14, 5)),
        ({"scale": (1.2, 1.5)}, (9, 9)),
    ],
)
def test_windows_are_torchvisions_as_often(options: dict[str, Any], shape: tuple[int, int]) -> None:
    """Read back from ramps: a pixel says which row and which column it comes from."""
    rows = torch.arange(shape[0]).view(-1, 1).expand(shape)
    columns = torch.arange(shape[1]).view(1, -1).expand(shape)
    ramps = torch.stack((rows, columns, rows)).to(torch.uint8).expand(1000, -1, -1, -1)
    # So large that no row or column of a window is passed over.
    transform = v2.RandomResizedCrop(40, interpolation=InterpolationMode.NEAREST, **options)

    def read(images: Tensor) -> Tensor:
        low, high = images[:, :2].flatten(2).amin(2), images[:, :2].flatten(2).amax(2)
        return torch.cat((low, high - low + 1), 1).to(torch.int64)  # top, left, height, width

    found, expected = read(as_batch(transform, ramps)), read(one_by_one(transform, ramps))
    assert found.tolist() == windows(transform, ramps)
    for top_or_left, side in ((0, 2), (1, 3)):
        kinds = [[tuple(pair) for pair in way[:, [top_or_left, side]].tolist()] for way in (found, expected)]
        assert equally_often(*kinds)
    assert alike(found[:, 2] * found[:, 3], expected[:, 2] * expected[:, 3])
    assert alike(found[:, 2] / found[:, 3], expected[:, 2] / expected[:, 3])
