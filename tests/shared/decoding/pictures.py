"""Pictures that the tests make: pixels, and files of any format."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.shared.decoding.content import FilePart
from components.shared.decoding.images import image_extensions, render
from components.shared.decoding.rendering import WHITE, Background, Rendering

Pixels = npt.NDArray[np.uint8]

LUMA = np.array([0.299, 0.587, 0.114])


def random_pixels(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_rgb(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=-1)


def on_background(shown: Pixels, alpha: Pixels, background: Sequence[int] = (255, 255, 255)) -> Pixels:
    share = alpha[..., None] / 255
    mixed: Pixels = np.rint(shown * share + np.array(background) * (1 - share)).astype(np.uint8)
    return mixed


def read_image(file: Path, shape: tuple[int, int, int], background: Background = WHITE, **more: Any) -> Pixels:
    """The pixels of a file; further options are those of `render`."""
    return render(FilePart(str(file)), Rendering(shape, background), **more).pixels


def plain(value: int, height: int = 4, width: int = 4) -> Pixels:
    return np.full((height, width), value, dtype=np.uint8)


def encoded(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    image_extensions()  # makes HEIF known to Pillow
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, color_type: int, data: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of deflated rows, each after its filter's number."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    header += chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def save(path: Path, pixels: Pixels, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
