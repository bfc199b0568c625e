from __future__ import annotations

import io
import tempfile
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.images import (
    MAX_PIXELS,
    DecodingMemory,
    image_extensions,
)
from components.shared.errors import DataError
from tests.shared.decoding.pictures import (
    LUMA,
    Pixels,
    as_rgb,
    encoded,
    on_background,
    plain,
    png,
    random_pixels,
    read_image,
    save,
)
from tests.shared.decoding.tiffs import COLOR as SMOOTH
from tests.shared.decoding.tiffs import GREY as RAMP

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
        (tmp_path / "x.png").write_bytes(png(4, 2, 16, 0, zlib.compress(data)))
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
        (png(4, 4, 8, 0, b"not zlib"), "broken data stream"),
        (png(20_000, 20_000, 8, 0, ZEROS), f"has more than {MAX_PIXELS} pixels"),
        (png(10_000, 10_000, 8, 0, ZEROS), f"has 100000000 pixels, more than {MAX_PIXELS}"),
        (png(70_000, 10, 8, 0, ZEROS), "is 70000×10 pixels, and a side may have 65535"),
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


SHAPE = (*SMOOTH.shape[:2], 3)


def _read(folder: Path, data: bytes, channels: int = 3) -> Any:
    (folder / "x").write_bytes(data)
    return read_image(folder / "x", (*SHAPE[:2], channels)).astype(int)


def test_an_ending_is_an_images_where_its_format_is_read() -> None:
    endings = image_extensions()

    read = ".png .apng .jpg .jpeg .jfif .mpo .gif .bmp .dib .tif .tiff .webp .avif .jp2 .heic .heif .hif .ico .tga"
    assert set(read.split()) <= endings
    assert not set(".pdf .h5 .hdf .mpg .mpeg .eps .ps .fits .grib .bufr .wmf .emf .fli .im .psd".split()) & endings
    assert all(ending == ending.lower() for ending in endings)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_heic_and_avif_are_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    # The container's own rotation and EXIF say the same; applying both turns it twice.
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.full((48, 32), 250, np.uint8)
    corner[:16, :8] = 5
    (tmp_path / "x").write_bytes(encoded(as_rgb(corner), kind, quality=90, exif=exif.tobytes()))
    upright = turned(corner, orientation)

    assert abs(read_image(tmp_path / "x", (*upright.shape, 1))[..., 0].astype(int) - upright).mean() < 3


def test_of_heic_exif_orientation_alone_turns_nothing(tmp_path: Path) -> None:
    # HEIF says it by irot and imir (ISO/IEC 23008-12, A.2.3); pillow-heif writes none for EXIF that is not bytes.
    exif = Image.Exif()
    exif[0x0112] = 6
    assert abs(_read(tmp_path, encoded(SMOOTH, "HEIF", quality=-1, exif=exif)) - SMOOTH).max() <= 10


@pytest.mark.parametrize("mode", ["RGB", "RGB;16", "L", "L;16"])
def test_heic_of_any_depth(tmp_path: Path, mode: str) -> None:
    pixels = SMOOTH if mode.startswith("RGB") else RAMP
    data = (pixels.astype(np.uint16) * 257 if mode.endswith("16") else pixels).tobytes()
    stream = io.BytesIO()
    pillow_heif.from_bytes(mode=mode, size=(SHAPE[1], SHAPE[0]), data=data).save(stream, quality=-1)
    expected = pixels if pixels.ndim == 3 else as_rgb(pixels)

    assert abs(_read(tmp_path, stream.getvalue()) - expected).max() <= 10
    assert abs(_read(tmp_path, stream.getvalue(), 1)[..., 0] - expected @ LUMA).max() <= 10


def test_of_several_pictures_in_a_heic_the_main_one_counts(tmp_path: Path) -> None:
    file = pillow_heif.from_pillow(Image.fromarray(np.full(SHAPE, 10, np.uint8)))
    file.add_from_pillow(Image.fromarray(np.full(SHAPE, 200, np.uint8)))
    stream = io.BytesIO()
    file.save(stream, primary_index=1)
    assert abs(_read(tmp_path, stream.getvalue()) - 200).max() <= 3


def test_a_damaged_heic_is_set_aside(tmp_path: Path) -> None:
    whole = encoded(SMOOTH, "HEIF")
    for data in (whole[: len(whole) // 2], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)):
        with pytest.raises(UnreadableImageError):
            _read(tmp_path, data)


@pytest.mark.parametrize("stored_as", ["CMYK", "YCCK"])
def test_a_jpeg_in_cmyk_is_as_adobe_writes_it_or_set_aside(tmp_path: Path, stored_as: str) -> None:
    inks = np.dstack([255 - SMOOTH, np.zeros_like(RAMP)])
    data = bytes(imagecodecs.jpeg8_encode(255 - inks, level=98, colorspace="CMYK", outcolorspace=stored_as))
    marker = data.index(b"\xff\xee")
    without = data[:marker] + data[marker + 2 + int.from_bytes(data[marker + 2 : marker + 4]) :]

    assert abs(_read(tmp_path, data) - SMOOTH).max() <= 8
    with pytest.raises(UnreadableImageError, match="does not say whether 0 is ink or none; save it as RGB"):
        _read(tmp_path, without)


def _jpeg2000(pixels: Pixels, bits: int, codec: str) -> bytes:
    values = np.rint(pixels * ((2**bits - 1) / 255)).astype(np.uint8 if bits == 8 else np.uint16)
    return bytes(imagecodecs.jpeg2k_encode(values, codecformat=codec, bitspersample=bits, level=0, reversible=True))


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_2000_in_grey_and_in_color_of_8_bits(tmp_path: Path, bits: int, codec: str) -> None:
    np.testing.assert_allclose(_read(tmp_path, _jpeg2000(RAMP, bits, codec), 1)[..., 0], RAMP, atol=1)
    if bits == 8:
        np.testing.assert_array_equal(_read(tmp_path, _jpeg2000(SMOOTH, bits, codec)), SMOOTH)
        return
    with pytest.raises(UnreadableImageError, match=f"a JPEG 2000 of {bits} bits per color, whose brightest values"):
        _read(tmp_path, _jpeg2000(SMOOTH, bits, codec))


@pytest.mark.parametrize("white", [1, 100, 255, 1023, 4095, 65535])
def test_portable_maps_say_themselves_what_is_white(tmp_path: Path, white: int) -> None:
    for kind, pixels in (("P5", RAMP), ("P6", SMOOTH)):
        values = np.rint(pixels * (white / 255))
        head = f"{kind}\n{SHAPE[1]} {SHAPE[0]}\n{white}\n".encode()
        read = _read(tmp_path, head + values.astype(">u2" if white > 255 else np.uint8).tobytes())
        expected = values * (255 / white)
        np.testing.assert_allclose(read, expected if pixels.ndim == 3 else as_rgb(expected), atol=1)


def test_a_color_png_of_16_bits(tmp_path: Path) -> None:
    data = bytes(imagecodecs.png_encode(SMOOTH.astype(np.uint16) * 257))
    np.testing.assert_allclose(_read(tmp_path, data), SMOOTH, atol=1)


@given(
    start=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"RIFF"]
    ),
    content=st.binary(max_size=120),
)
def test_any_image_file(start: bytes, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "x.png"
        file.write_bytes(start + content)
        problem = ""
        try:
            read_image(file, (4, 4, 1), memory=DecodingMemory(2**30, 2**30))
        except UnreadableImageError as error:
            problem = str(error)
        assert problem.isprintable()
