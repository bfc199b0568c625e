from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from components.data_prep.images import UnreadableImageError, image_extensions, read_image
from components.shared.logs import log_to_stderr
from tests.data_prep.building import Pixels, prepared
from tests.data_prep.test_images import UPRIGHT
from tests.data_prep.tiffs import COLOR, GREY

SHAPE = (*COLOR.shape[:2], 3)
LUMA = np.array([0.299, 0.587, 0.114])


def _saved(pixels: Pixels, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _read(folder: Path, data: bytes, channels: int = 3) -> Any:
    (folder / "x").write_bytes(data)
    return read_image(folder / "x", (*SHAPE[:2], channels)).astype(int)


def test_an_ending_is_an_images_where_its_format_is_read() -> None:
    endings = image_extensions()

    read = ".png .apng .jpg .jpeg .jfif .mpo .gif .bmp .dib .tif .tiff .webp .avif .jp2 .heic .heif .hif .ico .psd .tga"
    assert set(read.split()) <= endings
    assert not set(".pdf .h5 .hdf .mpg .mpeg .eps .ps .fits .grib .bufr .wmf .emf .fli .im .txt".split()) & endings
    assert all(ending == ending.lower() for ending in endings)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_heic_and_avif_are_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    # The container's own rotation and EXIF say the same; whoever heeds both turns it twice.
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.full((48, 32), 250, np.uint8)
    corner[:16, :8] = 5
    (tmp_path / "x").write_bytes(_saved(np.repeat(corner[..., None], 3, axis=2), kind, quality=90, exif=exif.tobytes()))
    turned = {
        1: corner,
        2: corner[:, ::-1],
        3: corner[::-1, ::-1],
        4: corner[::-1],
        5: corner.T,
        6: np.rot90(corner, -1),
        7: corner[::-1, ::-1].T,
        8: np.rot90(corner),
    }[orientation]

    read = read_image(tmp_path / "x", (*turned.shape, 1))[..., 0].astype(int)

    assert abs(read - turned).mean() < 3


def test_of_heic_exif_orientation_alone_turns_nothing(tmp_path: Path) -> None:
    # HEIF says it by irot and imir (ISO/IEC 23008-12, A.2.3); pillow-heif writes none for EXIF that is not bytes.
    exif = Image.Exif()
    exif[0x0112] = 6
    assert abs(_read(tmp_path, _saved(COLOR, "HEIF", quality=-1, exif=exif)) - COLOR).max() <= 10


@pytest.mark.parametrize("mode", ["RGB", "RGB;16", "L", "L;16"])
def test_heic_of_any_depth(tmp_path: Path, mode: str) -> None:
    pixels = COLOR if mode.startswith("RGB") else GREY
    data = (pixels.astype(np.uint16) * 257 if mode.endswith("16") else pixels).tobytes()
    file = pillow_heif.from_bytes(mode=mode, size=(SHAPE[1], SHAPE[0]), data=data)
    stream = io.BytesIO()
    file.save(stream, quality=-1)
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

    assert abs(_read(tmp_path, stream.getvalue()) - expected).max() <= 10
    assert abs(_read(tmp_path, stream.getvalue(), 1)[..., 0] - expected @ LUMA).max() <= 10


def test_of_several_pictures_in_one_file_the_main_one_counts(tmp_path: Path) -> None:
    file = pillow_heif.from_pillow(Image.fromarray(np.full(SHAPE, 10, np.uint8)))
    file.add_from_pillow(Image.fromarray(np.full(SHAPE, 200, np.uint8)))
    stream = io.BytesIO()
    file.save(stream, primary_index=1)
    assert abs(_read(tmp_path, stream.getvalue()) - 200).max() <= 3


_WITHOUT_HEIF = """
import sys
sys.modules["pillow_heif"] = None  # as where it is not installed
from pathlib import Path
from components.data_prep.images import UnreadableImageError, image_extensions, read_image
assert not {".heic", ".heif", ".hif"} & image_extensions()
assert ".jpg" in image_extensions()
try:
    read_image(Path(sys.argv[1]), (4, 4, 1))
except UnreadableImageError as error:
    print(error)
"""


def test_without_the_extra_heic_is_no_image_and_the_reason_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(_saved(COLOR, "HEIF"))
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_HEIF, tmp_path / "x.jpg"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "is HEIC, which is read after pip install 'shutterline[heic]'; or convert it to JPEG\n"


def test_a_damaged_heic_is_set_aside(tmp_path: Path) -> None:
    whole = _saved(COLOR, "HEIF")
    for data in (whole[: len(whole) // 2], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)):
        with pytest.raises(UnreadableImageError):
            _read(tmp_path, data)


INKS = np.concatenate([255 - COLOR, np.zeros_like(GREY)[..., None]], axis=-1)


@pytest.mark.parametrize("stored_as", ["CMYK", "YCCK"])
def test_a_jpeg_in_cmyk_is_as_adobe_writes_it(tmp_path: Path, stored_as: str) -> None:
    data = bytes(imagecodecs.jpeg8_encode(255 - INKS, level=98, colorspace="CMYK", outcolorspace=stored_as))
    assert abs(_read(tmp_path, data) - COLOR).max() <= 8


@pytest.mark.parametrize("stored_as", ["CMYK", "YCCK"])
def test_a_jpeg_in_cmyk_that_may_be_inverted_is_set_aside(tmp_path: Path, stored_as: str) -> None:
    data = bytes(imagecodecs.jpeg8_encode(255 - INKS, level=98, colorspace="CMYK", outcolorspace=stored_as))
    start = data.index(b"\xff\xee")
    data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    with pytest.raises(UnreadableImageError, match="does not say whether 0 is ink or none; save it as RGB"):
        _read(tmp_path, data)


def _jpeg2000(pixels: Pixels, bits: int, codec: str = "jp2") -> bytes:
    values = np.rint(pixels * ((2**bits - 1) / 255)).astype(np.uint8 if bits == 8 else np.uint16)
    return bytes(imagecodecs.jpeg2k_encode(values, codecformat=codec, bitspersample=bits, level=0, reversible=True))


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_2000_in_grey(tmp_path: Path, bits: int, codec: str) -> None:
    np.testing.assert_allclose(_read(tmp_path, _jpeg2000(GREY, bits, codec), 1)[..., 0], GREY, atol=1)


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_jpeg_2000_in_color_of_more_than_8_bits_is_set_aside(tmp_path: Path, bits: int, codec: str) -> None:
    np.testing.assert_array_equal(_read(tmp_path, _jpeg2000(COLOR, 8, codec)), COLOR)
    with pytest.raises(UnreadableImageError, match=f"a JPEG 2000 of {bits} bits per color, whose brightest values"):
        _read(tmp_path, _jpeg2000(COLOR, bits, codec))


@pytest.mark.parametrize("white", [1, 100, 255, 1023, 4095, 65535])
def test_portable_maps_say_themselves_what_is_white(tmp_path: Path, white: int) -> None:
    for kind, pixels in (("P5", GREY), ("P6", COLOR)):
        values = np.rint(pixels * (white / 255))
        head = f"{kind}\n{SHAPE[1]} {SHAPE[0]}\n{white}\n".encode()
        read = _read(tmp_path, head + values.astype(">u2" if white > 255 else np.uint8).tobytes())
        expected = values * (255 / white)
        expected = expected if pixels.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
        np.testing.assert_allclose(read, expected, atol=1)


def test_a_color_png_of_16_bits(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(imagecodecs.png_encode(COLOR.astype(np.uint16) * 257))
    np.testing.assert_allclose(read_image(tmp_path / "x", SHAPE).astype(int), COLOR, atol=1)


def test_of_a_jpeg_with_more_pictures_behind_it_the_first_counts(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full(SHAPE, value, np.uint8)) for value in (10, 200))
    first.save(tmp_path / "x.mpo", save_all=True, append_images=[second])
    assert abs(read_image(tmp_path / "x.mpo", SHAPE).astype(int) - 10).max() <= 2


@pytest.mark.parametrize(("first", "is_warned"), [(1.0, True), (2.0, False), (0.0, False)])
def test_two_scales_of_floating_point_values_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: float, is_warned: bool
) -> None:
    log_to_stderr()
    data = tmp_path / "data"
    for index, value in enumerate([first, 200.0, 100.0, 30.0]):
        folder = data / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), value, np.float32)).save(folder / f"{index}.tif")

    prepared(data)

    log = capsys.readouterr().err
    assert f"{4 - (first <= 1)} image(s) have floating-point values beyond 1, which are read as 0 to 255" in log
    assert ("1 image(s) have floating-point values of at most 1, which are read as 0 to 1" in log) == is_warned
    assert ("WARNING floating-point images are read by two scales" in log) == is_warned
