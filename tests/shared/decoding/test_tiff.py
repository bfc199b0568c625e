from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.images import DecodingMemory
from components.shared.decoding.pixels import Note
from tests.shared.decoding.pictures import LUMA, Pixels, read_image, save
from tests.shared.decoding.tiffs import COLOR, GREY, Tiff, tiffs

MEMORY = DecodingMemory(2**34, 2**34)


def _read_grid(grid: Iterable[Tiff], path: Path) -> tuple[Counter[str], list[str]]:
    found: Counter[str] = Counter()
    wrong = []
    for tiff in grid:
        try:
            seen = tiff.write(path)
        except Exception:
            found["not written"] += 1  # tifffile does not do this
            continue
        shape = (*seen.shape[:2], 3 if seen.ndim == 3 else 1)
        try:
            read = read_image(path, shape, memory=MEMORY).reshape(seen.shape)
        except UnreadableImageError as error:
            found["set aside"] += 1
            if not str(error).isprintable() or len(str(error)) < 20:
                wrong.append(f"{tiff}: {error}")
            continue
        off = int(abs(read.astype(int) - seen).max())
        found["right" if off <= tiff.steps else "wrong"] += 1
        if off > tiff.steps:
            wrong.append(f"{tiff}: off by {off}")
    return found, wrong


def test_a_tiff_is_read_right_or_set_aside(tmp_path: Path) -> None:
    found, wrong = _read_grid(tiffs(), tmp_path / "x.tif")
    assert wrong == []
    assert found["right"] > 120
    assert found["set aside"] > 120


@pytest.mark.slow
def test_tiffs_of_each_kind_are_read_right_or_set_aside(tmp_path: Path) -> None:
    # One in seven of all combinations: any two properties are together in one of these or those above.
    found, wrong = _read_grid(islice(tiffs(all_of_them=True), None, None, 7), tmp_path / "x.tif")
    assert wrong == []
    assert found["right"] > 200


TWELVE: Pixels = np.rint(GREY.astype(float) * 4095 / 255).astype(np.uint16)


BLACK_0, WHITE_0 = {"photometric": "minisblack"}, {"photometric": "miniswhite"}


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (np.moveaxis(COLOR, -1, 0).astype(np.uint16) * 257, {"photometric": "rgb"}, COLOR),
        (GREY.astype(np.uint16) * 257, WHITE_0, 255 - GREY),
        (TWELVE, BLACK_0 | {"bitspersample": 12}, GREY),
        ((GREY / 255).astype(np.float32), BLACK_0 | {"byteorder": ">", "compression": "lzw"}, GREY),
        (GREY.astype(np.int32) * 257, BLACK_0 | {"byteorder": ">"}, GREY),
        (GREY.astype(np.uint32) * 257, BLACK_0, GREY),
    ],
    ids="planes of 16 bits,white is 0,12 bits,big-endian floats,big-endian integers,unsigned 32 bits".split(","),
)
def test_a_tiff_is_read_as_its_8_bit_twin(
    tmp_path: Path, values: Any, options: dict[str, Any], expected: Pixels
) -> None:
    tifffile.imwrite(tmp_path / "x.tif", values, **options)
    shape = (*expected.shape[:2], 3 if expected.ndim == 3 else 1)

    read = read_image(tmp_path / "x.tif", shape, memory=MEMORY).reshape(expected.shape)

    np.testing.assert_allclose(read.astype(int), expected, atol=1)


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (
            (GREY.astype(int) - 128).astype(np.int8),
            BLACK_0,
            "BlackIsZero, 8-bit signed values: it is not known which values are black and white; save it with 8 bits",
        ),
        (GREY.astype(np.int16) * 100, BLACK_0, "BlackIsZero, 16-bit signed values: it is not known"),
        (
            (GREY / 255).astype(np.float32),
            WHITE_0,
            "WhiteIsZero, 32-bit floating-point values, in which 0 is white and no value is black",
        ),
        (
            (GREY / 255).astype(np.float64),
            BLACK_0,
            r"cannot be read \(BlackIsZero, 64-bit floating-point values, raw compression\)",
        ),
        (
            GREY.astype(np.uint16) * 257,
            WHITE_0 | {"byteorder": ">"},
            r"of a kind that cannot be read \(WhiteIsZero, 16-bit unsigned values, raw compression\)",
        ),
        (GREY, BLACK_0 | {"subfiletype": 1}, "whose first page is a thumbnail or a mask"),
        (
            GREY,
            BLACK_0 | {"compression": "packbits", "predictor": True},
            "a TIFF with a predictor and packbits compression",
        ),
        (
            np.full((32, 48), 2**32 - 1, np.uint32),
            BLACK_0,
            "holds integers from 4294967295 to 4294967295, and 16-bit grey ends at 65535",
        ),
        (COLOR, {"photometric": "rgb", "compression": "webp"}, "is damaged, or its compression is not supported here"),
    ],
    ids="int8,int16,floats of white 0,doubles,big-endian white 0,thumbnail,predictor,uint32,WebP".split(","),
)
def test_what_would_be_read_wrong_is_set_aside_with_the_reason(
    tmp_path: Path, values: Any, options: dict[str, Any], reason: str
) -> None:
    tifffile.imwrite(tmp_path / "x.tif", values, **options)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_image(tmp_path / "x.tif", (*values.shape[:2], 1), memory=MEMORY)
    assert str(caught.value).isprintable()


Tags = dict[int, tuple[int, int, int]]  # type, count and value (or offset) by number


def _by_hand(side: int, photometric: int | None, data: bytes, more: Tags, tail: bytes = b"") -> bytes:
    """A square TIFF of 8-bit values, with more tags beside the usual ones or in their place; `tail` is at byte 1000."""
    tags: Tags = {256: (3, 1, side), 257: (3, 1, side), 258: (3, 1, 8), 259: (3, 1, 1), 273: (4, 1, 3000)}
    tags |= {277: (3, 1, 1), 278: (3, 1, side), 279: (4, 1, len(data))}
    tags |= more if photometric is None else {262: (3, 1, photometric), **more}
    directory = b"".join(struct.pack("<HHII", number, *tag) for number, tag in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4)
    return head.ljust(1000, b"\0") + tail.ljust(2000, b"\0") + data


def test_colors_of_a_palette_may_be_8_bit_numbers(tmp_path: Path) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 3))
    colors = struct.pack("<768H", *palette.T.reshape(-1))
    (tmp_path / "x.tif").write_bytes(_by_hand(16, 3, bytes(range(256)), {320: (3, 768, 1000)}, colors))

    read = read_image(tmp_path / "x.tif", (16, 16, 3), memory=MEMORY)

    np.testing.assert_array_equal(read, palette.reshape(16, 16, 3))


def test_chroma_of_less_resolution_is_put_in_its_place(tmp_path: Path) -> None:
    # Uncompressed YCbCr, subsampled 2×2: four Y, one Cb, one Cr. All but grey at the left, red at the right.
    block = {False: bytes([100] * 4 + [128, 128]), True: bytes([76] * 4 + [85, 255])}
    data = b"".join(block[column >= 4] for _ in range(8) for column in range(8))
    tags = {258: (3, 3, 1000), 277: (3, 1, 3), 530: (3, 2, 2 | 2 << 16)}
    (tmp_path / "x.tif").write_bytes(_by_hand(16, 6, data, tags, struct.pack("<3H", 8, 8, 8)))

    read = read_image(tmp_path / "x.tif", (16, 16, 3), memory=MEMORY).astype(int)

    assert abs(read[:, :7] - 100).max() <= 2
    assert abs(read[:, 9:] - (254, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_by_hand(4, None, bytes(16), {}), "does not say whether 0 is black or white"),
        (_by_hand(4, 4, bytes(16), {}), r"of a kind that cannot be read \(Transparency Mask, 8-bit"),
        (_by_hand(4, 32803, bytes(16), {}), r"of a kind that cannot be read \(CFA, 8-bit"),
        (
            _by_hand(4, 2, bytes(64), {258: (3, 4, 1000), 277: (3, 1, 4)}, struct.pack("<4H", 8, 8, 8, 8)),
            "of 4 channels that does not say what the fourth is",
        ),
        (
            _by_hand(4, 5, bytes(64), {258: (3, 4, 1000), 277: (3, 1, 4), 332: (3, 1, 2)}, bytes([8, 0] * 4)),
            "of other inks than cyan, magenta, yellow and black",
        ),
        (_by_hand(4, 1, bytes(16), {322: (4, 1, 2**20), 323: (4, 1, 2**20)}), "whose tiles have 1099511627776 pixels"),
    ],
    ids="no photometric,mask,raw of a camera,fourth channel,inks,huge tiles".split(","),
)
def test_tags_that_leave_a_doubt_are_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(tmp_path / "x.tif", (4, 4, 1), memory=MEMORY)


def test_lab_becomes_grey(tmp_path: Path) -> None:
    lab = np.zeros((8, 8, 3), np.uint8)
    lab[..., 0] = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", lab, photometric="cielab")

    color = read_image(tmp_path / "x.tif", (8, 8, 3), memory=MEMORY).astype(int)
    grey = read_image(tmp_path / "x.tif", (8, 8, 1), memory=MEMORY)[..., 0]

    assert np.ptp(color, axis=2).max() <= 2
    np.testing.assert_allclose(grey, color @ LUMA, atol=1)
    assert grey[0, 0] == 0
    assert grey[7, 7] == 255


def test_what_may_not_be_meant_is_noted(tmp_path: Path) -> None:
    notes: list[Note] = []
    tifffile.imwrite(tmp_path / "x.tif", np.stack([TWELVE, TWELVE]), photometric="minisblack")

    read = read_image(tmp_path / "x.tif", (32, 48, 1), memory=MEMORY, notes=notes)

    assert read.max() == 15
    assert notes == ["more frames", "dark"]

    save(tmp_path / "y.png", np.zeros((4, 4), np.uint16))
    read_image(tmp_path / "y.png", (4, 4, 1), memory=MEMORY, notes=notes)
    assert len(notes) == 2
