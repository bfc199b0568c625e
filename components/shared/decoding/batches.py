"""Image files are decoded in batches by several threads, in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.shared.decoding.content import FilePart, UnreadableImageError
from components.shared.decoding.images import DecodingMemory, render
from components.shared.decoding.pixels import Images, Note
from components.shared.decoding.rendering import Rendering
from components.shared.limits import usable_cpus

# Pillow releases the interpreter's lock while it decodes and resizes. Each thread holds one whole image, of those that
# fit in memory together.
DECODING_THREADS = min(16, usable_cpus())
# The smallest batches with which these are busy: two are decoded at once.
LEAST_SIZE = (DECODING_THREADS + 1) // 2


@dataclass(frozen=True)
class DecodedBatch:
    """Some files in order; an unreadable one has a reason, and pixels without meaning."""

    images: Images  # uint8 of shape (n, height, width, channels)
    sizes: npt.NDArray[np.int64]  # of shape (n, 2): width and height of the upright image before it was resized
    reasons: list[str]  # empty: it was decoded
    noted: Mapping[Note, int]  # of how many images there is something to report


class _Decoding:
    """A batch whose files are being decoded."""

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        # np.empty takes address space, not memory: pages are touched as images arrive.
        self.images = np.empty((size, *shape), dtype=np.uint8)
        self.sizes = np.zeros((size, 2), dtype=np.int64)
        self.reasons: list[Future[str]] = []
        self.noted: list[Note] = []  # extending is atomic


# A file, or what makes one for as long as it is decoded; UnreadableImageError, as it does so, is this image's.
AnyFile = Path | AbstractContextManager[Path]


def decode_batches(
    files: Iterable[AnyFile],
    rendering: Rendering,
    *,
    size: int,
    memory: DecodingMemory | None = None,
    threads: int = DECODING_THREADS,
) -> Generator[DecodedBatch, None, None]:
    """Decode files of images, `size` a batch; while one batch is used, the next one is decoded.

    Of `files` the next is asked for as soon as the one before it is in a thread's queue.

    DataError: the operating system does not hand a file out.
    """
    memory = memory or DecodingMemory.of_half_the_free()

    def decode(file: AnyFile, image: Images, sizes: npt.NDArray[np.int64], noted: list[Note]) -> str:
        """Decode one file into its array; the reason if it is unreadable."""
        try:
            with nullcontext(file) if isinstance(file, Path) else file as path:
                decoded = render(FilePart(str(path)), rendering, memory, noted)
        except UnreadableImageError as error:
            return str(error)
        image[...], sizes[:] = decoded.pixels, (decoded.width, decoded.height)
        return ""

    def decoded(batch: _Decoding) -> DecodedBatch:
        reasons = [future.result() for future in batch.reasons]
        return DecodedBatch(batch.images[: len(reasons)], batch.sizes[: len(reasons)], reasons, Counter(batch.noted))

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[_Decoding] = deque()
        try:
            for file in files:
                if not waiting or len(waiting[-1].reasons) == size:
                    waiting.append(_Decoding(size, rendering.shape))
                batch = waiting[-1]
                position = len(batch.reasons)
                image, sizes = batch.images[position], batch.sizes[position]
                batch.reasons.append(pool.submit(decode, file, image, sizes, batch.noted))
                if len(waiting) > 1 and position == size - 1:
                    yield decoded(waiting.popleft())
            while waiting:
                yield decoded(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # given up: what has not begun never does
