"""Decodes what a split hands out, in the order of its positions."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.data_prep.contents import Block, Encoded, FilePart
from components.data_prep.source import BLOCK_BYTES, SourceSplit
from components.shared.artifacts.dataset import Images, UnreadableImage
from components.shared.artifacts.names import ImageName
from components.shared.decoding.batches import LEAST_SIZE, decode_batches
from components.shared.decoding.pixels import Note, fitted
from components.shared.decoding.rendering import Rendering
from components.shared.text import shown


@dataclass(frozen=True)
class Batch:
    """Images of a split read one after another: their positions in it, and those that could not be read by position."""

    positions: npt.NDArray[np.int64]  # of shape (n,), ascending, without the unreadable ones
    images: Images  # uint8 of shape (n, height, width, channels)
    names: list[ImageName]  # of each image
    unreadable: dict[int, UnreadableImage] = field(default_factory=dict)
    noted: Mapping[Note, int] = field(default_factory=dict)  # of how many images there is something to report


def decode(split: SourceSplit, rendering: Rendering, skip: Collection[int]) -> Iterator[Batch]:
    """All images of a split but those at positions to skip."""
    wanted = [position for position in range(len(split.labels)) if position not in skip]
    size = max(LEAST_SIZE, min(1024, 4 * BLOCK_BYTES // math.prod(rendering.shape)))
    blocks: list[Block] = []

    def files() -> Iterator[Path]:
        for each in split.read(wanted):
            if isinstance(each, Encoded) and isinstance(each.content, FilePart):
                yield Path(each.content.path)
            elif isinstance(each, Block):
                blocks.append(each)
                yield from ()

    start = 0
    for batch in decode_batches(files(), rendering, size=size):
        positions = np.array(wanted[start : start + len(batch.reasons)], dtype=np.int64)
        start += len(positions)
        unreadable = {
            int(position): UnreadableImage(file=shown(split.names[position]), reason=reason)
            for position, reason in zip(positions, batch.reasons, strict=True)
            if reason
        }
        readable = np.array([not reason for reason in batch.reasons])
        sizes = zip(positions[readable].tolist(), batch.sizes[readable].tolist(), strict=True)
        names = [ImageName.of(split.names[position], *size) for position, size in sizes]
        yield Batch(positions[readable], batch.images[readable], names, unreadable, batch.noted)
    for block in blocks:
        images = block.images
        _, height, width, channels = images.shape
        if images.shape[1:] != rendering.shape:
            pillow = (Image.fromarray(image[..., 0] if channels == 1 else image) for image in images)
            images = np.stack([fitted(image, rendering) for image in pillow])
        positions = np.arange(block.start, block.start + len(images))
        yield Batch(
            positions, images, [ImageName(split.names[position], width, height) for position in positions.tolist()]
        )
