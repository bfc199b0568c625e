"""Whether ``additional_transforms`` leave training images comparable to held-out ones, which never go through them.

The transforms are run on known images (black, white, one tone, a gradient) by several draws of chance, with every
branch taken that chance may take. What comes out must be images as training reads them:

- uint8, or floats in 0..1; half of that range may be left at either end, as by noise that is not clipped. So must be
  what each transform gets, unless it only converts;
- of the params' channels, and of the size that is stored, or all of the size that the network takes;
- now and then about as black, white and colored as they were: what is always darker or inverted is another scale;
- with something left to see: black and white differ, and so does the gradient within itself.

What does the same on every draw must change nothing, since training would see it always and evaluation never. That
goes for all transforms with nothing random taken together: a fixed ``Resize`` may well lead to a random crop. Where
they bring stored images to the network's size, they may change the size always: held-out images are cropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product, takewhile
from typing import Any

import torch
from torch import Tensor

from components.classifier.augmentation import PerImageTransforms, as_unit, is_never_random, nested, size_problem
from components.classifier.chances import DRAWS, choices_of, torchvisions, ways
from components.classifier.known_images import (
    LEVELS,
    READ,
    Output,
    alike,
    extremes,
    known_images,
    measured,
    scale_problem,
)
from components.shared.cropping import central_crop
from components.shared.errors import ParamsError, Problem
from components.shared.params.types import TransformSpec

# Side of the images that are tried first; they show everything where no transform names a size.
_SIDE = 64
# Values of the largest image that is tried in its own size: 4096×4096 in grayscale, which takes seconds.
_LARGEST_TRIED = 2**24
# In shares of 0..1: how near a level counts as reached, how much must be left to see.
_NEAR, _LEFT = 0.15, 0.1

_CONVERTING = frozenset({"ConvertImageDtype", "Identity", "ToDtype", "ToImage", "ToPureTensor"})
_SIZED = frozenset({"CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize"})
_OF_COLOR = frozenset({"Grayscale", "RGB", "RandomGrayscale"})
_OF_SIZE = frozenset({"CenterCrop", "Pad", "RandomCrop", "RandomResize", "RandomShortestSize", "Resize", "ScaleJitter"})

# The transform that is at fault, and what is wrong.
_Found = tuple[int, str] | None


def rehearse_transforms(
    specs: Sequence[TransformSpec],
    image_shape: tuple[int, int, int],
    taken: tuple[int, int, int] | None = None,
    *,
    seconds: float = 10.0,
) -> list[str]:
    """Try a run's transforms on known images.

    The verdict depends on the arguments alone, except for what takes long; torch's generators are left as they were.

    Args:
        specs: The transforms, in order; at least one.
        image_shape: Height, width, channels of the run's images, as they are stored.
        taken: Of what the network takes; by default the same.
        seconds: Of processor time; afterwards no further transform is begun.

    Returns:
        What has no effect, a line each; or that images of more than 2^24 values were not tried, or how far others were.

    Raises:
        ParamsError: A transform cannot be built, fails, or makes training images other than held-out ones; of several
            the first after which they are.
    """
    height, width, _ = image_shape
    factor = min(1.0, _SIDE / min(height, width))
    is_tried, shapes = math.prod(image_shape) <= _LARGEST_TRIED, (image_shape, taken or image_shape)
    PerImageTransforms(specs, *shapes)
    end = time.thread_time() + seconds  # of this thread: busy processors change no verdict

    def check_time(index: int) -> None:
        if time.thread_time() > end:
            at = f"additional_transforms[{index}], {specs[index].class_}"
            raise _CutShortError(f"after {seconds:g} s they had come to {at}")

    # Images are small: one thread takes 35 ms, and two that wait for each other on busy cores up to 2 s.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            trial = None
            if factor < 1:
                with suppress(ParamsError):  # what smaller images fail by is their size
                    small = _Trial(specs, shapes, check_time, factor)
                    trial = small if small.keeps_size() else None
            if trial is not None and is_tried:
                sized = _Trial(specs, shapes, check_time, draws=1)
                sized.refuse(sized.traced(sized.size_problem))
            if trial is None and not is_tried:
                return [f"additional_transforms were not tried: images of {height}×{width} are too large for that"]
            if trial is None or (is_tried and trial.is_shrunk and trial.problem() is not None):
                trial = _Trial(specs, shapes, check_time)
            trial.refuse(trial.problem())
            return trial.notes()
    finally:
        torch.set_num_threads(threads)


class _CutShortError(Exception):
    """A trial takes too long."""


def _shrink_sizes(transforms: Sequence[Any], factor: float) -> bool:
    """Make the sizes smaller that torchvision's transforms crop and resize to; whether there are any."""
    sized = [inner for inner in torchvisions(transforms) if type(inner).__name__ in _SIZED and inner.size is not None]
    for inner in sized:
        given = inner.size if isinstance(inner.size, list | tuple) else [inner.size]
        inner.size = type(given)(max(1, round(side * factor)) for side in given)
    return bool(sized)


class _Trial:
    """Transforms run on known images of one size, smaller by a factor, as sizes that transforms name.

    Of the two shapes, images have the first, and the network takes the second.
    """

    def __init__(
        self,
        specs: Sequence[TransformSpec],
        shapes: tuple[tuple[int, int, int], tuple[int, int, int]],
        check_time: Callable[[int], None],
        factor: float = 1.0,
        draws: int = DRAWS,
    ) -> None:
        self._shape, self._taken = (
            (channels, round(height * factor), round(width * factor)) for height, width, channels in shapes
        )
        self._is_apart = (self._shape == self._taken) == (shapes[0] == shapes[1])
        self._check_time = check_time
        self._chain = PerImageTransforms(specs, *shapes)
        transforms = self._chain.transforms
        self._names = [spec.class_ for spec in specs]
        self.is_shrunk = factor < 1 and _shrink_sizes(transforms, factor)
        self._last = len(specs) - 1
        self._never_random = [is_never_random(transform) for transform in transforms]
        self._choices = list(choices_of(transforms))
        if draws > 1:  # for a choice among several as often as it has ways
            draws *= max([1, *(len(choice.ways) for choice in self._choices if choice.ways != [0.0, 1.0])])
        self._draws = draws
        self._images = known_images(*self._shape)
        # By transform: what is wrong with what it, or one within it, gets.
        self._misused: dict[int, str] = {}
        for index, transform in enumerate(transforms):
            for inner in nested(transform):
                is_container = type(inner).__name__ in _CONVERTING or hasattr(inner, "transforms")
                if isinstance(inner, torch.nn.Module) and not is_container:
                    inner.register_forward_pre_hook(partial(self._note_input, index))
        # By transform and image: the outputs of every draw.
        self._outputs: list[list[list[Output]]] = [[[] for _ in self._images] for _ in specs]
        # By transform: images that go in and come out by one draw, and whether all draws do the same to them.
        self._alone: list[list[tuple[Tensor, Tensor]]] = []
        self._fixed: list[bool] = []
        self._cut_short: str | None = None
        try:
            for draw in range(draws):
                self._try_together(draw)
                if self.size_problem(self._last):
                    return
            if draws > 1:
                self._try_alone()
        except _CutShortError as error:
            self._cut_short = str(error)

    def _note_input(self, index: int, inner: Any, given: tuple[Tensor, ...]) -> None:
        image, name = given[0], type(inner).__name__
        if name == "GaussianNoise" and not inner.clip and image.dtype is torch.uint8:
            message = "adds noise to uint8 unclipped, which makes black white and white black; set clip: true"
            self._misused.setdefault(index, message)
        if (problem := scale_problem(image.dtype, *extremes(image))) is not None:
            self._misused.setdefault(index, f"hands {problem} by {name}; {self._scale_advice(index)}")

    def _applied(self, image: Tensor, index: int) -> Tensor:
        return self._chain.apply([image], index, index + 1)[0]

    def _draw(self, draw: int) -> None:
        """Make chance the same for every image."""
        torch.default_generator.manual_seed(draw)  # torch.manual_seed would reseed every GPU, for good
        for choice, way in zip(self._choices, ways(self._choices, draw), strict=True):
            choice.transform.p = choice.ways[way]

    def _try_together(self, draw: int) -> None:
        for number, image in enumerate(self._images):
            current = image
            self._draw(draw)
            for index in range(self._last + 1):
                if draw or number or index:  # the first is tried in any case
                    self._check_time(index)
                current = self._applied(current, index)
                self._outputs[index][number].append(measured(current, image, draw, self._taken))
            if not draw and self.size_problem(self._last):
                return

    def _try_alone(self) -> None:
        """Try each transform on what those before it make of an image without chance, as far as size and dtype go."""
        images = self._images
        for index in range(self._last + 1):
            self._draw(0)
            pairs = []
            for image in images:
                self._check_time(index)
                torch.default_generator.manual_seed(0)
                pairs.append((image, self._applied(image, index)))
            self._alone.append(pairs)
            self._fixed.append(self._never_random[index] or self._is_fixed(index))
            if self._fixed[-1] or any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in pairs):
                images = [after for _, after in pairs]

    def _is_fixed(self, index: int) -> bool:
        for draw, (image, before) in product(range(1, self._draws), self._alone[index]):
            self._check_time(index)
            self._draw(draw)
            done = self._applied(image, index)
            if (done.shape, done.dtype) != (before.shape, before.dtype) or not torch.equal(done, before):
                return False
        return True

    def keeps_size(self) -> bool:
        """Whether images end at one of the sizes that they may, and smaller images can tell the two apart."""
        sizes = {output.shape[1:] for output in self._all(self._last)}
        return self._is_apart and sizes in ({self._shape[1:]}, {self._taken[1:]})

    def refuse(self, found: _Found) -> None:
        if found is not None:
            index, message = found
            raise ParamsError([Problem(f"additional_transforms[{index}]", f"{self._names[index]} {message}")])

    def problem(self) -> _Found:
        """The transform after which images are off, and what is wrong."""
        if self.size_problem(self._last):
            return self.traced(self.size_problem)
        found = self.traced(self._value_problem) or min(self._misused.items(), default=None)
        if self._cut_short is not None:  # what no further draw would make good
            return found
        found = found or self._always() or self.traced(self._level_problem) or self.traced(self._left_problem)
        # What is on another scale is what the transforms after it were not made for.
        for index in range(found[0] if found is not None else 0):
            if (message := self._value_problem(index)) is not None:
                return index, message
        return found

    def traced(self, judge: Callable[[int], str | None]) -> _Found:
        """What is wrong in the end, and the transform since which it is."""
        if judge(self._last) is None:
            return None
        index = self._last - len(list(takewhile(judge, reversed(range(self._last)))))
        return index, str(judge(index))

    def _all(self, index: int) -> list[Output]:
        return [output for of_image in self._outputs[index] for output in of_image]

    def size_problem(self, index: int) -> str | None:
        return size_problem((output.shape for output in self._all(index)), self._shape, self._taken)

    @property
    def _is_cropping(self) -> bool:
        """Whether the transforms bring stored images to the network's size, which is another."""
        return self._shape != self._taken and self._outputs[self._last][0][0].shape == self._taken

    def _value_problem(self, index: int) -> str | None:
        """Values of another dtype, or on another scale, than those that are read."""
        found = self._all(index)
        for dtype in dict.fromkeys(output.dtype for output in found):
            of_dtype = [output for output in found if output.dtype is dtype]
            lowest, highest = min(output.lowest for output in of_dtype), max(output.highest for output in of_dtype)
            if (problem := scale_problem(dtype, lowest, highest)) is not None:
                return f"gives {problem}; {self._scale_advice(index, is_read=dtype in READ)}"
        if self._cut_short is not None:
            return None
        brightest = max(found, key=lambda output: output.highest / output.white)
        if brightest.highest < _LEFT * brightest.white:
            span = f"values up to {brightest.highest:.4g} as {str(brightest.dtype).removeprefix('torch.')}"
            return f"gives {span} where 0..{brightest.white} is read; {self._scale_advice(index)}"
        return None

    def _scale_advice(self, index: int, *, is_read: bool = True) -> str:
        inner = list(nested(self._chain.transforms[index]))
        names = {type(transform).__name__ for transform in inner}
        if "ToDtype" in names:
            return f"set {'' if is_read else 'dtype: torch.float32 and '}scale: true in the kwargs of ToDtype"
        if "ConvertImageDtype" in names:
            return "set dtype: torch.float32 in its kwargs"
        if "GaussianNoise" in names:
            return "set clip: true"
        if any(getattr(transform, "value", ...) is None for transform in inner):
            return "set another value than random, which is noise beyond that scale between floats"
        if any(hasattr(transform, "fill") or hasattr(transform, "value") for transform in inner):
            return "choose what it fills with on that scale"
        return "normalise_mean and normalise_std normalise the images of every split"

    def _always(self) -> _Found:
        """The first of the transforms without chance by which, taken together, images are other than they were."""
        resizing = {index for index, images in enumerate(self._alone) if any(a.shape != b.shape for a, b in images)}
        fixed = [index for index, is_fixed in enumerate(self._fixed) if is_fixed]
        # Such as to a random crop, which may change sizes itself.
        if self._is_cropping or not resizing <= set(fixed):
            fixed = [index for index in fixed if index not in resizing]
        changed = [False] * len(fixed)
        self._draw(0)
        for image in self._images:
            current = image
            for number, index in enumerate(fixed):
                try:
                    current = self._applied(current, index)
                except ParamsError:  # it needs the others
                    return None
                changed[number] |= not alike(current, image)
        if not any(changed[-1:]):
            return None
        index = fixed[len(fixed) - len(list(takewhile(bool, reversed(changed))))]
        names = {type(inner).__name__ for inner in nested(self._chain.transforms[index])}
        advice = "apply it with a probability below 1 (its p, or that of a RandomApply), or change the data themselves"
        if names & _OF_COLOR:
            advice = "set is_image_color: false, which makes the images of every split gray"
        elif names & _OF_SIZE:
            advice = (
                "data prep resizes the images of every split to image_height and image_width, or to stored_height and "
                "stored_width, and takes the middle of held-out ones"
            )
        return index, f"does the same to every training image and to no held-out image; {advice}"

    def _level_problem(self, index: int) -> str | None:
        """A level that no draw leaves about where it was."""
        for name, image, of_image in zip(LEVELS, self._images, self._outputs[index], strict=False):
            found = [output for output in of_image if output.off]
            for channel, wanted in enumerate(as_unit(image[:, 0, 0]).tolist() if found else ()):
                medians = [output.medians[channel] for output in found]
                lowest, highest = min(medians), max(medians)
                if min(output.off[channel] for output in found) > _NEAR and not lowest <= wanted <= highest:
                    span = " to ".join(dict.fromkeys((f"{lowest:.2f}", f"{highest:.2f}")))
                    return (
                        f"turns {name}, {wanted:.2f}, into {span} on every draw, and held-out images keep theirs; "
                        "choose arguments by which some images stay about as they are"
                    )
        return None

    def _left_problem(self, index: int) -> str | None:
        """Next to no difference between black and white, or within the gradient."""
        black, white, _, gradient = self._outputs[index]
        contrast = [abs(high.mean - low.mean) for low, high in zip(black, white, strict=True)]
        if sum(contrast) < _LEFT * len(contrast):
            return "leaves next to nothing of an image: black and white come out alike"
        if max(output.spread for output in gradient) < _LEFT * float(as_unit(self._images[-1]).std(correction=0)):
            return "leaves next to nothing of an image: it comes out in one tone"
        return None

    def notes(self) -> list[str]:
        """How far the transforms were tried, if in part; else what gave every image back as it was by every draw."""
        if self._cut_short is not None:
            return [
                f"additional_transforms were tried in part: {self._cut_short}; "
                "whether they leave training images comparable to held-out ones is for you to check"
            ]
        if all(self._fixed) and not self._is_cropping:
            return ["additional_transforms have no effect: images come out as they were"]
        return self._size_notes() + [
            f"additional_transforms[{index}]: {self._names[index]} has no effect: images come out as they were"
            for index, images in enumerate(self._alone)
            if self._fixed[index] and all(a.dtype is b.dtype and torch.equal(a, b) for a, b in images)
        ]

    def _size_notes(self) -> list[str]:
        """That every training image is cropped in the same way, which evaluation does, too, or does otherwise."""
        sizing = [index for index, images in enumerate(self._alone) if any(a.shape != b.shape for a, b in images)]
        if not self._is_cropping or not all(self._fixed[index] for index in sizing):
            return []
        channels, height, width = self._taken
        current = self._images[-1]
        middle = central_crop(current.permute(1, 2, 0), (height, width, channels)).permute(2, 0, 1)
        with suppress(ParamsError):  # it needs the others
            for index in sizing:
                current = self._applied(current, index)
        if alike(current, middle):
            return ["stored_height and stored_width have no effect: training takes the middle, too, of every image"]
        return [
            "additional_transforms crop or resize every training image in the same way, and held-out ones show their "
            "middle: things are of another size or elsewhere there; RandomCrop and RandomResizedCrop vary both"
        ]
