"""Random changes to training images: batched flips, and further transforms image by image.

:mod:`components.classifier.augmentation` runs those transforms batched where it can.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from components.classifier.building import build
from components.shared.errors import ParamsError, Problem
from components.shared.params.types import TransformSpec, first_line

# Of images of 2×2, the worst there are, 1 draw in 11 has four corners apart; of a single row or column none has.
_MOST_DRAWS = 500


def random_flips(
    images: Tensor, probability: float, generator: torch.Generator, *, of: int | None = None, begin: int = 0
) -> Tensor:
    """Flip images left-right and, independently, upside down, each image for itself.

    Args:
        images: uint8, shape (batch, height, width, channels).
        probability: Of each of the two flips.
        generator: On the images' device.
        of: How many images the whole batch has, where these are a part of it: the draws are those of the whole.
        begin: Which of them is the first of these.
    """
    # A choice by mask instead of by index: the device never has to tell the host how many images flip.
    count = len(images)
    chosen = torch.rand(2, of or count, 1, 1, 1, generator=generator, device=images.device) < probability
    masks = chosen[:, begin : begin + count].to(torch.uint8).mul_(255)
    images = _choose(masks[0], images.flip(2), images)
    return _choose(masks[1], images.flip(1), images)


def _choose(mask: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
    """`there` where the mask is 255, `elsewhere` where it is 0; writes into `there`.

    As ``torch.where``, which took 280 µs for 512 images of 28×28 on one core, where these three take 28 µs.
    """
    return there.bitwise_xor_(elsewhere).bitwise_and_(mask).bitwise_xor_(elsewhere)


class PerImageTransforms:
    """The ``additional_transforms`` of a run, applied to one image after the other.

    Args:
        specs: The transforms, in order.
        image_shape: Height, width, channels, which they must keep.
        try_out: Whether to see at once if they do.

    Raises:
        ParamsError: A transform cannot be built, or changes the shape of an image.
    """

    def __init__(
        self, specs: Sequence[TransformSpec], image_shape: tuple[int, int, int], *, try_out: bool = True
    ) -> None:
        # Imported here: torchvision costs seconds, and most runs name no transform.
        from torchvision import tv_tensors

        self._as_image: Any = tv_tensors.Image
        self._transforms = [build(spec, f"additional_transforms[{i}]") for i, spec in enumerate(specs)]
        # A pixel on the horizon of a perspective is x/0, infinite, which grid_sample on the CPU makes NaN (torchvision
        # 0.29: 1 of 250 images of 8×8 by p 1 and distortion_scale 0.5); of bytes it is 0, whatever the fill.
        self._with_horizon = {
            index
            for index, transform in enumerate(self._transforms)
            if any(type(inner).__name__ == "RandomPerspective" for inner in inside(transform))
        }
        for transform in self._transforms:
            _draw_corners_again(transform)
        self._specs = specs
        height, width, channels = image_shape
        self._shape = (channels, height, width)
        if try_out:
            with torch.random.fork_rng(devices=[]):
                self(torch.zeros(2, *image_shape, dtype=torch.uint8))

    def __call__(self, images: Tensor) -> Tensor:
        """Transformed images as float32 in 0..1, shape (batch, channels, height, width).

        Args:
            images: uint8, shape (batch, height, width, channels).

        Raises:
            ParamsError: A transform fails, or changes the shape of an image.
        """
        return self.finished(self.apply(images.permute(0, 3, 1, 2), 0, len(self._transforms)))

    @property
    def transforms(self) -> Sequence[Any]:
        """The transform objects, in order."""
        return self._transforms

    def apply(self, images: Iterable[Tensor], start: int, stop: int) -> list[Tensor]:
        """Each image after the transforms from start to stop, of whatever shape and dtype they make it.

        Args:
            images: Each of shape (channels, height, width).
            start: The first transform.
            stop: The one after the last.

        Raises:
            ParamsError: A transform fails.
        """
        done = []
        for image in images:
            current: Tensor = self._as_image(image)
            for index in range(start, stop):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        current = self._transforms[index](current)
                        if index in self._with_horizon:
                            current = self._as_image(torch.nan_to_num(current))
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # whatever an allowed transform raises is about its kwargs or its place
                    raise self._problem(index, f"fails on an image: {first_line(error)}") from error
            done.append(current.as_subclass(Tensor))
        return done

    def finished(self, images: Iterable[Tensor]) -> Tensor:
        """Images after all transforms as float32 in 0..1, shape (batch, channels, height, width).

        Raises:
            ParamsError: One has another shape than it should, or is made of no real numbers.
        """
        return torch.stack([self._finished(image) for image in images])

    def _finished(self, image: Tensor) -> Tensor:
        if tuple(image.shape) != self._shape:
            raise self._problem(len(self._transforms) - 1, size_message(self._shape, tuple(image.shape)))
        if image.dtype is torch.bool or image.is_complex():
            raise self._problem(len(self._transforms) - 1, f"gives {image.dtype}, which no image is made of")
        return as_unit(image)

    def _problem(self, index: int, message: str) -> ParamsError:
        return ParamsError([Problem(f"additional_transforms[{index}]", f"{self._specs[index].class_} {message}")])


def inside(transform: Any) -> Iterator[Any]:
    """A transform, and all that it holds."""
    yield transform
    held = getattr(transform, "transforms", None)
    for inner in held if isinstance(held, list | tuple) else ():
        yield from inside(inner)


def _draw_corners_again(transform: Any) -> None:
    """Have every perspective in a transform draw again where its corners lie on a line, for which there is none.

    Torchvision raises instead: for 1 of 100 images of 8×8 by distortion_scale 1, 1 of 4000 of 28×28.
    """
    for inner in inside(transform):
        if type(inner).__name__ == "RandomPerspective":
            inner.make_params = partial(_solvable, inner.make_params)


def _solvable(draw: Callable[[Any], Any], inputs: Any) -> Any:
    """What is drawn, the first that has a solution."""
    for _ in range(_MOST_DRAWS - 1):
        with suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            return draw(inputs)
    return draw(inputs)


def as_unit(image: Tensor) -> Tensor:
    """Images as float32 in 0..1: integers are scaled, floats are taken to be in 0..1 already."""
    if image.is_floating_point():
        return image.to(torch.float32)
    return image.to(torch.float32) / torch.iinfo(image.dtype).max


def size_message(wanted: tuple[int, int, int], got: tuple[int, ...]) -> str:
    """What is wrong with images of another shape, and what to set instead.

    Args:
        wanted: Channels, height, width of the run's images.
        got: The shape that a transform makes of it.
    """
    if len(got) == 3 and got[0] != wanted[0]:
        advice = f"set is_image_color: {str(got[0] == 3).lower()}, which goes for the images of every split"
    else:
        advice = "set image_height and image_width, to which data prep resizes the images of every split"
    return f"turns {wanted} into {got}; {advice}"
