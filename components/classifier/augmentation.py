"""Random changes to training images: flips, and ``additional_transforms``, batched where there is an equivalent."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.classifier.building import build
from components.shared.errors import ParamsError, Problem
from components.shared.params.types import TransformSpec
from components.shared.text import first_line

if TYPE_CHECKING:
    from components.classifier.batched_pixels import Batched

# Of images of 2×2, the worst there are, 1 draw in 11 has four corners apart; of a single row or column none has.
_MOST_DRAWS = 500
# Images that are transformed to see what it costs: as many as hold so many values, within these bounds.
_MEASURED_VALUES = 2**20
_MEASURED_BATCHED, _MEASURED_SINGLY = 256, 16


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
    for mask, side in zip(masks, (2, 1), strict=True):
        # As torch.where, which took 280 µs for 512 images of 28×28 on one core, where these three take 28 µs.
        images = images.flip(side).bitwise_xor_(images).bitwise_and_(mask).bitwise_xor_(images)
    return images


class PerImageTransforms:
    """The ``additional_transforms`` of a run, applied to one image after the other.

    Args:
        specs: The transforms, in order.
        image_shape: Height, width, channels, which they must keep.
        try_out: Whether to see at once if they do.

    Attributes:
        transforms: The transform objects, in order.

    Raises:
        ParamsError: A transform cannot be built, or changes the shape of an image.
    """

    def __init__(
        self, specs: Sequence[TransformSpec], image_shape: tuple[int, int, int], *, try_out: bool = True
    ) -> None:
        # Imported here: torchvision costs seconds, and most runs name no transform.
        from torchvision import tv_tensors

        self._as_image: Any = tv_tensors.Image
        self.transforms: list[Any] = [build(spec, f"additional_transforms[{i}]") for i, spec in enumerate(specs)]
        # A pixel on the horizon of a perspective is x/0, infinite, which grid_sample on the CPU makes NaN (torchvision
        # 0.29: 1 of 250 images of 8×8 by p 1 and distortion_scale 0.5); of bytes it is 0, whatever the fill.
        self._with_horizon = set()
        for index, transform in enumerate(self.transforms):
            for inner in nested(transform):
                if type(inner).__name__ == "RandomPerspective":
                    self._with_horizon.add(index)
                    inner.make_params = partial(_solvable, inner.make_params)
        self._specs = specs
        height, width, channels = image_shape
        self._shape = (channels, height, width)
        if try_out:
            with torch.random.fork_rng(devices=[]):
                self(torch.zeros(2, *image_shape, dtype=torch.uint8))

    def __call__(self, images: Tensor) -> Tensor:
        """Images (batch, height, width, channels), uint8, as float32 in 0..1 (batch, channels, height, width)."""
        return self.finished(self.apply(images.permute(0, 3, 1, 2), 0, len(self.transforms)))

    def apply(self, images: Iterable[Tensor], start: int, stop: int) -> list[Tensor]:
        """Each image, shape (channels, height, width), after the transforms from `start` to before `stop`."""
        done = []
        for image in images:
            current: Tensor = self._as_image(image)
            for index in range(start, stop):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        current = self.transforms[index](current)
                        if index in self._with_horizon:
                            current = self._as_image(torch.nan_to_num(current))
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # whatever an allowed transform raises is about its kwargs or its position
                    raise self._problem(index, f"fails on an image: {first_line(error)}") from error
            done.append(current.as_subclass(Tensor))
        return done

    def finished(self, images: Iterable[Tensor]) -> Tensor:
        """Images after all transforms as float32 in 0..1, shape (batch, channels, height, width), if they are such."""
        finished, last = [], len(self.transforms) - 1
        for image in images:
            if tuple(image.shape) != self._shape:
                raise self._problem(last, size_message(self._shape, tuple(image.shape)))
            if image.dtype is torch.bool or image.is_complex():
                raise self._problem(last, f"gives {image.dtype}, which no image is made of")
            finished.append(as_unit(image))
        return torch.stack(finished)

    def _problem(self, index: int, message: str) -> ParamsError:
        return ParamsError([Problem(f"additional_transforms[{index}]", f"{self._specs[index].class_} {message}")])


def nested(transform: Any) -> Iterator[Any]:
    """A transform, and all that it holds."""
    yield transform
    held = getattr(transform, "transforms", None)
    for inner in held if isinstance(held, list | tuple) else ():
        yield from nested(inner)


def _solvable(draw: Callable[[Any], Any], inputs: Any) -> Any:
    """Draw a perspective's corners again where they lie on a line, for which there is none.

    Torchvision raises instead: for 1 of 100 images of 8×8 by distortion_scale 1, 1 of 4000 of 28×28.
    """
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
    """What is wrong with images of shape `got` where `wanted` (channels, height, width) is needed, and what to set."""
    if len(got) == 3 and got[0] != wanted[0]:
        advice = f"set is_image_color: {str(got[0] == 3).lower()}, which goes for the images of every split"
    else:
        advice = "set image_height and image_width, to which data prep resizes the images of every split"
    return f"turns {wanted} into {got}; {advice}"


@dataclass(frozen=True)
class _Run:
    """Transforms from `start` to before `stop` that run the same way; without parts image by image."""

    start: int
    stop: int
    parts: tuple[Batched, ...] = ()


class Augmentation:
    """The transforms of a run, each image for itself, equal in distribution to applying them to one after the other.

    A transform runs batched where it has an equivalent that keeps shape and dtype of all images of a batch alike.
    Batched transforms draw from the generator they are given, the others from torch's global generators.

    Args:
        specs: The transforms, in order.
        image_shape: Height, width, channels, which they must keep.
        device: Where images and the generator will be.

    Raises:
        ParamsError: A transform cannot be built, fails, or changes the shape of an image.
    """

    def __init__(self, specs: Sequence[TransformSpec], image_shape: tuple[int, int, int], device: torch.device) -> None:
        self._singly = PerImageTransforms(specs, image_shape)
        self._names = [spec.short_name for spec in specs]
        self._image_shape = image_shape
        self._device = device
        self._runs: list[_Run] = []
        with _generators_kept(device):
            self._plan()

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transformed images as float32 in 0..1, shape (batch, channels, height, width).

        Args:
            images: uint8, shape (batch, height, width, channels), on the device.
            generator: On the device.

        Raises:
            ParamsError: A transform that runs image by image fails, or changes the shape of an image.
        """
        current = images.permute(0, 3, 1, 2)
        for run in self._runs:
            current = self._applied(run, current, generator)
        return as_unit(current)

    def _applied(self, run: _Run, images: Tensor, generator: torch.Generator) -> Tensor:
        for part in run.parts:
            images = part(images, generator)
        if run.parts:
            return images
        done = self._singly.apply(images, run.start, run.stop)
        return self._singly.finished(done) if run.stop == len(self._names) else torch.stack(done)

    def _plan(self) -> None:
        # Imported here: torchvision costs seconds, and most runs name no transform.
        from components.classifier.batched_transforms import batched, keeps_batches_uniform, rehearse

        generator = torch.Generator(self._device).manual_seed(0)
        current = torch.zeros(2, *self._image_shape, dtype=torch.uint8, device=self._device).permute(0, 3, 1, 2)
        for index, transform in enumerate(self._singly.transforms):
            part, run = batched(transform, self._device), _Run(index, index + 1)
            if part is not None:
                try:
                    current, run = rehearse(part, current, generator), _Run(index, index + 1, (part,))
                except torch.OutOfMemoryError:
                    raise
                except Exception:  # it cannot take these images, and torchvision shall say why
                    part = None
            if part is None:
                if keeps_batches_uniform(transform):
                    current = torch.stack(self._singly.apply(current, index, index + 1))
                else:  # images may differ in shape or dtype from here on
                    run = _Run(index, len(self._names))
            last = self._runs[-1] if self._runs else None
            if last is not None and bool(last.parts) == bool(run.parts):
                self._runs[-1] = _Run(last.start, run.stop, last.parts + run.parts)
            else:
                self._runs.append(run)
            if run.stop == len(self._names):
                return

    def describe_cost(self, images: int) -> list[str]:
        """For the log: which transforms run how, and what that costs in an epoch of so many images; tried on noise."""
        generator = torch.Generator(self._device).manual_seed(0)
        fitting = max(2, _MEASURED_VALUES // math.prod(self._image_shape))
        lines = []
        with _generators_kept(self._device):
            for number, run in enumerate(self._runs):
                count = min(fitting, _MEASURED_BATCHED if run.parts else _MEASURED_SINGLY)
                noise = torch.randint(0, 256, (count, *self._image_shape), dtype=torch.uint8, device=self._device)
                current = noise.permute(0, 3, 1, 2)
                for earlier in self._runs[:number]:
                    current = self._applied(earlier, current, generator)
                seconds = math.inf
                for _ in range(2):  # the first time pays for what is made once
                    start = time.perf_counter()
                    self._applied(run, current, generator)
                    if self._device.type == "cuda":
                        torch.cuda.synchronize(self._device)
                    seconds = min(seconds, (time.perf_counter() - start) / count)
                names = self._names[run.start : run.stop]
                how = f"run{'s' if len(names) == 1 else ''} {'batched' if run.parts else 'image by image'}"
                epoch = seconds * images
                lines.append(
                    f"{', '.join(names)} {how}: {seconds * 1e3:.2g} ms an image; "
                    f"about {epoch:.{0 if epoch >= 10 else 1}f} s an epoch of {images:,}"
                )
        return lines


def _generators_kept(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
