from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.data_prep.images import MAX_PIXELS, UnreadableImageError, read_image
from components.shared.errors import DataError
from tests.data_prep.building import LUMA, Pixels, as_rgb, encoded, on_background, plain, random_pixels, save

COLOR = random_pixels(6, 8, 3)
GREY = random_pixels(6, 8, seed=1)

LOSSLESS = [
    *((end, mode) for end in ("png", "tiff") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("bmp", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("gif", mode) for mode in ("1", "L", "P")),
    *(("webp", mode) for mode in ("RGB", "RGBA")),
    *((end, mode) for end in ("ppm", "sgi", "tga") for mode in ("L", "RGB")),
    *((end, "RGB") for end in ("pcx", "jp2", "ico")),
    *(("tiff", mode) for mode in ("CMYK", "I", "F")),
]


def _in_mode(mode: str) -> tuple[Image.Image, Pixels]:
    grey, as_color = Image.fromarray(GREY), as_rgb(GREY)
    alpha = random_pixels(6, 8, seed=2)
    match mode:
        case "1":
            black_white: Pixels = (as_color >= 128).astype(np.uint8) * 255
            return Image.fromarray(black_white[..., 0]).convert("1", dither=Image.Dither.NONE), black_white
        case "L":
            return grey, as_color
        case "LA":
            return Image.merge("LA", (grey, Image.fromarray(alpha))), on_background(as_color, alpha)
        case "P":
            image = Image.fromarray(GREY // 16).convert("P")
            palette = random_pixels(16, 3, seed=3)
            image.putpalette(palette.tobytes())
            return image, palette[GREY // 16]
        case "I;16":
            return Image.fromarray(GREY.astype(np.uint16) * 257), as_color
        case "I":
            return Image.fromarray(GREY.astype(np.int32) * 257), as_color
        case "F":
            return Image.fromarray(GREY.astype(np.float32) / 255), as_color
        case "CMYK":
            inks = np.dstack([255 - COLOR, np.zeros((6, 8), np.uint8)])
            return Image.frombytes("CMYK", (8, 6), inks.tobytes()), COLOR
        case "RGBA":
            return Image.fromarray(np.dstack([COLOR, alpha])), on_background(COLOR, alpha)
    return Image.fromarray(COLOR), COLOR


@pytest.mark.parametrize(("end", "mode"), LOSSLESS)
def test_every_format_and_mode_keeps_its_values(tmp_path: Path, end: str, mode: str) -> None:
    image, expected = _in_mode(mode)
    if end == "bmp" and mode == "RGBA":
        expected = COLOR  # Pillow writes it without masks, and then the fourth byte has no meaning
    options: dict[str, dict[str, Any]] = {
        "webp": {"lossless": True, "exact": True},
        "jp2": {"irreversible": False},
        "ico": {"sizes": [(8, 6)]},
    }
    image.save(tmp_path / f"x.{end}", **options.get(end, {}))

    color, grey = (read_image(tmp_path / f"x.{end}", (6, 8, channels)) for channels in (3, 1))

    np.testing.assert_allclose(color, expected, atol=mode in ("LA", "RGBA"))
    np.testing.assert_allclose(grey[..., 0], expected @ LUMA, atol=1 + (mode in ("LA", "RGBA")))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_keeps_its_values_nearly(tmp_path: Path, mode: str) -> None:
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(tmp_path / "x.jpg", quality=95)

    np.testing.assert_allclose(read_image(tmp_path / "x.jpg", (64, 64, 1))[..., 0].astype(int), smooth, atol=6)


@pytest.mark.parametrize("name", ["x.gif", "x.tiff", "x.png", "x.webp", "x.mpo"])
def test_of_several_pictures_in_one_file_the_first_counts(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(plain(value)) for value in (10, 200)]
    options: dict[str, Any] = {"lossless": True} if name == "x.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)

    assert abs(read_image(tmp_path / name, (4, 4, 1)).astype(int) - 10).max() <= (2 if name == "x.mpo" else 0)


@pytest.mark.parametrize("kind", ["big-endian", "little-endian"])
def test_16_bits_are_scaled_to_8_not_clipped(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 128, 129, 257], [300, 32896, 65400, 65535]], dtype=np.uint16)
    if kind == "big-endian":
        data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        (tmp_path / "x.png").write_bytes(_png(4, 2, bit_depth=16, data=zlib.compress(data)))
    else:
        Image.fromarray(values).save(tmp_path / "x.png", "TIFF")

    assert read_image(tmp_path / "x.png", (2, 4, 1))[..., 0].tolist() == [[0, 0, 1, 1], [1, 128, 254, 255]]


def test_floats_beyond_1_count_as_0_to_255(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 99.6], [200.4, 255.0]], dtype=np.float32)).save(tmp_path / "x.tiff")

    assert read_image(tmp_path / "x.tiff", (2, 2, 1))[..., 0].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0, 70000]], dtype=np.int32), "holds integers from 0 to 70000, and 16-bit grey ends at 65535"),
        (np.array([[-1, 5]], dtype=np.int32), "holds integers from -1 to 5"),
        (np.array([[0, 1000]], dtype=np.float32), "holds floating-point values from 0 to 1000"),
        (np.array([[0, np.nan]], dtype=np.float32), "holds floating-point values from nan to nan"),
    ],
)
def test_values_without_a_meaning_in_8_bits_are_refused(
    tmp_path: Path, values: np.ndarray[tuple[int, int], np.dtype[np.float32 | np.int32]], reason: str
) -> None:
    Image.fromarray(values).save(tmp_path / "x.tiff")

    with pytest.raises(UnreadableImageError, match=reason):
        read_image(tmp_path / "x.tiff", (1, 2, 1))


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """How pixels of an EXIF orientation look upright."""
    flipped = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    return np.rot90(flipped, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])


@pytest.mark.parametrize("end", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, end: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if end == "webp" else {}
    Image.fromarray(as_rgb(GREY) if end == "webp" else GREY).save(tmp_path / f"x.{end}", exif=exif, **options)
    upright = turned(GREY, orientation)

    np.testing.assert_array_equal(read_image(tmp_path / f"x.{end}", (*upright.shape, 1))[..., 0], upright)


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03", b"Exif\0\0nonsense", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as prepare() does
def test_damaged_exif_data_leaves_an_image_as_it_is_stored(tmp_path: Path, exif: bytes) -> None:
    save(tmp_path / "x.jpg", plain(77, 6, 8), exif=exif)

    assert np.unique(read_image(tmp_path / "x.jpg", (6, 8, 1))).tolist() == [77]


def test_resizing_is_bilinear(tmp_path: Path) -> None:
    save(tmp_path / "x.png", COLOR)
    expected = Image.fromarray(COLOR).resize((5, 3), Image.Resampling.BILINEAR)

    np.testing.assert_array_equal(read_image(tmp_path / "x.png", (3, 5, 3)), np.asarray(expected))


def _png(width: int, height: int, bit_depth: int = 8, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


ZEROS = zlib.compress(bytes(100))
NOISE = random_pixels(64, 64)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no image at all", "is not an image in a known format"),
        (encoded(NOISE, "PNG")[:200], "truncated"),
        (encoded(NOISE, "JPEG")[:600], "truncated"),
        (encoded(NOISE, "BMP")[:600], "truncated"),
        (encoded(NOISE, "PNG")[:20], "Truncated File Read"),
        (_png(4, 4, data=b"not zlib"), "broken data stream"),
        (_png(20_000, 20_000, data=ZEROS), f"has more than {MAX_PIXELS} pixels"),
        (_png(10_000, 10_000, data=ZEROS), f"has 100000000 pixels, more than {MAX_PIXELS}"),
        (_png(70_000, 10, data=ZEROS), "is 70000×10 pixels, and a side may have 65535"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "is not an image in a known format"),
        (b"8BPS\0\1" + bytes(20), "is not an image in a known format"),
    ],
    ids="empty,text,cut PNG,cut JPEG,cut BMP,header,no zlib,bomb,large,long,EPS,PSD".split(","),
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_decoded_is_unreadable_for_a_reason_of_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "x.png").write_bytes(content)

    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_image(tmp_path / "x.png", (4, 4, 1))

    assert str(caught.value).isprintable()
    assert "0x" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_what_the_operating_system_refuses_is_no_property_of_the_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.png: cannot be read: No such file or directory"):
        read_image(tmp_path / "x.png", (4, 4, 1))
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_image(tmp_path, (4, 4, 1))
