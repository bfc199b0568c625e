"""A split of image files, decoded batch by batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from components.data_prep.source import BATCH_BYTES, Batch, SourceSplit
from components.shared.artifacts.dataset import UnreadableImage
from components.shared.artifacts.names import ImageName
from components.shared.decoding.batches import LEAST_SIZE, decode_batches
from components.shared.decoding.pixels import Background
from components.shared.text import shown


def image_split(
    root: Path, folder: str, rows: list[tuple[str, int]], reasons: Mapping[str, str] | None = None
) -> SourceSplit:
    """A split of image files.

    Args:
        root: The data folder.
        folder: The split's folder below it.
        rows: Path below the data folder and label of each image.
        reasons: By path, why a file is known to be unreadable.
    """
    files = [file for file, _ in rows]
    unreadable = {
        position: UnreadableImage(file=shown(file), reason=reasons[file])
        for position, file in enumerate(files)
        if reasons and file in reasons
    }
    labels = np.array([label for _, label in rows], dtype=np.int64)
    return SourceSplit(folder, labels, partial(_read_batches, root, files), unreadable)


def _read_batches(
    root: Path, files: list[str], shape: tuple[int, int, int], skip: Collection[int], background: Background
) -> Iterator[Batch]:
    """Decode files of images below `root` by several threads, in order, but for those at positions to skip."""
    wanted = np.array([position for position in range(len(files)) if position not in skip], dtype=np.int64)
    # Larger than other batches: each costs a round of Python's work.
    size = max(LEAST_SIZE, min(1024, 4 * BATCH_BYTES // math.prod(shape)))
    paths = (root / files[position] for position in wanted)
    start = 0
    for batch in decode_batches(paths, shape, background, size=size):
        positions = wanted[start : start + len(batch.reasons)]
        start += len(positions)
        unreadable = {
            int(position): UnreadableImage(file=shown(files[position]), reason=reason)
            for position, reason in zip(positions, batch.reasons, strict=True)
            if reason
        }
        readable = np.array([not reason for reason in batch.reasons])
        images = batch.images if readable.all() else batch.images[readable]
        sizes = zip(positions[readable].tolist(), batch.sizes[readable].tolist(), strict=True)
        names = [ImageName.of(files[position], *size) for position, size in sizes]
        yield Batch(positions[readable], images, names, unreadable, batch.noted)
