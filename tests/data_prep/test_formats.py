from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from components.data_prep.images import UnreadableImageError, image_extensions, read_image
from tests.data_prep.building import LUMA, Pixels, as_rgb, encoded, prepared
from tests.data_prep.test_images import turned
from tests.data_prep.tiffs import COLOR, GREY

SHAPE = (*COLOR.shape[:2], 3)


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
    # The container's own rotation and EXIF say the same; whoever heeds both turns it twice.
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
    assert abs(_read(tmp_path, encoded(COLOR, "HEIF", quality=-1, exif=exif)) - COLOR).max() <= 10


@pytest.mark.parametrize("mode", ["RGB", "RGB;16", "L", "L;16"])
def test_heic_of_any_depth(tmp_path: Path, mode: str) -> None:
    pixels = COLOR if mode.startswith("RGB") else GREY
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
    whole = encoded(COLOR, "HEIF")
    for data in (whole[: len(whole) // 2], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)):
        with pytest.raises(UnreadableImageError):
            _read(tmp_path, data)


@pytest.mark.parametrize("stored_as", ["CMYK", "YCCK"])
def test_a_jpeg_in_cmyk_is_as_adobe_writes_it_or_set_aside(tmp_path: Path, stored_as: str) -> None:
    inks = np.dstack([255 - COLOR, np.zeros_like(GREY)])
    data = bytes(imagecodecs.jpeg8_encode(255 - inks, level=98, colorspace="CMYK", outcolorspace=stored_as))
    marker = data.index(b"\xff\xee")
    without = data[:marker] + data[marker + 2 + int.from_bytes(data[marker + 2 : marker + 4]) :]

    assert abs(_read(tmp_path, data) - COLOR).max() <= 8
    with pytest.raises(UnreadableImageError, match="does not say whether 0 is ink or none; save it as RGB"):
        _read(tmp_path, without)


def _jpeg2000(pixels: Pixels, bits: int, codec: str) -> bytes:
    values = np.rint(pixels * ((2**bits - 1) / 255)).astype(np.uint8 if bits == 8 else np.uint16)
    return bytes(imagecodecs.jpeg2k_encode(values, codecformat=codec, bitspersample=bits, level=0, reversible=True))


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_2000_in_grey_and_in_color_of_8_bits(tmp_path: Path, bits: int, codec: str) -> None:
    np.testing.assert_allclose(_read(tmp_path, _jpeg2000(GREY, bits, codec), 1)[..., 0], GREY, atol=1)
    if bits == 8:
        np.testing.assert_array_equal(_read(tmp_path, _jpeg2000(COLOR, bits, codec)), COLOR)
        return
    with pytest.raises(UnreadableImageError, match=f"a JPEG 2000 of {bits} bits per color, whose brightest values"):
        _read(tmp_path, _jpeg2000(COLOR, bits, codec))


@pytest.mark.parametrize("white", [1, 100, 255, 1023, 4095, 65535])
def test_portable_maps_say_themselves_what_is_white(tmp_path: Path, white: int) -> None:
    for kind, pixels in (("P5", GREY), ("P6", COLOR)):
        values = np.rint(pixels * (white / 255))
        head = f"{kind}\n{SHAPE[1]} {SHAPE[0]}\n{white}\n".encode()
        read = _read(tmp_path, head + values.astype(">u2" if white > 255 else np.uint8).tobytes())
        expected = values * (255 / white)
        np.testing.assert_allclose(read, expected if pixels.ndim == 3 else as_rgb(expected), atol=1)


def test_a_color_png_of_16_bits(tmp_path: Path) -> None:
    data = bytes(imagecodecs.png_encode(COLOR.astype(np.uint16) * 257))
    np.testing.assert_allclose(_read(tmp_path, data), COLOR, atol=1)


@pytest.mark.parametrize(("first", "is_warned"), [(1.0, True), (2.0, False), (0.0, False)])
def test_two_scales_of_floating_point_values_are_a_warning(
    tmp_path: Path, log: Callable[[], str], first: float, is_warned: bool
) -> None:
    for index, value in enumerate([first, 200.0, 100.0, 30.0]):
        folder = tmp_path / "data" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), value, np.float32)).save(folder / f"{index}.tif")

    prepared(tmp_path / "data")

    told = log()
    assert f"{4 - (first <= 1)} image(s) have floating-point values beyond 1, which are read as 0 to 255" in told
    assert ("1 image(s) have floating-point values of at most 1, which are read as 0 to 1" in told) == is_warned
    assert ("WARNING floating-point images are read by two scales" in told) == is_warned
