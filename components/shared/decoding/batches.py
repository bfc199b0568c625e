"""Image files are decoded in batches by several threads, in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.shared.decoding.images import DecodingMemory, UnreadableImageError, decode_image
from components.shared.decoding.pixels import WHITE, Background, Images, Note
from components.shared.limits import usable_cpus

# Pillow releases the interpreter's lock while it decodes and resizes. Each thread holds one whole image, of those that
# fit in memory together.
DECODING_THREADS = min(16, usable_cpus())


@dataclass(frozen=True)
class DecodedBatch:
    """Some files in order; an unreadable one has a reason, and pixels without meaning."""

    images: Images  # uint8 of shape (n, height, width, channels)
    sizes: npt.NDArray[np.int64]  # of shape (n, 2): width and height of the upright image before it was resized
    reasons: list[str]  # empty: it was decoded
    noted: Mapping[Note, int]  # of how many images there is something to report


def decode_batches(
    files: Iterable[Path],
    shape: tuple[int, int, int],
    background: Background = WHITE,
    *,
    size: int,
    memory: DecodingMemory | None = None,
    threads: int = DECODING_THREADS,
) -> Iterator[DecodedBatch]:
    """Decode files of images, `size` a batch; while one batch is used, the next one is decoded.

    DataError: the operating system does not hand a file out.
    """
    memory = memory or DecodingMemory.of_half_the_free()

    def decode(file: Path, image: Images, sizes: npt.NDArray[np.int64], noted: list[Note]) -> str:
        """Decode one file into its array; the reason if it is unreadable."""
        try:
            decoded = decode_image(file, shape, background, memory, noted)
        except UnreadableImageError as error:
            return str(error)
        image[...], sizes[:] = decoded.pixels, (decoded.width, decoded.height)
        return ""

    waiting: deque[tuple[Images, npt.NDArray[np.int64], list[Future[str]], list[Note]]] = deque()

    def done() -> DecodedBatch:
        images, sizes, decoding, noted = waiting.popleft()
        return DecodedBatch(images, sizes, [future.result() for future in decoding], Counter(noted))

    rest = iter(files)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            while some := list(islice(rest, size)):
                images, sizes = np.empty((len(some), *shape), dtype=np.uint8), np.zeros((len(some), 2), dtype=np.int64)
                noted: list[Note] = []  # extending is atomic
                decoding = [
                    pool.submit(decode, file, image, pair, noted)
                    for file, image, pair in zip(some, images, sizes, strict=True)
                ]
                waiting.append((images, sizes, decoding, noted))
                if len(waiting) > 1:
                    yield done()
            while waiting:
                yield done()
        finally:
            pool.shutdown(cancel_futures=True)  # given up: what has not begun never does
