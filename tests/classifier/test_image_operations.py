"""Operations of automatic augmentation, each image its own, are torchvision's on each image."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from components.classifier.batched_transforms import as_on_gpu
from components.classifier.image_operations import MOVES, OPERATIONS, operated
from tests.classifier.both_ways import furthest, pictures

# Both signs of all bins of the widest ranges, and of the bins that AutoAugment has.
SPACES: list[tuple[Any, int]] = [(v2.TrivialAugmentWide, 31), (v2.AutoAugment, 10)]
SHAPES = [(9, 7, 1), (9, 7, 3), (1, 1, 3), (3, 200, 1), (2, 5, 3)]


def every_magnitude(name: str, height: int, width: int) -> list[float]:
    found = set()
    for kind, bins in SPACES:
        made, _ = kind._AUGMENTATION_SPACE.get(name, (lambda *_: None, False))
        found |= {0.0} if (values := made(bins, height, width)) is None else set(values.tolist())
    return sorted(found | {-value for value in found} if name not in ("Posterize", "Solarize") else found)


@cache
def both(
    height: int, width: int, channels: int, kind: torch.dtype, mode: str, fill: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By operation and magnitude: their numbers, magnitudes, an image, and what torchvision makes of it."""
    image = pictures(1, height + 1, width + 1, channels)[0, :, :height, :width]
    image = v2.functional.to_dtype(image, kind, scale=True)
    transform = v2.TrivialAugmentWide(interpolation=mode, fill=fill)
    names = OPERATIONS if fill is None else MOVES  # only they fill anything in
    cases = [(name, magnitude) for name in names for magnitude in every_magnitude(name, height, width)]
    done = [transform._apply_image_or_video_transform(image, *case, mode, transform._fill) for case in cases]
    numbers = torch.tensor([OPERATIONS.index(name) for name, _ in cases])
    magnitudes = torch.tensor([magnitude for _, magnitude in cases], dtype=torch.float64)
    return numbers, magnitudes, image.expand(len(cases), -1, -1, -1), torch.stack(done)


NEAREST, BILINEAR = "nearest", "bilinear"


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("mode", "fill"), [(NEAREST, None), (NEAREST, 7), (BILINEAR, None), (BILINEAR, (7.0,))])
def test_each_operation_is_torchvisions(mode: str, fill: Any, kind: torch.dtype, counts: bool) -> None:
    for height, width, channels in SHAPES:
        numbers, magnitudes, images, expected = both(height, width, channels, kind, mode, fill)
        before = images.clone()
        with nullcontext() if counts else as_on_gpu():
            found = operated(images, numbers, magnitudes, mode, fill)
        assert torch.equal(images, before)
        assert (found.shape, found.dtype) == (images.shape, kind)
        apart = (found.double() - expected.double()).abs().flatten(1).amax(1)
        for number, name in enumerate(OPERATIONS):
            of_name = apart[numbers == number]
            if fill is not None and name not in MOVES:
                continue
            if kind is torch.uint8 and (name not in MOVES or mode == NEAREST):
                # Torchvision's own contrast rounds a few pixels twice, by where in memory they are.
                assert of_name.max() == 0 or (name == "Contrast" and (of_name > 0).double().mean() < 0.05), name
            # Between pixels places are rounded otherwise: 1 level, or in floats that much of what is filled in.
            assert of_name.max() <= (1 if kind is torch.uint8 else 1e-4), name


def test_an_image_of_one_tone_and_one_of_two_are_equalized_and_stretched_as_torchvisions() -> None:
    flat = torch.full((2, 3, 20, 20), 90, dtype=torch.uint8)
    flat[1, :, 5:9] = 200
    for name, theirs in (("Equalize", v2.functional.equalize), ("AutoContrast", v2.functional.autocontrast)):
        numbers = torch.full((2,), OPERATIONS.index(name))
        assert (
            furthest(operated(flat, numbers, torch.zeros(2, dtype=torch.float64), "nearest", None), theirs(flat)) == 0
        )


@pytest.mark.parametrize(
    ("images", "fill"),
    [
        (torch.zeros(2, 4, 5, 5, dtype=torch.uint8), None),
        (torch.zeros(2, 3, 5, 5, dtype=torch.int32), None),
        (torch.zeros(2, 1, 5, 5, dtype=torch.uint8), [1, 2, 3]),
    ],
)
def test_what_torchvision_has_no_operations_for_is_refused(images: Tensor, fill: Any) -> None:
    with pytest.raises(ValueError, match="channels"):
        operated(images, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.float64), "nearest", fill)
