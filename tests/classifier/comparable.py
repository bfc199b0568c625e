"""Whether training images may be compared with held-out ones after some transforms, by statistics of real pictures.

An independent criterion: torchvision itself runs the chain, on digits, many times; nothing of ours is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.configs import Entry
from tests.examples import digits

DRAWS = 16
# Wasserstein distance of an image's values from what they were, white being 1, that the nearest draw may have.
_NEAR = 0.15
_CONVERSIONS = (v2.ConvertImageDtype, v2.Identity, v2.ToDtype, v2.ToImage, v2.ToPureTensor)
# What rounding may do to a value.
_ROUNDED = 1.6 / 255


@cache
def real_pictures(channels: int) -> tuple[Tensor, ...]:
    """Digits, or digits in colours: uint8, shape (channels, 8, 8); one as it is, one inverted, one of less contrast."""
    images = torch.from_numpy(digits()[0][:3].copy()).view(3, 1, 8, 8)
    if channels == 3:
        tints = torch.tensor([[1.0, 0.5, 0.1], [0.2, 0.9, 0.6], [0.5, 0.1, 1.0]]).view(3, 3, 1, 1)
        images = (images * tints).to(torch.uint8)
    images[1] = 255 - images[1]
    images[2] = 60 + images[2] // 2
    return tuple(images)


def _made(entry: Entry) -> Any:
    kwargs = dict(entry["kwargs"])
    if "transforms" in kwargs:
        kwargs["transforms"] = [_made(inner) for inner in kwargs["transforms"]]
    if isinstance(kwargs.get("dtype"), str):
        kwargs["dtype"] = getattr(torch, kwargs["dtype"].removeprefix("torch."))
    if "policy" in kwargs:
        kwargs["policy"] = v2.AutoAugmentPolicy(kwargs["policy"])
    return getattr(v2, entry["class"].rpartition(".")[2])(**kwargs)


def _as_unit(image: Tensor) -> Tensor:
    is_whole = not (image.is_floating_point() or image.dtype is torch.bool)
    return image.double() / torch.iinfo(image.dtype).max if is_whole else image.double()


def _on_scale(image: Tensor) -> bool:
    if not (image.dtype is torch.uint8 or image.is_floating_point()) or not image.isfinite().all():
        return False
    return float(_as_unit(image).min()) >= -0.5 and float(_as_unit(image).max()) <= 1.5


def _readable(image: Tensor, shape: Sequence[int]) -> bool:
    return tuple(image.shape) == tuple(shape) and _on_scale(image)


def _distance(image: Tensor, before: Tensor) -> float:
    """Of two images' values, as distributions: the mean difference of both in order, of the worst channel."""
    ordered = (_as_unit(each).flatten(1).sort().values for each in (image, before))
    return float((next(ordered) - next(ordered)).abs().mean(1).max())


def _steps(entries: Sequence[Entry]) -> list[Any]:
    """The transforms of a chain, and those of a Compose in its place."""
    steps: list[Any] = []
    for entry in entries:
        is_compose = entry["class"].endswith(".Compose")
        steps += _steps(entry["kwargs"]["transforms"]) if is_compose else [_made(entry)]
    return steps


def _outcomes(chain: Sequence[Any], image: Tensor) -> Iterator[Tensor]:
    """What a chain makes of an image, draw by draw; fails where another scale is changed before it is converted."""
    for draw in range(DRAWS):
        torch.manual_seed(1000 + draw)
        current: Any = tv_tensors.Image(image)
        for transform in chain:
            if type(transform) not in _CONVERSIONS:
                assert _on_scale(current)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                current = transform(current)
        yield current.as_subclass(Tensor)


def are_comparable(images: Sequence[Tensor], outcomes: Sequence[Sequence[Tensor]]) -> bool:
    """Whether what came out of images, by several draws each, is images on the same scale, and not always others."""
    pairs = list(zip(images, outcomes, strict=True))
    return (
        all(_readable(outcome, image.shape) for image, several in pairs for outcome in several)
        and all(min(_distance(outcome, image) for outcome in several) <= _NEAR for image, several in pairs)
        and not (all(map(_is_fixed, outcomes)) and any(_is_changed(image, several[0]) for image, several in pairs))
    )


def is_comparable(entries: Sequence[Entry], channels: int) -> bool:
    """Whether images remain images of the same scale, size and channels, and nothing is done to all of them alike."""
    chain, images = _steps(entries), real_pictures(channels)
    try:
        together = [list(_outcomes(chain, image)) for image in images]
        if not are_comparable(images, together):
            return False
        return all(map(_is_fixed, together)) or not any(
            _always_changes(transform, [next(_outcomes(chain[:index], image)) for image in images])
            for index, transform in enumerate(chain)
        )
    except Exception:  # whatever torchvision raises
        return False


def _always_changes(transform: Any, images: Sequence[Tensor]) -> bool:
    """Whether a transform does the same on every draw, keeps the size, and does more than to convert values."""
    if not all(_is_fixed(_outcomes([transform], image)) for image in images):
        return False
    first = [next(_outcomes([transform], image)) for image in images]
    return any(
        after.shape == image.shape and _is_changed(image, after) for image, after in zip(images, first, strict=True)
    )


def _is_fixed(outcomes: Iterable[Tensor]) -> bool:
    draws = iter(outcomes)
    first = next(draws)
    return all(first.shape == other.shape and torch.equal(first, other) for other in draws)


def _is_changed(image: Tensor, after: Tensor) -> bool:
    same = torch.equal(after.double(), image.double())
    return not same and float((_as_unit(after) - _as_unit(image)).abs().max()) > _ROUNDED
