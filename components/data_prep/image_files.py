"""A split whose images are files of their own."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data_prep.images import UnreadableImageError, read_image
from components.data_prep.source import BATCH_BYTES, Batch, shown
from components.shared.dataset import Images, Labels, UnreadableImage

# Pillow releases the interpreter's lock while it decodes and resizes. Each thread holds one whole image.
DECODING_THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class ImageFileSplit:
    """Image files in their stored order.

    Attributes:
        root: The folder that `files` are relative to.
        files: One path an image, with ``/`` between its parts.
        labels: int64 of shape (n,).
    """

    root: Path
    files: list[str]
    labels: Labels

    def batches(self, shape: tuple[int, int, int], skip: Collection[int]) -> Iterator[Batch]:
        """Decode the files with several threads, in order; see :class:`SourceSplit`."""
        wanted = [position for position in range(len(self.files)) if position not in skip]
        # Threads wait for each other at the end of a batch: it is larger here, and one image a thread at least.
        per_batch = max(DECODING_THREADS, min(1024, 4 * BATCH_BYTES // math.prod(shape)))
        with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode") as pool:
            for start in range(0, len(wanted), per_batch):
                positions = np.array(wanted[start : start + per_batch], dtype=np.int64)
                images = np.empty((len(positions), *shape), dtype=np.uint8)
                reasons = list(pool.map(self._read_into, images, positions))
                readable = np.array([reason is None for reason in reasons])
                unreadable = {
                    int(position): UnreadableImage(file=shown(self.files[position]), reason=reason)
                    for position, reason in zip(positions, reasons, strict=True)
                    if reason is not None
                }
                if unreadable:
                    positions, images = positions[readable], images[readable]
                yield Batch(positions, images, unreadable)

    def _read_into(self, image: Images, position: int) -> str | None:
        """Decode one file into its place; the reason if it is unreadable."""
        try:
            image[...] = read_image(self.root / self.files[position], image.shape)
        except UnreadableImageError as error:
            return str(error)
        return None
