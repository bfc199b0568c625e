from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.pixels import Note
from tests.shared.decoding.pictures import (
    LUMA,
    Pixels,
    as_rgb,
    encoded,
    on_background,
    png,
    random_pixels,
    read_image,
    save,
)

HEIGHT, WIDTH = 6, 8
COLOR = random_pixels(HEIGHT, WIDTH, 3)
GREY = random_pixels(HEIGHT, WIDTH, seed=1)
ALPHA = random_pixels(HEIGHT, WIDTH, seed=2)
ALPHA[0] = 0
ALPHA[1] = 255
WHITE, BLACK, TEAL = (255, 255, 255), (0, 0, 0), (10, 140, 130)
Shown = tuple[bytes, Pixels, Pixels]  # a file, its colors, its alpha channel


def _rgba(kind: str, **options: Any) -> Shown:
    return encoded(np.dstack([COLOR, ALPHA]), kind, **options), COLOR, ALPHA


def _la(kind: str) -> Shown:
    grey_and_alpha = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    return encoded(grey_and_alpha, kind), as_rgb(GREY), ALPHA


def _palette(kind: str, transparency: int | bytes) -> Shown:
    indices = GREY // 16
    palette = random_pixels(16, 3, seed=3)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette.tobytes())
    opacity = np.full(16, 255, np.uint8)
    if isinstance(transparency, int):
        opacity[transparency] = 0
    else:
        opacity[: len(transparency)] = np.frombuffer(transparency, np.uint8)
    return encoded(image, kind, transparency=transparency), palette[indices], opacity[indices]


def _png(depth: int, color_type: int, rows: list[bytes], transparent: bytes = b"") -> bytes:
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return png(WIDTH, HEIGHT, depth, color_type, data, transparent)


def _grey_png(depth: int) -> Shown:
    values = (GREY.astype(np.uint32) * (2**depth - 1) // 255).astype(np.uint16)
    transparent = int(values[2, 3])
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits.astype(np.uint8)]
    shown = np.rint(values * (255 / (2**depth - 1))).astype(np.uint8)
    alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
    return _png(depth, 0, rows, struct.pack(">H", transparent)), as_rgb(shown), alpha


def _color_png() -> Shown:
    color = COLOR.copy()
    color[3, :4] = (1, 2, 3)
    alpha = np.where((color == (1, 2, 3)).all(axis=2), 0, 255).astype(np.uint8)
    return _png(8, 2, [row.tobytes() for row in color], struct.pack(">HHH", 1, 2, 3)), color, alpha


def _16_bit_png() -> Shown:
    values = np.dstack([COLOR, ALPHA]).astype(">u2") * 257
    return _png(16, 6, [row.astype(">u2").tobytes() for row in values]), COLOR, ALPHA


def _tga(alpha_bits: int) -> bytes:
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 32, 0x20 | alpha_bits)
    return header + np.dstack([COLOR[..., ::-1], ALPHA]).tobytes()


EXACT: dict[str, Callable[[], Shown]] = {
    "PNG RGBA": lambda: _rgba("PNG"),
    "PNG LA": lambda: _la("PNG"),
    "PNG RGBA 16-bit": _16_bit_png,
    "PNG palette, one entry": lambda: _palette("PNG", 3),
    "PNG palette, some entries in part": lambda: _palette("PNG", bytes([0, 128, 255, 7])),
    **{f"PNG {depth}-bit grey, one value": partial(_grey_png, depth) for depth in (1, 2, 4, 8, 16)},
    "PNG RGB, one color": _color_png,
    "GIF": lambda: _palette("GIF", 3),
    "TIFF RGBA": lambda: _rgba("TIFF"),
    "TIFF LA": lambda: _la("TIFF"),
    "WebP": lambda: _rgba("WEBP", lossless=True, exact=True),
    "ICO": lambda: _rgba("ICO", sizes=[(WIDTH, HEIGHT)]),
    "SGI": lambda: _rgba("SGI"),
    "DDS": lambda: _rgba("DDS"),
    "QOI": lambda: _rgba("QOI"),
    "JPEG 2000": lambda: _rgba("JPEG2000", irreversible=False),
    "TGA": lambda: (_tga(8), COLOR, ALPHA),
}


@pytest.mark.parametrize("background", [WHITE, BLACK, TEAL])
@pytest.mark.parametrize("kind", EXACT)
def test_transparent_parts_show_the_background(tmp_path: Path, kind: str, background: tuple[int, int, int]) -> None:
    data, color, alpha = EXACT[kind]()
    (tmp_path / "x").write_bytes(data)
    notes: list[Note] = []

    shown = read_image(tmp_path / "x", (HEIGHT, WIDTH, 3), background, notes=notes)
    grey = read_image(tmp_path / "x", (HEIGHT, WIDTH, 1), background)

    expected = on_background(color, alpha, background)
    np.testing.assert_allclose(shown.astype(int), expected, atol=1)
    np.testing.assert_allclose(grey[..., 0], expected @ LUMA, atol=2)
    assert notes == ["transparent"]


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("background", [WHITE, TEAL])
def test_so_do_those_of_lossy_formats(tmp_path: Path, kind: str, background: tuple[int, int, int]) -> None:
    square = np.zeros((32, 32, 4), np.uint8)
    square[8:24, 8:24] = (200, 30, 30, 255)
    (tmp_path / "x").write_bytes(encoded(square, kind, quality=95))

    shown = read_image(tmp_path / "x", (32, 32, 3), background).astype(int)

    assert abs(shown[:5] - background).max() <= 3
    assert abs(shown[12:20, 12:20] - (200, 30, 30)).max() <= 8


@pytest.mark.parametrize(
    "kind", [kind for kind in EXACT if kind.split()[-1] not in ("entry", "part", "value", "color", "GIF")]
)
def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ALPHA", np.full_like(ALPHA, 255))
    data, color, _ = EXACT[kind]()
    (tmp_path / "x").write_bytes(data)
    notes: list[Note] = []

    shown = read_image(tmp_path / "x", (HEIGHT, WIDTH, 3), TEAL, notes=notes)

    np.testing.assert_array_equal(shown, color)
    assert notes == []


def test_a_background_in_grey_is_its_luma(tmp_path: Path) -> None:
    save(tmp_path / "x.png", np.zeros((4, 4, 4), np.uint8))
    assert np.unique(read_image(tmp_path / "x.png", (4, 4, 1), (255, 0, 0))).tolist() == [76]
    assert np.unique(read_image(tmp_path / "x.png", (4, 4, 1), (9, 9, 9))).tolist() == [9]


def test_parts_are_composited_before_the_size_changes(tmp_path: Path) -> None:
    # Black next to transparent green: resized first, green would show between them.
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:, 4:] = (0, 255, 0, 0)
    picture[:, :4, 3] = 255
    save(tmp_path / "x.png", picture)

    shown = read_image(tmp_path / "x.png", (2, 2, 3)).astype(int)

    assert np.ptp(shown, axis=2).max() == 0


def test_a_fourth_channel_that_is_no_alpha_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(_tga(0))
    notes: list[Note] = []
    np.testing.assert_array_equal(read_image(tmp_path / "x", (HEIGHT, WIDTH, 3), TEAL, notes=notes), COLOR)
    assert notes == []


def test_one_transparent_color_of_16_bits_is_set_aside(tmp_path: Path) -> None:
    rows = [(row.astype(">u2") * 257).astype(">u2").tobytes() for row in COLOR]
    (tmp_path / "x").write_bytes(_png(16, 2, rows, struct.pack(">HHH", 1, 2, 3)))
    with pytest.raises(UnreadableImageError, match="a PNG of 16 bits with one transparent color"):
        read_image(tmp_path / "x", (HEIGHT, WIDTH, 3))
