"""What small PNGs and large JPEGs are decoded by gives what full decoding gives: equal, or within a stated bound."""

from __future__ import annotations

import struct
import zlib
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.shared.decoding import images
from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.images import render
from components.shared.decoding.rendering import Rendering
from tests.shared.decoding.pictures import Pixels, encoded, random_pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind)) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


_KINDS = "gAMA sRGB pHYs tIME bKGD tEXt iTXt zTXt eXIf tRNS PLTE acTL prVt IDAT".split()
_TEXTS = (
    b"Software\0x",
    b"Comment\0\xff",
    b"exif\0x",
    b"transparency\0\1",
    b"interlace\0\1",
    b"Raw profile type exif\0x",
)


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """PNGs of any color type and depth with chunks of any kind in any order, whole and damaged."""
    color, depth = draw(st.sampled_from([(0, 8), (2, 8), (4, 8), (6, 8), (3, 8), (0, 1), (0, 16), (2, 16), (5, 8)]))
    width, height = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    interlaced = draw(st.sampled_from([0, 0, 0, 1]))
    row = (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 5: 1, 6: 4}[color] + 7) // 8
    count = draw(st.sampled_from([height, height, height, height + 1, max(0, height - 1)]))
    line = st.tuples(st.integers(0, 5), st.binary(min_size=row, max_size=row))
    rows = b"".join(bytes([drawn]) + data for drawn, data in draw(st.lists(line, min_size=count, max_size=count)))
    deflated = zlib.compress(rows) + draw(st.sampled_from([b"", b"", b"more"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(deflated)), max_size=2)))
    data = [deflated[a:b] for a, b in zip([0, *cuts], [*cuts, len(deflated)], strict=True)]
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *((b"IDAT", part) for part in data), (b"IEND", b"")]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(_KINDS)).encode()
        text = name in (b"tEXt", b"iTXt", b"zTXt")
        content = draw(st.sampled_from(_TEXTS) if text else st.binary(max_size=9))
        chunks.insert(draw(st.integers(0, len(chunks))), (name, content))
    wrong = draw(st.integers(0, 3 * len(chunks)))
    content = _SIGNATURE + b"".join(_chunk(*chunk, wrong=int(wrong == i)) for i, chunk in enumerate(chunks))
    return content[: draw(st.sampled_from([len(content)] * 4 + [draw(st.integers(0, len(content)))]))]


def _outcome(content: bytes, rendering: Rendering) -> tuple[Any, ...]:
    notes: list[Any] = []
    try:
        found = render(content, rendering, notes=notes)
    except UnreadableImageError as error:
        return str(error), error.digest
    return found.pixels.tobytes(), *found[1:], notes


@settings(max_examples=400, deadline=None)
@given(content=pngs(), rendering=st.builds(Rendering, st.sampled_from([(4, 4, 1), (5, 3, 3)]), fit=st.just("pad")))
def test_a_png_is_what_it_is_to_pillows_reader(content: bytes, rendering: Rendering) -> None:
    fast = _outcome(content, rendering)
    with mock.patch.object(images, "simple_png", return_value=None):
        assert fast == _outcome(content, rendering)


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (28, 28, 4), (28, 28, 2)])
def test_usual_pngs_are_decoded_the_fast_way(shape: tuple[int, ...]) -> None:
    image = Image.fromarray(random_pixels(*shape), None)
    for options in ({}, {"optimize": True}, {"dpi": (72, 72)}, {"compress_level": 0}):
        content = encoded(image, "PNG", **options)
        with mock.patch.object(Image, "open", side_effect=AssertionError):
            assert render(content, Rendering((28, 28, 3))).kind == f"PNG {image.mode}"


def _photograph(width: int, height: int, seed: int) -> Pixels:
    """Noise whose amplitude falls with its frequency, as that of photographs does, and a few edges."""
    random = np.random.default_rng(seed)
    across, down = np.fft.rfftfreq(width)[None], np.fft.fftfreq(height)[:, None]
    frequency = np.sqrt(across * across + down * down)
    frequency[0, 0] = 1
    noise = (np.fft.rfft2(random.normal(size=(height, width))) / frequency for _ in range(4))
    planes = [np.fft.irfft2(each, (height, width)) for each in noise]
    planes = [(plane - plane.mean()) / plane.std() for plane in planes]
    pixels = np.stack([120 + 45 * planes[0] + 20 * plane for plane in planes[1:]], axis=-1)
    for _ in range(8):
        top, left = random.integers(0, height), random.integers(0, width)
        pixels[top : top + height // 5, left : left + width // 5] = random.integers(0, 256, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _in_full(content: bytes, rendering: Rendering) -> npt.NDArray[np.int64]:
    with mock.patch.object(images, "JpegImageFile", ()):
        return render(content, rendering).pixels.astype(int)


# All orientations; each fit upright and turned, with each subsampling, which goes by the orientation, as below.
@pytest.mark.parametrize(("fit", "orientation"), [
    *(("stretch", number) for number in (1, 3, 5)), *(("crop", number) for number in (2, 4, 6)),
    *(("pad", number) for number in (2, 3, 7, 8)),
])  # fmt: skip
def test_jpegs_at_a_smaller_scale_are_within_the_bound(orientation: int, fit: Any) -> None:
    # 609 and 811 are no multiples of 2, 4 and 8: the last pixels of the smaller one are in part none of the image.
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = _photograph(811, 609, orientation)
    options: dict[str, Any] = {"exif": exif, "progressive": orientation % 2 == 0, "subsampling": orientation % 3}
    content = encoded(pixels, "JPEG", quality=90, **options)
    for shape, interpolation in (
        ((100, 72, 3), "bilinear"),
        ((64, 64, 3), "lanczos"),
        ((50, 70, 3), "bicubic"),
        ((64, 48, 1), "bilinear"),
        ((300, 200, 1), "bilinear"),  # in full, but the luma alone
        ((64, 48, 3), "box"),
        ((64, 48, 3), "nearest"),
    ):
        rendering = Rendering(shape, (10, 200, 30), fit, interpolation)  # type: ignore[arg-type]
        found, full = render(content, rendering), _in_full(content, rendering)
        difference = abs(found.pixels.astype(int) - full)
        if interpolation in ("box", "nearest"):
            assert not difference.any(), "in full"
        elif shape[0] < 100:
            assert difference.any(), "at a smaller scale"
        assert difference.mean() <= 1.2, (shape, interpolation)
        assert np.percentile(difference, 99) <= 6, (shape, interpolation)
        assert difference.max() <= 16, (shape, interpolation)
        assert (found.width, found.height) == ((811, 609) if orientation < 5 else (609, 811))
