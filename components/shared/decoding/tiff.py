"""Which TIFFs Pillow reads right, and how their values are meant.

Pillow distinguishes TIFFs by a few tags and decodes the rest as if the others were not there: signed values as unsigned
ones, 12 bits as if they were 16, black for white, planes of 16 bits as planes of 8. So every tag that changes what a
value means is looked at here, and what is not known to be read right is refused with the reason. The tags are those of
TIFF 6.0 (Adobe, 1992) and of libtiff's documentation.
"""

from __future__ import annotations

from typing import IO, Any

from PIL import ImagePalette, TiffImagePlugin, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from components.shared.decoding.pixels import Meaning

# libtiff puts planes of 16 bits together and undoes YCbCr subsampling, neither of which Pillow's own reader does.
TiffImagePlugin.READ_LIBTIFF = True

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 258, 259, 262, 277
_PLANAR, _PREDICTOR, _COLORMAP, _TILE_WIDTH, _TILE_LENGTH = 284, 317, 320, 322, 323
_INK_SET, _EXTRA, _FORMAT = 332, 338, 339

_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "untyped", 5: "complex signed", 6: "complex"}
# Those whose data libtiff takes a predictor back from; elsewhere it passes over the tag.
_PREDICTED = (5, 8, 32946, 34925, 50000)
_WITH_PLANES = ("L", "RGB", "RGBA", "CMYK", "I;16", "I;16B")

ADVICE = "save it with 8 bits per channel"


def meaning_of(image: TiffImageFile, largest_tile: int) -> Meaning:
    """How the values of a TIFF's first page are meant, before it is decoded; a palette of 8-bit colors is corrected.

    Raises:
        ValueError: It would not be read right, or a tile has more than `largest_tile` pixels.
    """
    tags = image.tag_v2
    layout, photometric, compression = _layout(tags), tags.get(_PHOTOMETRIC), tags.get(_COMPRESSION, 1)
    bits, sample_format = _first(tags.get(_BITS, 1)), _first(tags.get(_FORMAT, 1))
    extra = tags.get(_EXTRA, ())
    if photometric is None:
        raise ValueError("is a TIFF that does not say whether 0 is black or white (PhotometricInterpretation)")
    if tags.get(_SUBFILE, 0) & 5:
        raise ValueError("is a TIFF whose first page is a thumbnail or a mask; save the full image as its first page")
    # A palette's entries are numbers however they are declared; of 32 bits, Pillow's own mode I is signed.
    if sample_format == 2 and photometric != 3 and bits != 32:
        raise ValueError(f"is a TIFF of {layout}: it is not known which values are black and white; {ADVICE}")
    if tags.get(_PREDICTOR, 1) != 1 and compression not in _PREDICTED:
        raise ValueError(f"is a TIFF with a predictor and {_compressed(compression)} compression; {ADVICE}")
    if photometric == 0 and image.mode == "F":
        raise ValueError(f"is a TIFF of {layout}, in which 0 is white and no value is black; {ADVICE}")
    in_planes = tags.get(_PLANAR, 1) == 2 and tags.get(_SAMPLES, 1) != 1
    if in_planes and not (image.mode in _WITH_PLANES and bits in (8, 16)):
        raise ValueError(f"is a TIFF of {layout} in separate planes; {ADVICE}, channels side by side")
    if photometric == 2 and image.mode == "RGBA" and not extra:
        raise ValueError("is a TIFF of 4 channels that does not say what the fourth is (ExtraSamples); save it as RGB")
    if photometric == 5 and tags.get(_INK_SET, 1) != 1:
        raise ValueError("is a TIFF of other inks than cyan, magenta, yellow and black; save it as RGB")
    width, length = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    if width * length > largest_tile:
        raise ValueError(f"is a TIFF whose tiles have {width * length} pixels, more than {largest_tile}")
    colormap = tags.get(_COLORMAP)
    if image.mode in ("P", "PA") and colormap and max(colormap) < 256:
        # Colors are 16-bit, and old programs wrote them as 8-bit numbers; libtiff distinguishes them in the same way.
        image.palette = ImagePalette.raw("RGB;L", bytes(colormap))
    return Meaning(
        bits,
        inverted=photometric == 0 and image.mode.startswith("I;16"),
        swapped=tags.prefix == b"MM" and image.mode in ("I", "F"),
        unsigned=image.mode == "I" and sample_format == 1,
    )


def kind_of(stream: IO[bytes]) -> str | None:
    """What kind of TIFF a file holds, for one that Pillow does not know; None if it is no TIFF with a readable page."""
    try:
        stream.seek(0)
        header = stream.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*"):
            return None
        tags = ImageFileDirectory_v2(header)
        stream.seek(tags.next)
        tags.load(stream)
        return f"{_layout(tags)}, {_compressed(tags.get(_COMPRESSION, 1))} compression"
    except Exception:  # a damaged directory makes Pillow raise nearly anything
        return None


def _layout(tags: ImageFileDirectory_v2) -> str:
    number = tags.get(_PHOTOMETRIC)
    names = {value: name for name, value in TiffTags.lookup(_PHOTOMETRIC).enum.items()}
    kind = names.get(number or 0, f"photometric {number}") if number is not None else "unknown"
    form = _FORMATS.get(_first(tags.get(_FORMAT, 1)), "unknown")
    samples = tags.get(_SAMPLES, 1)
    return f"{kind}, {f'{samples} × ' if samples != 1 else ''}{_first(tags.get(_BITS, 1))}-bit {form} values"


def _compressed(number: int) -> str:
    name: str = TiffImagePlugin.COMPRESSION_INFO.get(number, f"number {number}")
    return name.removeprefix("tiff_")


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value
