"""A decoded image of any mode becomes 8-bit grey or RGB: wider values scaled, transparent parts on a background."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.shared.decoding.rendering import Rendering

if TYPE_CHECKING:
    from components.shared.params.types import Interpolation

Images = npt.NDArray[np.uint8]

# What is done with an image that is worth reporting, and how a log reports it of a number of images.
Note = Literal["transparent", "wholly transparent", "dark", "more frames", "float to 1", "float to 255"]
NOTES: dict[Note, str] = {
    "transparent": "have transparent parts, which are composited on {background} (alpha_background)",
    "wholly transparent": "are wholly transparent: nothing but {background} (alpha_background) is left of them",
    "dark": "have 16-bit grey values below 4,096 alone and become nearly black; if they are of 12 bits, multiply by 16",
    "more frames": "hold more than one frame or page, of which the first is read",
    "float to 1": "have floating-point values of at most 1, which are read as 0 to 1",
    "float to 255": "have floating-point values beyond 1, which are read as 0 to 255",
}
SCALES: set[Note] = {"float to 1", "float to 255"}
_DARK = 4096
_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def note_lines(noted: Mapping[Note, int], background: object) -> Iterator[tuple[int, str]]:
    """What is worth logging of so many images with each note: a level of :mod:`logging`, and a line."""
    for note, text in NOTES.items():
        if count := noted.get(note, 0):
            level = logging.INFO if note in SCALES else logging.WARNING
            yield level, f"{count} image(s) {text.format(background=background)}"
    if noted.keys() >= SCALES:
        yield (
            logging.WARNING,
            "floating-point images are read by two scales, each by its own values: where the data mean 0 to 255, "
            "those of at most 1 become bright and should be nearly black; convert the images to 8 bits",
        )


@dataclass(frozen=True)
class Meaning:
    """How the values of a decoded image are meant, where its mode does not say so."""

    bits: int = 16  # of a wide integer: white is the largest number of so many bits
    inverted: bool = False  # 0 is white in wide integers
    swapped: bool = False  # the bytes of wide values are in the wrong order
    unsigned: bool = False  # integers of 32 bits are
    has_alpha: bool = True  # what looks like an alpha channel is one


USUAL = Meaning()


class Source(NamedTuple):
    """An upright image as its file has it, whatever part of its pixels was decoded.

    Attributes:
        width: In pixels.
        height: In pixels.
        divisor: How many of these, in each direction, are one decoded pixel.
        left: Where the image begins in what was decoded, which may have part of a pixel more on each side.
        top: The same from above.
    """

    width: int
    height: int
    divisor: int = 1
    left: float = 0.0
    top: float = 0.0


def fitted(
    image: Image.Image,
    rendering: Rendering,
    meaning: Meaning = USUAL,
    notes: list[Note] | None = None,
    source: Source | None = None,
) -> Images:
    """A decoded image as uint8 of the rendering's shape (height, width, channels).

    Transparent parts are composited on the background, before anything else is changed; what is opaque keeps its
    values. Colour becomes grey by the ITU-R 601 luma. Then the size changes, only where it differs.

    Args:
        image: Upright, decoded.
        rendering: What is made of it.
        meaning: How its values are meant.
        notes: Gets what is worth reporting.
        source: What it was before it was decoded at a smaller scale; None: it was not.

    Raises:
        ValueError: The image's values have no meaning in 8 bits.
    """
    mode = "RGB" if rendering.shape[2] == 3 else "L"
    if image.mode != mode or "transparency" in image.info:
        image = _converted(image, mode, rendering, meaning, [] if notes is None else notes)
    image = _placed(image, rendering, source or Source(*image.size))
    return np.frombuffer(image.tobytes(), np.uint8).reshape(rendering.shape)


def _converted(image: Image.Image, mode: str, rendering: Rendering, meaning: Meaning, notes: list[Note]) -> Image.Image:
    """An image in one of the two modes, on the background."""
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    alpha = _alpha(image) if meaning.has_alpha else None
    # A palette's transparent entry would otherwise travel along and make conversions guess.
    image.info.pop("transparency", None)
    if image.mode == "I" or image.mode.startswith("I;") or image.mode == "F":
        image = _in_8_bits(image, meaning, notes)
    if image.mode in ("LAB", "HSV") and mode == "L":
        image = image.convert("RGB")  # Pillow has no other way from these to grey
    if image.mode != mode:
        image = image.convert(mode)
    if alpha is not None:
        notes.append("transparent" if alpha.getextrema() != (0, 0) else "wholly transparent")
        canvas = _canvas(image.size, mode, rendering)
        canvas.paste(image, mask=alpha)
        image = canvas
    return image


def _canvas(size: tuple[int, int], mode: str, rendering: Rendering) -> Image.Image:
    """An image of the background; in grey of its luma."""
    color = Image.new("RGB", (1, 1), rendering.background).convert(mode).getpixel((0, 0))
    return Image.new(mode, size, color)


def _placed(image: Image.Image, rendering: Rendering, source: Source) -> Image.Image:
    """An image at the size and place of the rendering."""
    height, width, _ = rendering.shape
    if image.size == (width, height) == source[:2]:
        return image
    scaled, (left, top, right, bottom), at = rendering.placement(source.width, source.height)
    # What is seen of it, in its own pixels: as if all of it were scaled, and the rest then cut off.
    across, down = source.width / (scaled[0] * source.divisor), source.height / (scaled[1] * source.divisor)
    box = (
        *(source.left + left * across, source.top + top * down),
        *(min(source.left + right * across, image.width), min(source.top + bottom * down, image.height)),
    )
    if image.size != (right - left, bottom - top) or box != (0, 0, *image.size):
        image = image.resize((right - left, bottom - top), _FILTERS[rendering.interpolation], box)
    if image.size != (width, height):
        canvas = _canvas((width, height), image.mode, rendering)
        canvas.paste(image, at)
        image = canvas
    return image


def _alpha(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, as mode L; None if all are."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I;16"):  # of PNG: one grey value is transparent
        opaque = np.asarray(image) != image.info["transparency"]
        alpha = Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
    elif image.mode in ("RGBA", "LA", "PA"):
        alpha = image.getchannel("A")
    else:
        alpha = image.convert("RGBA").getchannel("A")
    lowest, _ = alpha.getextrema()
    return None if lowest == 255 else alpha


def _in_8_bits(image: Image.Image, meaning: Meaning, notes: list[Note]) -> Image.Image:
    """A grayscale image of wider values, scaled to 0..255 rather than clipped.

    Integers count as 16-bit unless their file says otherwise: 0..65535. Floating-point numbers count as 0..1 where all
    are, else as 0..255.
    """
    values: npt.NDArray[np.generic] = np.asarray(image)
    if meaning.swapped:
        values = values.byteswap()
    if meaning.unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 255:  # false for NaN as well
            raise ValueError(f"holds floating-point values from {low:g} to {high:g}, neither 0 to 1 nor 0 to 255")
        if high > 0:
            notes.append("float to 1" if high <= 1 else "float to 255")
        scaled = np.rint(values * 255 if high <= 1 else values)
    else:
        low, high = int(values.min()), int(values.max())
        white = 2 ** min(meaning.bits, 16) - 1
        if low < 0 or high > white:
            raise ValueError(
                f"holds integers from {low} to {high}, and {min(meaning.bits, 16)}-bit grey ends at {white}"
            )
        if white == 65535 and 0 < high < _DARK and not meaning.inverted:
            notes.append("dark")
        scaled = (values.astype(np.uint32) * 255 + white // 2) // white
        if meaning.inverted:
            scaled = 255 - scaled
    return Image.fromarray(scaled.astype(np.uint8))
