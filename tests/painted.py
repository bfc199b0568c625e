"""Pictures of shapes on noisy grounds, which are told apart by no mean, color or place; and files of them."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.data_prep.shards import tar_bytes
from tests.shared.decoding.pictures import encoded

SHAPES = ("disc", "frame", "triangle", "cross", "stripes")


def paint(shape: str, size: tuple[int, int], seed: int, *, color: bool) -> Image.Image:
    """A shape of any place, size and shade on a noisy ground; the same for the same arguments."""
    random = np.random.default_rng([SHAPES.index(shape), *size, seed])
    width, height = size
    ground = random.integers(0, 256, 3) if color else random.integers(0, 256, 1).repeat(3)
    # A shade that differs from the ground's by half of all in every channel.
    ink = (ground + random.integers(96, 161, 3 if color else 1)) % 256
    image = Image.new("RGB", size, tuple(map(int, ground)))
    draw, side = ImageDraw.Draw(image), min(size)
    radius = random.uniform(0.25, 0.42) * side
    x, y = random.uniform(radius, width - radius), random.uniform(radius, height - radius)
    box, line, fill = (x - radius, y - radius, x + radius, y + radius), max(1, round(side / 8)), tuple(map(int, ink))
    match shape:
        case "disc":
            draw.ellipse(box, fill)
        case "frame":
            draw.rectangle(box, outline=fill, width=line)
        case "triangle":
            draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill)
        case "cross":
            draw.line((x - radius, y, x + radius, y), fill, line)
            draw.line((x, y - radius, x, y + radius), fill, line)
        case _:
            for offset in range(0, round(2 * radius), 2 * line):
                draw.line((x - radius, y - radius + offset, x + radius, y - radius + offset), fill, line)
    noisy = np.asarray(image, np.int16) + random.integers(-24, 25, (height, width, 3 if color else 1))
    pixels = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return pixels if color else pixels.convert("L")


def painted(shape: str, size: tuple[int, int], seed: int, *, color: bool = False, kind: str = "PNG") -> bytes:
    """A file of a picture; a grey one is stored in three channels where its kind is JPEG."""
    image = paint(shape, size, seed, color=color)
    return encoded(image.convert("RGB") if kind == "JPEG" else image, kind)


Files = Mapping[str, bytes]


def write_files(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: Files) -> Path:
    """A .zip, or a .tar.gz, of files in an order of their own."""
    shuffled = sorted(files.items(), key=lambda item: zlib.crc32(item[0].encode()))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in shuffled:
                archive.writestr(name, content)
        return path
    path.write_bytes(gzip.compress(tar_bytes(shuffled), mtime=0))
    return path
