"""The ``additional_transforms`` of a run: batched on the device where there is an equivalent, else image by image."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.classifier.augment import PerImageTransforms, as_unit
from components.shared.params.types import TransformSpec

if TYPE_CHECKING:
    from components.classifier.batched_parts import Batched

# Images that are transformed to see what it costs: as many as hold so many values, within these bounds.
_MEASURED_VALUES = 2**20
_MEASURED_BATCHED, _MEASURED_SINGLY = 256, 16


@dataclass(frozen=True)
class _Run:
    """Transforms that follow each other and run the same way.

    Attributes:
        start: Index of the first.
        stop: Index after the last.
        parts: Their batched equivalents; empty: they run image by image.
    """

    start: int
    stop: int
    parts: tuple[Batched, ...]


class Augmentation:
    """The transforms of a run, each image for itself, equal in distribution to applying them to one after the other.

    A transform runs batched where it has an equivalent that keeps shape and dtype of all images of a batch alike.
    Batched transforms draw from the generator they are given, the others from torch's global generators.

    Args:
        specs: The transforms, in order.
        image_shape: Height, width, channels, which they must keep.
        generator_device: Where images and the generator will be.

    Raises:
        ParamsError: A transform cannot be built, fails, or changes the shape of an image.
    """

    def __init__(
        self, specs: Sequence[TransformSpec], image_shape: tuple[int, int, int], generator_device: torch.device
    ) -> None:
        self._singly = PerImageTransforms(specs, image_shape)
        self._names = [spec.class_.rpartition(".")[2] for spec in specs]
        self._image_shape = image_shape
        self._device = generator_device
        with _untouched(generator_device):
            self._runs = list(_joined(self._planned()))

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
            if run.parts:
                current = _in_turn(run.parts, current, generator)
                continue
            done = self._singly.apply(current, run.start, run.stop)
            if run.stop == len(self._names):
                return self._singly.finished(done)
            current = torch.stack(done)
        return as_unit(current)

    def lines(self, images: int) -> list[str]:
        """For the log: which transforms run how and what that costs, tried on a few images of noise.

        Args:
            images: Training images in an epoch.
        """
        with _untouched(self._device):
            return [self._line(run, seconds, images) for run, seconds in self._measured()]

    def _line(self, run: _Run, seconds: float, images: int) -> str:
        names = self._names[run.start : run.stop]
        several = "s" if len(names) == 1 else ""
        how = "batched" if run.parts else "image by image"
        epoch = seconds * images
        return (
            f"{', '.join(names)} run{several} {how}: {seconds * 1e3:.2g} ms an image; "
            f"about {epoch:.{0 if epoch >= 10 else 1}f} s an epoch of {images:,}"
        )

    def _measured(self) -> Iterator[tuple[_Run, float]]:
        """Each run and the seconds it takes for one image."""
        generator = torch.Generator(self._device).manual_seed(0)
        fitting = max(2, _MEASURED_VALUES // math.prod(self._image_shape))
        for run in self._runs:
            count = min(fitting, _MEASURED_BATCHED if run.parts else _MEASURED_SINGLY)
            noise = torch.randint(0, 256, (count, *self._image_shape), dtype=torch.uint8, device=self._device)
            current = noise.permute(0, 3, 1, 2)
            for earlier in self._runs[: self._runs.index(run)]:
                current = self._through(earlier, current, generator)
            seconds = math.inf
            for _ in range(2):  # the first time pays for what is made once
                start = time.perf_counter()
                self._through(run, current, generator)
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                seconds = min(seconds, time.perf_counter() - start)
            yield run, seconds / count

    def _through(self, run: _Run, images: Tensor, generator: torch.Generator) -> Tensor:
        if run.parts:
            return _in_turn(run.parts, images, generator)
        done = self._singly.apply(images, run.start, run.stop)
        return self._singly.finished(done) if run.stop == len(self._names) else torch.stack(done)

    def _planned(self) -> Iterator[_Run]:
        """A run for each transform; the last one may have several, where images differ in shape or dtype between."""
        # Imported here: torchvision costs seconds, and most runs name no transform.
        from components.classifier.batched_transforms import batched, keeps_batches_uniform

        generator = torch.Generator(self._device).manual_seed(0)
        blank = torch.zeros(2, *self._image_shape, dtype=torch.uint8, device=self._device)
        current = blank.permute(0, 3, 1, 2)
        for index, transform in enumerate(self._singly.transforms):
            part = batched(transform, self._device)
            done = None if part is None else _rehearsed(part, current, generator)
            if part is not None and done is not None:
                yield _Run(index, index + 1, (part,))
                current = done
            elif keeps_batches_uniform(transform):
                yield _Run(index, index + 1, ())
                current = torch.stack(self._singly.apply(current, index, index + 1))
            else:
                yield _Run(index, len(self._names), ())
                return


def _joined(runs: Iterator[_Run]) -> Iterator[_Run]:
    """Runs of the same kind that follow each other made one."""
    last: _Run | None = None
    for run in runs:
        if last is not None and bool(last.parts) == bool(run.parts):
            last = _Run(last.start, run.stop, last.parts + run.parts)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _rehearsed(part: Batched, images: Tensor, generator: torch.Generator) -> Tensor | None:
    """What a part makes of images; None where it cannot take them, and torchvision shall say why."""
    try:
        return part.rehearse(images, generator)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a transform raises is about its kwargs or its place
        return None


def _in_turn(parts: Sequence[Batched], images: Tensor, generator: torch.Generator) -> Tensor:
    for part in parts:
        images = part(images, generator)
    return images


def _untouched(device: torch.device) -> AbstractContextManager[None]:
    """A context that gives torch's global generators back as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
