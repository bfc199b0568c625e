"""A split whose images are files of their own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from components.data_prep.decoding_memory import DecodingMemory, decoding_memory
from components.data_prep.images import UnreadableImageError, read_image
from components.data_prep.pixels import WHITE, Background, Note
from components.data_prep.source import BATCH_BYTES, Batch, shown
from components.shared.artifacts.dataset import Images, Labels, UnreadableImage
from components.shared.limits import usable_cpus

# Pillow releases the interpreter's lock while it decodes and resizes. Each thread holds one whole image, of those that
# fit in memory together.
DECODING_THREADS = min(16, usable_cpus())


@dataclass(frozen=True)
class ImageFileSplit:
    """Image files in their stored order.

    Attributes:
        root: The folder that `files` are relative to.
        files: One path an image, with ``/`` between its parts.
        labels: int64 of shape (n,).
        memory: What the images take together while they are decoded.
    """

    root: Path
    files: list[str]
    labels: Labels
    memory: DecodingMemory = field(default_factory=decoding_memory, compare=False)

    def batches(
        self, shape: tuple[int, int, int], skip: Collection[int], background: Background = WHITE
    ) -> Iterator[Batch]:
        """Decode the files with several threads, in order; see :class:`SourceSplit`."""
        wanted = [position for position in range(len(self.files)) if position not in skip]
        # Threads wait for each other at the end of a batch: it is larger here, and one image a thread at least.
        per_batch = max(DECODING_THREADS, min(1024, 4 * BATCH_BYTES // math.prod(shape)))
        with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode") as pool:
            for start in range(0, len(wanted), per_batch):
                positions = np.array(wanted[start : start + per_batch], dtype=np.int64)
                images = np.empty((len(positions), *shape), dtype=np.uint8)
                noted: list[Note] = []  # appending is atomic
                reasons = list(pool.map(partial(self._read_into, background, noted), images, positions))
                readable = np.array([reason is None for reason in reasons])
                unreadable = {
                    int(position): UnreadableImage(file=shown(self.files[position]), reason=reason)
                    for position, reason in zip(positions, reasons, strict=True)
                    if reason is not None
                }
                if unreadable:
                    positions, images = positions[readable], images[readable]
                yield Batch(positions, images, unreadable, Counter(noted))

    def _read_into(self, background: Background, noted: list[Note], image: Images, position: int) -> str | None:
        """Decode one file into its place; the reason if it is unreadable."""
        try:
            file = self.root / self.files[position]
            image[...] = read_image(file, image.shape, background, self.memory, noted.append)
        except UnreadableImageError as error:
            return str(error)
        return None
