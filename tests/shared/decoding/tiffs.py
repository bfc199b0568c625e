from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from tests.shared.decoding.pictures import Pixels

_ROWS, _COLUMNS = np.mgrid[:32, :48]
COLOR: Pixels = np.stack([_COLUMNS * 5, _ROWS * 8, 255 - _COLUMNS * 5], axis=-1).astype(np.uint8)
GREY: Pixels = COLOR[..., 0]
ALPHA: Pixels = (255 - _ROWS * 5).astype(np.uint8)

PHOTOMETRICS = ("minisblack", "miniswhite", "rgb", "palette", "separated", "ycbcr", "cielab")
VALUES = (
    *((bits, "uint") for bits in (1, 2, 4, 8, 10, 12, 14, 16, 32, 64)),
    *((bits, "int") for bits in (8, 16, 32)),
    *((bits, "float") for bits in (16, 32, 64)),
)
COMPRESSIONS = (None, "lzw", "deflate", "packbits", "jpeg", "zstd", "lzma", "webp", "lerc", "jpeg2000")
# Of extra samples: none, or what the fourth (or second) is.
EXTRAS = (None, "unspecified", "assocalpha", "unassalpha")


@dataclass(frozen=True)
class Tiff:
    photometric: str
    bits: int
    values: str
    planar: bool
    compression: str | None
    predictor: bool
    tiled: bool
    big_endian: bool
    extra: str | None = None

    def write(self, path: Path) -> Pixels:
        seen, stored = self._seen_and_stored()
        data = self._of_values(stored)
        if self.planar:
            data = np.ascontiguousarray(np.moveaxis(data, -1, 0))
        options: dict[str, Any] = {}
        if self.photometric == "palette":
            options["colormap"] = np.stack([np.linspace(0, 65535, 2**self.bits)] * 3).astype(np.uint16)
        if self.bits not in (8, 16, 32, 64):
            options["bitspersample"] = self.bits
        if self.photometric == "ycbcr" and self.compression != "jpeg":
            options["subsampling"] = (1, 1)
        tifffile.imwrite(
            path,
            data,
            photometric=self.photometric,
            planarconfig=("separate" if self.planar else "contig") if data.ndim == 3 else None,
            compression=self.compression,
            predictor=self.predictor or None,
            tile=(16, 16) if self.tiled else None,
            byteorder=">" if self.big_endian else "<",
            extrasamples=self.extra,
            **options,
        )
        return seen

    def _seen_and_stored(self) -> tuple[Pixels, Pixels]:
        match self.photometric:
            case "minisblack":
                seen, stored = GREY, GREY
            case "miniswhite":
                seen, stored = 255 - GREY, GREY
            case "palette":
                indices = GREY >> np.uint8(max(0, 8 - self.bits))
                seen, stored = np.rint(np.linspace(0, 255, 2**self.bits)[indices]).astype(np.uint8), indices
            case "separated":
                seen, stored = COLOR, np.concatenate([255 - COLOR, np.zeros_like(GREY)[..., None]], axis=-1)
            case "ycbcr":
                seen, stored = COLOR, np.asarray(Image.fromarray(COLOR).convert("YCbCr"))
            case "cielab":
                # Lightness alone, a and b 0: the grey of CIE L*, by the curve of sRGB.
                light = GREY / 255 * 100
                linear = np.where(light > 8, ((light + 16) / 116) ** 3, light / 903.3)
                grey = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
                seen = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
                stored = np.stack([GREY, np.zeros_like(GREY), np.zeros_like(GREY)], axis=-1)
            case _:
                seen, stored = COLOR, COLOR
        if self.extra is None:
            return seen, stored
        stored = stored if stored.ndim == 3 else stored[..., None]
        if self.extra == "assocalpha":
            stored = np.rint(stored * (ALPHA[..., None] / 255)).astype(np.uint8)
        if self.extra != "unspecified":  # on white
            alpha = ALPHA[..., None] / 255 if seen.ndim == 3 else ALPHA / 255
            seen = np.rint(seen * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return seen, np.concatenate([stored, ALPHA[..., None]], axis=-1)

    def _of_values(self, stored: Pixels) -> npt.NDArray[Any]:
        if self.photometric == "palette":
            return stored if self.values == "uint" else stored.astype(np.int8)
        if self.values == "float":
            return (stored / 255).astype(f"f{self.bits // 8}")
        white = 2**self.bits - 1
        wide: npt.NDArray[Any] = np.rint(stored.astype(np.longdouble) * (white / np.longdouble(255)))
        size = next(size for size in (1, 2, 4, 8) if size * 8 >= self.bits)
        if self.values == "int":
            wide = wide - 2 ** (self.bits - 1)
        values: npt.NDArray[Any] = wide.astype(f"{'i' if self.values == 'int' else 'u'}{size}")
        return values

    @property
    def steps(self) -> int:
        depth = 128 // (2**self.bits - 1) if self.bits < 8 else 0
        lossy = 12 if self.compression in ("jpeg", "webp") else 0
        # YCbCr and CIELab are rounded when the picture is made; premultiplied colors of 8 bits have lost some.
        color = 3 if self.photometric in ("ycbcr", "cielab") or self.extra == "assocalpha" else 0
        return 1 + depth + lossy + color


def tiffs(*, all_of_them: bool = False) -> Iterator[Tiff]:
    compressions = COMPRESSIONS if all_of_them else (None, "deflate", "jpeg")
    for photometric, (bits, values), compression, extra in itertools.product(
        PHOTOMETRICS, VALUES, compressions, EXTRAS
    ):
        if photometric == "palette" and (bits > 8 or values == "float" or extra):
            continue
        if extra and (photometric in ("ycbcr", "cielab") or not (all_of_them or (bits, values) == (8, "uint"))):
            continue
        if compression and bits not in (8, 16, 32, 64) and (compression, bits) != ("jpeg", 12):
            continue  # imagecodecs packs no others
        one_channel = photometric in ("minisblack", "miniswhite", "palette") and not extra
        for planar, predictor, tiled, big_endian in itertools.product((False, True), repeat=4):
            if (planar and one_channel) or (predictor and compression in (None, "jpeg", "webp", "lerc", "jpeg2000")):
                continue
            if all_of_them or tiled == (big_endian != planar):
                yield Tiff(photometric, bits, values, planar, compression, predictor, tiled, big_endian, extra)
