"""One image file becomes one uint8 array of the wanted shape."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from components.data_prep.source import shown
from components.shared.allowed_classes import shortened
from components.shared.dataset import Images
from components.shared.errors import DataError

# Pillow knows some forty formats by content. These are the ones pictures come in; the others are left out because a
# damaged file must not be taken for an obscure format, and because EPS is drawn by an external program.
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI"),
    *("TGA", "TIFF", "WEBP"),
)

# Where Pillow begins to warn of a decompression bomb: 9,459 × 9,459 pixels, 268 MB as RGB, for every decoding thread.
MAX_PIXELS = 1024**3 // 4 // 3

_EXIF_ORIENTATION = 0x0112
# How to bring an image upright, by its EXIF orientation; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(Exception):
    """One image cannot be decoded; the text says why, in one line without the file's name."""


@cache
def image_extensions() -> frozenset[str]:
    """File name endings that mean an image, in lower case with their dot."""
    return frozenset(Image.registered_extensions())


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_image(file: Path, shape: tuple[int, int, int]) -> Images:
    """Decode an image file: its first frame, brought upright, in 1 or 3 channels, resized.

    Args:
        file: Any of the formats in ``FORMATS``, whatever its name.
        shape: Height, width, channels.

    Returns:
        uint8 of that shape.

    Raises:
        UnreadableImageError: The content is not an image that can be decoded.
        DataError: The operating system does not hand the file out.
    """
    try:
        with file.open("rb") as stream:
            if not stream.read(1):
                raise UnreadableImageError("is empty")
            stream.seek(0)
            with Image.open(stream, formats=_formats()) as image:
                if (pixels := image.width * image.height) > MAX_PIXELS:
                    raise UnreadableImageError(
                        f"has {pixels} pixels, more than {MAX_PIXELS}; it is taken for a decompression bomb"
                    )
                image.load()
                return fitted(_upright(image), shape)
    except (UnreadableImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("is not an image in a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"has more than {MAX_PIXELS} pixels; it is taken for a decompression bomb") from None
    except Exception as error:
        # Damaged files make Pillow's decoders raise nearly anything. Only errors with an errno come from the
        # operating system: those are no property of the image.
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{shown(file)}: cannot be read: {error.strerror}") from error
        raise UnreadableImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """An exception as one line that is the same in every run."""
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "…", " ".join(str(error).split()))
    return shortened(text or type(error).__name__, 200)


def _upright(image: Image.Image) -> Image.Image:
    orientation = None
    # Damaged EXIF data says nothing about the pixels: such an image is read as it is stored.
    with suppress(OSError, ValueError, TypeError, KeyError, IndexError, SyntaxError, struct.error):
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def fitted(image: Image.Image, shape: tuple[int, int, int]) -> Images:
    """A decoded image as uint8 of `shape` (height, width, channels).

    Transparency is dropped, colour becomes grey by the ITU-R 601 luma, and the size changes by area-aware bilinear
    interpolation, only where it differs.

    Raises:
        ValueError: The image's values have no meaning in 8 bits.
    """
    height, width, channels = shape
    mode = "RGB" if channels == 3 else "L"
    if image.mode == "I" or image.mode.startswith("I;") or image.mode == "F":
        image = _in_8_bits(image)
    # A palette's transparent entry would otherwise travel along and make conversions guess.
    image.info.pop("transparency", None)
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """A grayscale image of wider values, scaled to 0..255 rather than clipped.

    Integers count as 16-bit: 0..65535. Floating-point numbers count as 0..1 where all lie there, else as 0..255.
    """
    values = np.asarray(image)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 255:  # false for NaN as well
            raise ValueError(f"holds floating-point values from {low:g} to {high:g}, neither 0 to 1 nor 0 to 255")
        scaled = np.rint(values * 255 if high <= 1 else values)
    else:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"holds integers from {low} to {high}, and 16-bit grey ends at 65535")
        scaled = (values.astype(np.uint32) + 128) // 257
    return Image.fromarray(scaled.astype(np.uint8))
