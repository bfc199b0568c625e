"""Whether ``additional_transforms`` leave training images comparable to held-out ones, which never go through them.

The transforms are run on known images (black, white, one tone, a gradient) by several draws of chance, with every
branch taken that chance may take. What comes out must be images as training reads them:

- uint8, or floats in 0..1; half of that range may be left at either end, as by noise that is not clipped. So must be
  what each transform gets, unless it only converts;
- of the size and the channels that the params say;
- now and then about as black, white and coloured as they were: what is always darker or inverted is another scale;
- with something left to see: black and white differ, and so does the gradient within itself.

What does the same on every draw must change nothing, since training would see it always and evaluation never. That
goes for all transforms with nothing random taken together: a fixed ``Resize`` may well lead to a random crop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product, takewhile
from typing import Any

import torch
from torch import Tensor

from components.classifier.augment import PerImageTransforms, as_unit, inside, size_message
from components.classifier.batched_transforms import batched, is_never_random, keeps_batches_uniform
from components.shared.errors import ParamsError, Problem
from components.shared.params.types import TransformSpec

# Side of the images that are tried first; they tell all where no transform names a size.
_SIDE = 64
# Values of the largest image that is tried in its own size: 4096×4096 in grayscale, which takes seconds.
_LARGEST_TRIED = 2**24
# Values of an image, evenly from all of it, whose statistics are looked at.
_LOOKED_AT, _LOOKED_AT_FOR_EXTREMES = 2**14, 2**18
# Rows of an orthogonal array that takes any two of 15 choices between yes and no through all four cases.
_DRAWS = 16
# Values of an image on the way: a padded or resized one of more is not made.
_LARGEST_MADE = 4 * _LARGEST_TRIED
# Where images are large, so many values are made at most, and yet so many draws: some seconds.
_MOST_VALUES, _LEAST_DRAWS = 2**28, 4

_READ = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMBERS = (*_READ, torch.bool, torch.int8, torch.int16, torch.int32, torch.int64)
# In shares of 0..1: how far values may leave it, how near a level counts as reached, how much must be left to see.
_BEYOND, _NEAR, _LEFT = 0.5, 0.15, 0.1
# Of the pixels of an image so many show what became of a level; the rest may be filled, erased or noise.
_SHARE = 0.01
# One and a half grey levels: what rounding may do to an image.
_SAME = 1.5 / 255

_LEVELS = {"black": (0, 0, 0), "white": (255, 255, 255), "a tone": (200, 120, 40)}
# Above it chance is no more than a spelling of always: an epoch of 100 images would hold less than one other image.
_AS_GOOD_AS_ALWAYS = 0.99
_CONVERTING = frozenset({"ConvertImageDtype", "Identity", "ToDtype", "ToImage", "ToPureTensor"})
_SIZED = frozenset({"CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize"})
_OF_COLOUR = frozenset({"Grayscale", "RGB", "RandomGrayscale"})
_OF_SIZE = frozenset({"CenterCrop", "Pad", "RandomCrop", "RandomResize", "RandomShortestSize", "Resize", "ScaleJitter"})


def rehearse_transforms(
    specs: Sequence[TransformSpec], image_shape: tuple[int, int, int], *, seconds: float = 10.0
) -> list[str]:
    """Try a run's transforms on known images.

    The verdict depends on the arguments alone, but for what takes long, and torch's generators are left as they were.

    Args:
        specs: The transforms, in order; at least one.
        image_shape: Height, width, channels of the run's images.
        seconds: Of a processor's time, whatever else it does; afterwards no further transform is begun.

    Returns:
        What has no effect, a line each; or that images of more than 2^24 values were not tried, or how far others were.

    Raises:
        ParamsError: A transform cannot be built, fails, or makes training images other than held-out ones; of several
            the first after which they are.
    """
    height, width, _ = image_shape
    factor = min(1.0, _SIDE / min(height, width))
    is_tried = math.prod(image_shape) <= _LARGEST_TRIED
    PerImageTransforms(specs, image_shape, try_out=False)
    with torch.random.fork_rng(devices=[]), _one_thread():
        limit = _Limit(seconds)
        trial = _reduced(specs, image_shape, factor, limit) if factor < 1 else None
        lines: list[str] = []
        if trial is not None and is_tried:
            sized = _Trial(specs, image_shape, limit, is_sized_only=True)
            sized.check()
            lines = sized.not_tried()
        if trial is None and not is_tried:
            return [f"additional_transforms were not tried: images of {height}×{width} are too large for that"]
        if trial is None or (is_tried and trial.is_adapted and trial.problem() is not None):
            trial = _Trial(specs, image_shape, limit)
        trial.check()
        return trial.not_tried() or [*lines, *trial.without_effect()]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Images are small: one thread takes 35 ms, and two that wait for each other on busy cores up to 2 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seed(draw: int) -> None:
    """Seed what transforms of images on the CPU draw from; torch.manual_seed would reseed every GPU, for good."""
    torch.default_generator.manual_seed(draw)


class _CutShortError(Exception):
    """Why a trial ended before its end."""


class _Limit:
    """The time that all trials of some transforms may take, of this thread: busy processors change no verdict."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def check(self, at: str) -> None:
        if time.thread_time() > self._end:
            raise _CutShortError(f"after {self._seconds:g} s they had come to {at}")


def _sides_made(transform: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width of what torchvision's transforms that pad or resize make of an image at most."""
    name, size = type(transform).__name__, getattr(transform, "size", None)
    if name == "Pad":
        padding = transform.padding if isinstance(transform.padding, list | tuple) else [transform.padding]
        left, top, right, bottom = (list(padding) * 4)[:4]
        return height + top + bottom, width + left + right
    if name == "RandomCrop":
        left, right, top, bottom = transform.padding or (0, 0, 0, 0)
        rows, columns = size if transform.pad_if_needed and size is not None else (0, 0)
        return max(height + top + bottom, rows), max(width + left + right, columns)
    if name == "RandomZoomOut":
        return math.ceil(height * transform.side_range[1]), math.ceil(width * transform.side_range[1])
    if name in _SIZED and size is not None:
        sides = list(size) if isinstance(size, list | tuple) else [size]
        if len(sides) == 1:  # of the shorter side
            return math.ceil(height * sides[0] / min(height, width)), math.ceil(width * sides[0] / min(height, width))
        return max(height, sides[0]), max(width, sides[1])
    return height, width


def _reduced(
    specs: Sequence[TransformSpec], image_shape: tuple[int, int, int], factor: float, limit: _Limit
) -> _Trial | None:
    """The trial on smaller images, by smaller sizes; None where that comes out in another size, and tells nothing."""
    try:
        trial = _Trial(specs, image_shape, limit, factor)
    except ParamsError:
        return None
    return trial if trial.keeps_size() else None


@dataclass(frozen=True)
class _Choice:
    """A transform that chance applies or leaves out, or that has chance choose among others.

    Attributes:
        transform: The transform.
        among: Indices of those it chooses among; empty: it is applied or not.
        nearly_always: The way it goes as good as always, if any.
    """

    transform: Any
    among: tuple[int, ...]
    nearly_always: int | None

    @property
    def ways(self) -> int:
        return len(self.among) or 2

    def take(self, way: int) -> None:
        """Leave nothing to chance."""
        if self.among:
            self.transform.p = [float(number == self.among[way]) for number in range(len(self.transform.p))]
        else:
            self.transform.p = float(way)


def _torchvisions(transforms: Sequence[Any]) -> list[Any]:
    """Those that are torchvision's own, and those inside them."""
    found = (inner for outer in transforms for inner in inside(outer))
    return [inner for inner in found if type(inner).__module__.startswith("torchvision.")]


def _choices(transforms: Sequence[Any]) -> Iterator[_Choice]:
    for transform in _torchvisions(transforms):
        chance = getattr(transform, "p", None)
        if isinstance(chance, list):
            among = tuple(number for number, share in enumerate(chance) if share > 0)
            if len(among) > 1:
                likely = (way for way, index in enumerate(among) if chance[index] > _AS_GOOD_AS_ALWAYS * sum(chance))
                yield _Choice(transform, among, next(likely, None))
        elif chance is not None and 0 < chance < 1:
            yield _Choice(transform, (), 1 if chance > _AS_GOOD_AS_ALWAYS else None)


def _keeps_sizes_alike(transform: Any) -> bool:
    """Whether what a transform makes of images of one size is known to have one size."""
    return keeps_batches_uniform(transform) or batched(transform, torch.device("cpu")) is not None


def _ways(choices: Sequence[_Choice], draw: int) -> tuple[int, ...]:
    """Which way each choice goes: two of them go all pairs of ways before 16 draws times the most ways are over."""
    if len(choices) == 1:
        return (draw % choices[0].ways,)
    block, row = divmod(draw, _DRAWS)
    return tuple(
        (block + row * number) % choice.ways if choice.among else (row & (number % (_DRAWS - 1) + 1)).bit_count() & 1
        for number, choice in enumerate(choices)
    )


@dataclass(frozen=True)
class _Seen:
    """What a transform gave for one image by one draw.

    Attributes:
        draw: The draw.
        dtype: Of the values.
        shape: Of the image.
        lowest: Of all values, as they are; NaN, as the rest, where they are no real numbers.
        highest: Of all values, as they are.
        mean: Of all values, white being 1; this and the rest of images of the right shape alone.
        spread: Their standard deviation, white being 1.
        medians: Of each channel, white being 1.
        off: Of each channel how far the nearest hundredth of its pixels is from what went in, white being 1.
    """

    draw: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    lowest: float = math.nan
    highest: float = math.nan
    mean: float = math.nan
    spread: float = math.nan
    medians: tuple[float, ...] = ()
    off: tuple[float, ...] = ()

    @property
    def white(self) -> int:
        """What white is in this dtype."""
        return 1 if self.dtype.is_floating_point else 255


def _brightness(seen: _Seen) -> float:
    return seen.highest / seen.white


def _seen(image: Tensor, known: Tensor, draw: int) -> _Seen:
    """What there is to see of what came out, where a known image went in."""
    shape = tuple(image.shape)
    if image.dtype not in _NUMBERS or not image.numel():
        return _Seen(draw, image.dtype, shape)
    lowest, highest = _span(image)
    if shape != known.shape:
        return _Seen(draw, image.dtype, shape, lowest, highest)
    some = image.flatten(1)[:, :: max(1, image.numel() // _LOOKED_AT)].float()
    unit = some if image.is_floating_point() else some / 255
    off = (unit - as_unit(known[:, 0, :1])).abs()
    return _Seen(
        draw,
        image.dtype,
        shape,
        lowest,
        highest,
        float(unit.mean()),
        float(unit.std(correction=0)),
        tuple(unit.median(1).values.tolist()),
        tuple(off.kthvalue(math.ceil(_SHARE * off.shape[1])).values.tolist()),
    )


def _span(image: Tensor) -> tuple[float, float]:
    """The lowest and the highest value; NaN where they are no real numbers."""
    if image.dtype not in _NUMBERS or not image.numel():
        return math.nan, math.nan
    some = image.flatten()[:: max(1, image.numel() // _LOOKED_AT_FOR_EXTREMES)]
    lowest, highest = some.float().aminmax()
    return float(lowest), float(highest)


def _scale_problem(dtype: torch.dtype, lowest: float, highest: float) -> str | None:
    """What is wrong with values of an image, if they are not on the scale on which they are read."""
    name, white = str(dtype).removeprefix("torch."), 1 if dtype.is_floating_point else 255
    span = f"values up to {highest:.4g}" if lowest >= 0 else f"values from {lowest:.4g} to {highest:.4g}"
    if dtype not in _READ:
        return f"{name}{'' if math.isnan(highest) else f', {span},'} where uint8 or floats in 0..1 are read"
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        return f"values as {name} that are not finite"
    if lowest < -_BEYOND * white or highest > (1 + _BEYOND) * white:
        return f"{span} as {name} where 0..{white} is read"
    return None


def _known_images(channels: int, height: int, width: int) -> list[Tensor]:
    """The levels, and last a gradient with some texture that no flip, turn or stretch of tones gives back."""
    flat = [
        torch.tensor(level[:channels] if channels > 1 else level[1:2], dtype=torch.uint8)
        .view(-1, 1, 1)
        .expand(-1, height, width)
        for level in _LEVELS.values()
    ]
    down, across = torch.linspace(0, 1, height).view(1, -1, 1), torch.linspace(0, 1, width).view(1, 1, -1)
    texture = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))
    tint = torch.linspace(0, 0.2, channels).view(-1, 1, 1)
    return [*flat, ((0.1 + 0.3 * down + 0.2 * across + tint + 0.1 * texture) * 255).to(torch.uint8)]


def _adapt_sizes(transforms: Sequence[Any], factor: float) -> bool:
    """Make the sizes smaller that torchvision's transforms crop and resize to; whether there are any."""
    sized = [
        inner
        for inner in _torchvisions(transforms)
        if type(inner).__name__ in _SIZED and getattr(inner, "size", None) is not None
    ]
    for inner in sized:
        given = inner.size if isinstance(inner.size, list | tuple) else [inner.size]
        inner.size = type(given)(max(1, round(side * factor)) for side in given)
    return bool(sized)


class _Trial:
    """Transforms run on known images of one size: what each gave, by every draw.

    Args:
        specs: The transforms.
        image_shape: Height, width, channels.
        limit: Of the time it may take.
        factor: Of smaller images to try instead; sizes that transforms name are made smaller, too.
        is_sized_only: Whether one draw will do, to see what sizes come out.

    Raises:
        ParamsError: A transform cannot be built, or fails.
    """

    def __init__(
        self,
        specs: Sequence[TransformSpec],
        image_shape: tuple[int, int, int],
        limit: _Limit,
        factor: float = 1.0,
        *,
        is_sized_only: bool = False,
    ) -> None:
        height, width, channels = image_shape
        self._shape = (channels, round(height * factor), round(width * factor))
        self._is_sized_only = is_sized_only
        self._limit = limit
        self._has_begun = False
        self._cut_short: str | None = None
        self._chain = PerImageTransforms(specs, image_shape, try_out=False)
        transforms = self._chain.transforms
        self._names = [spec.class_ for spec in specs]
        self.is_adapted = factor < 1 and _adapt_sizes(transforms, factor)
        self._last = len(specs) - 1
        self._is_never_random = [is_never_random(transform) for transform in transforms]
        self._choices = list(_choices(transforms))
        self._draws = _DRAWS * max([1, *(len(choice.among) for choice in self._choices)])
        self._images = _known_images(*self._shape)[: 1 if is_sized_only else None]
        self._wrapping: set[int] = set()
        self._given: dict[int, str] = {}
        self._watch()
        # By transform and image: what was seen by every draw.
        self._seen: list[list[list[_Seen]]] = [[[] for _ in self._images] for _ in specs]
        # By transform: images that go in and come out by one draw, and whether all draws do the same to them.
        self._alone: list[list[tuple[Tensor, Tensor]]] = []
        self._fixed: list[bool] = []
        try:
            self._try_all()
        except _CutShortError as error:
            self._cut_short = str(error)

    def _try_all(self) -> None:
        # One choice has gone all ways by then; several, or sizes that chance may change, want all draws.
        ways = max([2, *(choice.ways for choice in self._choices)])
        enough = (
            ways if len(self._choices) < 2 and all(map(_keeps_sizes_alike, self._chain.transforms)) else self._draws
        )
        for draw in range(self._draws):
            if draw >= self._draws:
                break
            self._try(draw)
            if self._is_sized_only or self._size_problem(self._last):
                break
            if not draw:
                values = sum(math.prod(seen.shape) for index in range(self._last + 1) for seen in self._all(index))
                self._draws = min(self._draws, max(_LEAST_DRAWS, _MOST_VALUES // max(1, values)))
            if draw + 1 >= enough and self._is_sound():
                break
        if not self._is_sized_only and self._size_problem(self._last) is None:
            self._try_alone()

    def _applied(self, image: Tensor, index: int) -> Tensor:
        """What one transform makes of an image, unless the time is over; the first is tried in any case."""
        if self._has_begun:
            self._limit.check(f"additional_transforms[{index}], {self._names[index]}")
        self._has_begun = True
        try:
            return self._chain.apply([image], index, index + 1)[0]
        except ParamsError as error:
            if isinstance(error.__cause__, _CutShortError):
                raise error.__cause__ from None
            raise

    def _watch(self) -> None:
        """Note what transforms get, those inside others, too: another scale, or uint8 for noise that wraps around."""
        for index, transform in enumerate(self._chain.transforms):
            for inner in inside(transform):
                name = type(inner).__name__
                if name in _CONVERTING or hasattr(inner, "transforms") or not isinstance(inner, torch.nn.Module):
                    continue
                is_wrapping = name == "GaussianNoise" and not getattr(inner, "clip", True)

                def note(
                    inner: Any,
                    given: tuple[Tensor, ...],
                    at: tuple[int, str] = (index, name),
                    wraps: bool = is_wrapping,
                ) -> None:
                    if wraps and given[0].dtype is torch.uint8:
                        self._wrapping.add(at[0])
                    self._check_size(*at, inner, given[0])
                    lowest, highest = _span(given[0])
                    if (problem := _scale_problem(given[0].dtype, lowest, highest)) is not None:
                        self._given.setdefault(at[0], f"hands {problem} by {at[1]}")

                inner.register_forward_pre_hook(note)

    def _check_size(self, index: int, name: str, transform: Any, image: Tensor) -> None:
        height, width = _sides_made(transform, *image.shape[-2:])
        if image.shape[0] * height * width > _LARGEST_MADE:
            at = f"additional_transforms[{index}], where {name} makes images of {height}×{width}"
            raise _CutShortError(f"they had come to {at}, too large for that")

    def _try(self, draw: int) -> None:
        for number, image in enumerate(self._images):
            current = image
            self._draw(draw)
            for index in range(self._last + 1):
                current = self._applied(current, index)
                self._seen[index][number].append(_seen(current, image, draw))
            if not draw and self._size_problem(self._last):
                return

    def _draw(self, draw: int, *, likely: bool = False) -> None:
        """Make chance the same for every image; if likely, with what comes as good as always."""
        _seed(draw)
        for choice, way in zip(self._choices, _ways(self._choices, draw), strict=True):
            choice.take(choice.nearly_always if likely and choice.nearly_always is not None else way)

    def _try_alone(self) -> None:
        """Try each transform on what those before it make of an image without chance, as far as size and dtype go."""
        images = self._images
        for index in range(self._last + 1):
            self._draw(0, likely=True)
            pairs = []
            for image in images:
                _seed(0)
                pairs.append((image, self._applied(image, index)))
            self._alone.append(pairs)
            self._fixed.append(self._is_never_random[index] or self._is_fixed(index))
            if self._fixed[-1] or any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in pairs):
                images = [after for _, after in pairs]

    def _is_fixed(self, index: int) -> bool:
        """Whether a transform does the same to an image on every draw."""
        for draw, (image, before) in product(range(1, self._draws), self._alone[index]):
            self._draw(draw, likely=True)
            done = self._applied(image, index)
            if (done.shape, done.dtype) != (before.shape, before.dtype) or not torch.equal(done, before):
                return False
        return True

    def keeps_size(self) -> bool:
        """Whether what came out has the height and width of what went in."""
        return all(seen.shape[1:] == self._shape[1:] for seen in self._all(self._last))

    def check(self) -> None:
        """Judge what was seen.

        Raises:
            ParamsError: Training images would be other than held-out ones.
        """
        if (found := self.problem()) is not None:
            index, message = found
            raise ParamsError([Problem(f"additional_transforms[{index}]", f"{self._names[index]} {message}")])

    def problem(self) -> tuple[int, str] | None:
        """The transform after which images are off, and what is wrong."""
        if self._is_sized_only or self._size_problem(self._last):
            return self._traced(self._size_problem)
        if self._cut_short is None:
            try:
                return self._problem()
            except _CutShortError as error:
                self._cut_short = str(error)
        # What no further draw would make good.
        return self._traced(self._value_problem) or self._handed() or self._wrapped()

    def _problem(self) -> tuple[int, str] | None:
        found = (
            self._traced(self._value_problem)
            or self._handed()
            or self._wrapped()
            or self._always()
            or self._traced(self._level_problem)
            or self._traced(self._left_problem)
        )
        # What is on another scale is what the transforms after it were not made for.
        for index in range(found[0] if found is not None else 0):
            if (message := self._value_problem(index)) is not None:
                return index, message
        return found

    def _traced(self, judge: Callable[[int], str | None]) -> tuple[int, str] | None:
        """What is wrong in the end, and the transform since which it is."""
        if judge(self._last) is None:
            return None
        index = self._last - len(list(takewhile(judge, reversed(range(self._last)))))
        return index, str(judge(index))

    def _is_sound(self) -> bool:
        on_the_way = any(self._value_problem(index) for index in range(self._last + 1))
        return not (on_the_way or self._given or self._level_problem(self._last) or self._left_problem(self._last))

    def _all(self, index: int) -> list[_Seen]:
        return [seen for of_image in self._seen[index] for seen in of_image]

    def _holds(self, index: int) -> set[str]:
        """Class names of a transform and of those in it."""
        return {type(inner).__name__ for inner in inside(self._chain.transforms[index])}

    def _size_problem(self, index: int) -> str | None:
        other = next((seen.shape for seen in self._all(index) if seen.shape != self._shape), None)
        return None if other is None else size_message(self._shape, other)

    def _value_problem(self, index: int) -> str | None:
        """Values of another dtype, or on another scale, than those that are read."""
        found = self._all(index)
        for dtype in dict.fromkeys(seen.dtype for seen in found):
            of_dtype = [seen for seen in found if seen.dtype is dtype]
            lowest, highest = min(seen.lowest for seen in of_dtype), max(seen.highest for seen in of_dtype)
            if (problem := _scale_problem(dtype, lowest, highest)) is not None:
                return f"gives {problem}; {self._scale_advice(index, is_read=dtype in _READ)}"
        if self._cut_short is None and (dark := self._dark(found)) is not None:
            name = str(dark.dtype).removeprefix("torch.")
            return (
                f"gives values up to {dark.highest:.4g} as {name} where 0..{dark.white} is read; "
                f"{self._scale_advice(index)}"
            )
        return None

    def _dark(self, found: Sequence[_Seen]) -> _Seen | None:
        """The brightest there is where, whichever way a choice goes, nothing is bright."""
        of_draw: dict[int, _Seen] = {}
        for seen in found:
            if seen.draw not in of_draw or _brightness(seen) > _brightness(of_draw[seen.draw]):
                of_draw[seen.draw] = seen
        went = {draw: _ways(self._choices, draw) or (0,) for draw in of_draw}
        for number in range(len(self._choices) or 1):
            ways: dict[int, list[_Seen]] = {}
            for draw, seen in of_draw.items():
                ways.setdefault(went[draw][number], []).append(seen)
            for of_way in ways.values():
                brightest = max(of_way, key=_brightness)
                if brightest.highest < _LEFT * brightest.white:
                    return brightest
        return None

    def _scale_advice(self, index: int, *, is_read: bool = True) -> str:
        holds = self._holds(index)
        if "ToDtype" in holds:
            return f"set {'' if is_read else 'dtype: torch.float32 and '}scale: true in the kwargs of ToDtype"
        if "ConvertImageDtype" in holds:
            return "set dtype: torch.float32 in its kwargs"
        if "GaussianNoise" in holds:
            return "set clip: true"
        if any(getattr(inner, "value", ...) is None for inner in inside(self._chain.transforms[index])):
            return "set another value than random, which is noise beyond that scale between floats"
        if any(hasattr(inner, "fill") or hasattr(inner, "value") for inner in inside(self._chain.transforms[index])):
            return "choose what it fills with on that scale"
        return "normalise_mean and normalise_std normalise the images of every split"

    def _handed(self) -> tuple[int, str] | None:
        """Values of another scale on the way to a transform that does more than convert them."""
        if not self._given:
            return None
        index = min(self._given)
        return index, f"{self._given[index]}; {self._scale_advice(index)}"

    def _wrapped(self) -> tuple[int, str] | None:
        if not self._wrapping:
            return None
        message = "adds noise to uint8 unclipped, which makes black white and white black; set clip: true"
        return min(self._wrapping), message

    def _always(self) -> tuple[int, str] | None:
        """The first of the transforms without chance by which, taken together, images are other than they were."""
        resizing = {index for index, images in enumerate(self._alone) if any(a.shape != b.shape for a, b in images)}
        fixed = [index for index, is_fixed in enumerate(self._fixed) if is_fixed]
        if not resizing <= set(fixed):  # such as to a random crop: sizes are its business, too
            fixed = [index for index in fixed if index not in resizing]
        changed = [False] * len(fixed)
        self._draw(0, likely=True)
        for image in self._images:
            current = image
            for number, index in enumerate(fixed):
                try:
                    current = self._applied(current, index)
                except ParamsError:  # it needs the others
                    return None
                changed[number] |= not _alike(current, image)
        if not any(changed[-1:]):
            return None
        index = fixed[len(fixed) - len(list(takewhile(bool, reversed(changed))))]
        return index, f"does the same to every training image and to no held-out image; {self._always_advice(index)}"

    def _always_advice(self, index: int) -> str:
        if self._holds(index) & _OF_COLOUR:
            return "set is_image_color: false, which makes the images of every split gray"
        if self._holds(index) & _OF_SIZE:
            return "data prep resizes the images of every split to image_height and image_width"
        return "apply it with a probability below 1 (its p, or that of a RandomApply), or change the data themselves"

    def _level_problem(self, index: int) -> str | None:
        """A level that no draw leaves about where it was."""
        for name, image, of_image in zip(_LEVELS, self._images, self._seen[index], strict=False):
            for channel, wanted in enumerate(as_unit(image[:, 0, 0]).tolist()):
                found = [(seen.medians[channel], seen.off[channel]) for seen in of_image if seen.off]
                if not found:
                    continue
                lowest, highest = min(median for median, _ in found), max(median for median, _ in found)
                if min(off for _, off in found) > _NEAR and not lowest <= wanted <= highest:
                    span = f"{lowest:.2f}" + (f" to {highest:.2f}" if f"{lowest:.2f}" != f"{highest:.2f}" else "")
                    return (
                        f"turns {name}, {wanted:.2f}, into {span} on every draw, and held-out images keep theirs; "
                        "choose arguments by which some images stay about as they are"
                    )
        return None

    def _left_problem(self, index: int) -> str | None:
        """Next to no difference between black and white, or within the gradient."""
        black, white, _, gradient = self._seen[index]
        contrast = [abs(high.mean - low.mean) for low, high in zip(black, white, strict=True)]
        before = float(as_unit(self._images[-1]).std(correction=0))
        if sum(contrast) < _LEFT * len(contrast):
            return "leaves next to nothing of an image: black and white come out alike"
        if max(seen.spread for seen in gradient) < _LEFT * before:
            return "leaves next to nothing of an image: it comes out in one tone"
        return None

    def not_tried(self) -> list[str]:
        """That the transforms were tried in part alone, and how far."""
        if self._cut_short is None:
            return []
        return [
            f"additional_transforms were tried in part: {self._cut_short}; "
            "whether they leave training images comparable to held-out ones is for you to check"
        ]

    def without_effect(self) -> list[str]:
        """Lines on what gave every image back as it was, whatever chance did."""
        if all(self._fixed):
            return ["additional_transforms have no effect: images come out as they were"]
        return [
            f"additional_transforms[{index}]: {self._names[index]} has no effect: images come out as they were"
            for index, images in enumerate(self._alone)
            if self._fixed[index] and all(a.dtype is b.dtype and torch.equal(a, b) for a, b in images)
        ]


def _alike(image: Tensor, before: Tensor) -> bool:
    """Whether an image is as it was, but for its dtype and for rounding."""
    if image.shape != before.shape or image.dtype is torch.bool or image.is_complex():
        return False
    if torch.equal(image.double(), before.double()):
        return True
    return bool((as_unit(image) - as_unit(before)).abs().max() <= _SAME)
