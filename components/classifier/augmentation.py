"""The ``additional_transforms`` of a run, batched where there is an equivalent, else image by image.

Import it where transforms are used: torchvision costs seconds, and most runs name none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from components.classifier.auto_augment import AUTO_KERNELS, has_operations
from components.classifier.batched_transforms import KERNELS, affine_mode, orders, where_chosen
from components.classifier.building import build
from components.classifier.color_transforms import COLOR_KERNELS
from components.classifier.crops import random_crops
from components.classifier.image_operations import OPERATION_KERNELS
from components.classifier.resized_crop import is_resizable, random_resized_crop
from components.classifier.warps import WARP_KERNELS
from components.shared.errors import ParamsError, Problem
from components.shared.params.types import TransformSpec
from components.shared.text import first_line

Batched = Callable[[Tensor, torch.Generator], Tensor]

# Of images of 2×2, the worst there are, 1 draw in 11 has four corners apart; of a single row or column none has.
_MOST_DRAWS = 500


class PerImageTransforms:
    """Transforms as torchvision's objects, applied one by one.

    They must keep images' (height, width, channels), or end at the shape `taken` that the network takes.
    """

    def __init__(
        self,
        specs: Sequence[TransformSpec],
        image_shape: tuple[int, int, int],
        taken: tuple[int, int, int] | None = None,
    ) -> None:
        self.transforms: list[Any] = [build(spec, f"additional_transforms[{i}]") for i, spec in enumerate(specs)]
        # A pixel on the horizon of a perspective is x/0, infinite, which grid_sample on the CPU makes NaN (torchvision
        # 0.29: 1 of 250 images of 8×8 by p 1 and distortion_scale 0.5); of bytes it is 0, whatever the fill.
        self._with_horizon = set()
        for index, transform in enumerate(self.transforms):
            for inner in nested(transform):
                if type(inner) is v2.RandomPerspective:
                    self._with_horizon.add(index)
                    inner.make_params = partial(_solvable, inner.make_params)
        self._specs = specs
        self._shapes = tuple(
            (channels, height, width) for height, width, channels in (image_shape, taken or image_shape)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Images (batch, height, width, channels), uint8, as float32 in 0..1 (batch, channels, height, width)."""
        return self.finished(self.apply(images.permute(0, 3, 1, 2), 0, len(self.transforms)))

    def apply(self, images: Iterable[Tensor], start: int, stop: int) -> list[Tensor]:
        """Each image, shape (channels, height, width), after the transforms from `start` to before `stop`."""
        done = []
        for image in images:
            current: Tensor = tv_tensors.Image(image)
            for index in range(start, stop):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        current = self.transforms[index](current)
                        if index in self._with_horizon:
                            current = tv_tensors.Image(torch.nan_to_num(current))
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # whatever an allowed transform raises is about its kwargs or its position
                    raise self._problem(index, f"fails on an image: {first_line(error)}") from error
            done.append(current.as_subclass(Tensor))
        return done

    def finished(self, images: Iterable[Tensor]) -> Tensor:
        """Images after all transforms as float32 in 0..1, shape (batch, channels, height, width), if they are such."""
        finished, last, given = [], len(self.transforms) - 1, list(images)
        if problem := size_problem((tuple(image.shape) for image in given), *self._shapes):
            raise self._problem(last, problem)
        for image in given:
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
    # Draws corners again that lie on a line, for which there is no perspective, and torchvision raises: for 1 of 100
    # images of 8×8 by distortion_scale 1, 1 of 4000 of 28×28.
    for _ in range(_MOST_DRAWS - 1):
        with suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            return draw(inputs)
    return draw(inputs)


def as_unit(image: Tensor) -> Tensor:
    """Images as float32 in 0..1: integers are scaled, floats are taken to be in 0..1 already."""
    if image.is_floating_point():
        return image.to(torch.float32)
    return image.to(torch.float32) / torch.iinfo(image.dtype).max


def size_problem(
    ends: Iterable[tuple[int, ...]], stored: tuple[int, int, int], taken: tuple[int, int, int]
) -> str | None:
    """What is wrong with the shapes that images of one batch end at, and what to set; None: nothing.

    All must be of the shape (channels, height, width) that is stored, or all of the one that the network takes.
    """
    found = list(dict.fromkeys(ends))
    (_, *stored_sides), (_, *taken_sides) = stored, taken
    got = next((shape for shape in found if shape not in (stored, taken)), None)
    if got is None:
        if len(found) < 2:
            return None
        return f"leaves some images at {stored} and turns others into {taken}; let it do so to all, by a p of 1"
    if len(got) == 3 and got[0] != stored[0]:
        advice = f"set is_image_color: {str(got[0] == 3).lower()}, which goes for the images of every split"
    elif stored != taken:
        advice = (
            "end at the {}×{} of image_height and image_width, or at the {}×{} of stored_height and stored_width, of "
            "which a part is then taken at random".format(*taken_sides, *stored_sides)
        )
    elif len(got) == 3 and got[1] <= stored[1] and got[2] <= stored[2]:
        advice = (
            "set image_height to {} and image_width to {}, and stored_height to {} and stored_width to {}, to train on "
            "parts of images".format(*got[1:], *stored_sides)
        )
    else:
        advice = "set image_height and image_width, to which data prep resizes the images of every split"
    return f"turns {stored} into {got}; {advice}"


class _Run(NamedTuple):
    """Transforms from `start` to before `stop` that run the same way; without parts image by image."""

    start: int
    stop: int
    parts: list[Batched]


class Augmentation:
    """The transforms of a run, each image for itself, equal in distribution to applying them to one after the other.

    A transform runs batched where it has an equivalent that keeps shape and dtype of all images of a batch alike.
    Batched transforms draw from the generator they are given, the others from torch's global generators.

    Args:
        specs: The transforms, at least one.
        image_shape: Height, width, channels of stored images.
        device: Of the images.
        taken: What the network takes of them; by default all. Where transforms leave images as large as they are
            stored, a part of each is taken at random: `crops`.

    Raises:
        ParamsError: A transform cannot be built, fails, or makes images of another shape.
    """

    def __init__(
        self,
        specs: Sequence[TransformSpec],
        image_shape: tuple[int, int, int],
        device: torch.device,
        taken: tuple[int, int, int] | None = None,
    ) -> None:
        self._taken = taken or image_shape
        self._singly = PerImageTransforms(specs, image_shape, self._taken)
        self._names = [spec.short_name for spec in specs]
        self._image_shape = image_shape
        self._device = device
        self._runs: list[_Run] = []
        with _generators_kept(device):
            ends = self._singly(torch.zeros(2, *image_shape, dtype=torch.uint8))
            self.crops = self._is_to_crop(ends)
            for _, group in groupby(enumerate(self._batched_parts()), lambda numbered: numbered[1] is None):
                indices, parts = zip(*group, strict=True)
                self._runs.append(_Run(indices[0], indices[-1] + 1, [part for part in parts if part is not None]))

    def _batched_parts(self) -> Iterator[Batched | None]:
        """Of each transform its equivalent; None from where images may differ in shape or dtype."""
        generator = torch.Generator(self._device).manual_seed(0)
        current = torch.zeros(2, *self._image_shape, dtype=torch.uint8, device=self._device).permute(0, 3, 1, 2)
        for index, transform in enumerate(self._singly.transforms):
            part = batched(transform, self._device)
            try:
                current = rehearse(part, current, generator) if part is not None else current
            except torch.OutOfMemoryError:
                raise
            except Exception:  # it cannot take these images, and torchvision shall say why
                part = None
            if part is None:
                if type(transform) not in _UNIFORM:
                    yield from [None] * (len(self._names) - index)
                    return
                current = torch.stack(self._singly.apply(current, index, index + 1))
            yield part

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transformed images as float32 in 0..1, shape (batch, channels, height, width).

        Images are uint8, shape (batch, height, width, channels), and on the device, as the generator is. ParamsError
        where a transform that runs image by image fails, or makes an image of another shape.
        """
        current = images.permute(0, 3, 1, 2)
        for run in self._runs:
            current = self._applied(run, current, generator)
        if self._is_to_crop(current):
            current = random_crops(current.permute(0, 2, 3, 1), *self._taken[:2], generator).permute(0, 3, 1, 2)
        return as_unit(current)

    def _is_to_crop(self, images: Tensor) -> bool:
        return tuple(images.shape[2:]) != self._taken[:2]

    def _applied(self, run: _Run, images: Tensor, generator: torch.Generator) -> Tensor:
        if run.parts:
            return _InTurn(run.parts)(images, generator)
        done = self._singly.apply(images, run.start, run.stop)
        return self._singly.finished(done) if run.stop == len(self._names) else torch.stack(done)

    @property
    def image_by_image(self) -> list[str]:
        """The names of those that do not run batched."""
        return [name for start, stop, parts in self._runs if not parts for name in self._names[start:stop]]

    def describe(self) -> str:
        """For the log: which transforms run how."""
        return "; ".join(
            f"{', '.join(self._names[start:stop])} run{'s' if stop - start == 1 else ''} "
            f"{'batched' if parts else 'image by image'}"
            for start, stop, parts in self._runs
        )


def _generators_kept(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _classes(names: str) -> frozenset[type]:
    return frozenset(getattr(v2, name) for name in names.split())


_KERNELS = {**KERNELS, **COLOR_KERNELS, **AUTO_KERNELS, **OPERATION_KERNELS, **WARP_KERNELS}
_KERNELS[v2.RandomResizedCrop] = random_resized_crop
# Whether a kernel has a transform's arguments.
_HAS_ARGUMENTS: dict[type, Callable[[Any], bool]] = {
    **dict.fromkeys(AUTO_KERNELS, has_operations),
    **dict.fromkeys(
        (v2.RandomAffine, v2.RandomRotation, *WARP_KERNELS), lambda transform: affine_mode(transform) is not None
    ),
    v2.RandomResizedCrop: is_resizable,
}
# Nothing random, or nothing but whether they are applied; torchvision's own kernels take batches.
_ALWAYS = _classes("CenterCrop ConvertImageDtype Grayscale Identity Pad RGB Resize ToDtype ToImage ToPureTensor")
_SOMETIMES = _classes(
    "RandomAdjustSharpness RandomAutocontrast RandomEqualize RandomGrayscale RandomHorizontalFlip RandomInvert "
    "RandomPosterize RandomSolarize RandomVerticalFlip"
)
# Random also in what they do.
_WITH_CHANCE = _classes("RandomErasing RandomPerspective")
# What they make has one shape and the dtype it had, whatever chance does, also where it is made image by image.
_UNIFORM = _classes(
    "AugMix AutoAugment ElasticTransform JPEG RandAugment RandomPerspective RandomPhotometricDistort RandomResizedCrop "
    "Resize TrivialAugmentWide"
)


def batched(transform: Any, device: torch.device) -> Batched | None:
    """What does to batches on a device what a transform does to images; None where its class or arguments have none."""
    kind = type(transform)
    if kind in _KERNELS or kind in _ALWAYS | _SOMETIMES:
        # A fill by types of images, a size of its own for every image, or an interpolation that the kernels lack.
        if isinstance(getattr(transform, "fill", None), dict) or getattr(transform, "expand", False):
            return None
        if (is_able := _HAS_ARGUMENTS.get(kind)) is not None and not is_able(transform):
            return None
        kernel: Batched = partial(_KERNELS.get(kind, _by_torchvision), transform)
        return _sometimes([kernel], transform.p) if kind in _SOMETIMES | _WITH_CHANCE else kernel
    if kind not in (v2.Compose, v2.RandomApply, v2.RandomChoice, v2.RandomOrder):
        return None
    parts = [part for inner in transform.transforms if (part := batched(inner, device)) is not None]
    if len(parts) < len(transform.transforms):
        return None
    if kind is v2.RandomApply:
        return _sometimes(parts, transform.p)
    if kind is v2.RandomChoice:
        # By bounds of their own: torch.multinomial adds up shares in any order on a GPU, by floats, which torch warns
        # of, and has the host wait where a batch is a single image.
        bounds = torch.tensor(list(accumulate(transform.p))[:-1], dtype=torch.float64, device=device)
        return _Chosen(parts, lambda count, drawn: [_numbered(bounds, count, drawn)])
    return _InTurn(parts) if kind is v2.Compose else _Chosen(parts, lambda n, drawn: orders(n, len(parts), drawn).T)


def _numbered(bounds: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A number from 0 on for each image, by bounds that divide 0..1 in shares."""
    drawn = torch.rand(count, generator=generator, device=bounds.device, dtype=torch.float64)
    return torch.bucketize(drawn, bounds, right=True)


def _by_torchvision(transform: Any, images: Tensor, _generator: torch.Generator) -> Tensor:
    done: Tensor = transform.transform(images, transform.make_params([images]))
    return done.as_subclass(Tensor)


@dataclass(frozen=True)
class _InTurn:
    parts: Sequence[Batched]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            images = part(images, generator)
        return images


@dataclass(frozen=True)
class _Chosen:
    """Round by round, each image gets the part whose number is drawn for it; none where no part has that number."""

    parts: Sequence[Batched]
    rounds: Callable[[int, torch.Generator], Iterable[Tensor]]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for choice in self.rounds(len(images), generator):
            for number, part in enumerate(self.parts):
                change: Any = lambda some, _, part=part: part(some, generator)  # noqa: E731
                images = where_chosen(choice == number, images, change)
        return images


def _sometimes(parts: Sequence[Batched], probability: float) -> _Chosen:
    def rounds(count: int, generator: torch.Generator) -> Iterable[Tensor]:
        yield torch.rand(count, generator=generator, device=generator.device) >= probability  # False is 0

    return _Chosen([_InTurn(parts)], rounds)


def rehearse(part: Batched, images: Tensor, generator: torch.Generator) -> Tensor:
    """As a call of the part, but every branch that chance may take is taken.

    Raises:
        ValueError: A branch changes shape or dtype, so that images of one batch would differ.
    """
    if isinstance(part, _InTurn):
        for inner in part.parts:
            images = rehearse(inner, images, generator)
        return images
    if not isinstance(part, _Chosen):
        return part(images, generator)
    for branch in part.parts:
        done = rehearse(branch, images, generator)
        if (done.shape, done.dtype) != (images.shape, images.dtype):
            raise ValueError(f"some images are {tuple(done.shape[1:])} of {done.dtype} and some are as they were")
    return images


def is_never_random(transform: Any) -> bool:
    """Whether a transform is known to leave nothing to chance."""
    kind = type(transform)
    return kind in _ALWAYS or (kind in _SOMETIMES and transform.p in (0, 1))
