"""How much memory images may take while they are decoded, over all threads together."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from components.shared.limits import free_memory

# Each thread's part of glibc's heap keeps what it has freed: 16 threads that decoded images of 0.4 GB in turn held
# 5.8 GB. So after an image that took more than this, it is given back.
_GIVEN_BACK = 32 << 20
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone


class DecodingMemory:
    """A number of bytes that threads share.

    Args:
        total: What all may take together; one that needs more waits until it is alone.
        limit: What one may take at most.

    Attributes:
        peak: The most bytes that were taken at once.
    """

    def __init__(self, total: int, limit: int) -> None:
        self.total, self.limit, self.peak = total, limit, 0
        self._taken = 0
        self._changed = threading.Condition()

    @classmethod
    def of_half_the_free(cls) -> DecodingMemory:
        """Half of the memory that is free to this process; the dataset's arrays need some of the rest."""
        free = free_memory()
        return cls(free // 2, free)

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them; ValueError if they are more than one may take."""
        if count > self.limit:
            raise ValueError(
                f"needs {count / 1e6:,.0f} MB of memory to be decoded, and {self.limit / 1e6:,.0f} MB are free; make "
                "it smaller, or give the step more memory"
            )
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self.total)
            self._taken += count
            self.peak = max(self.peak, self._taken)
        try:
            yield
        finally:
            if _trim is not None and count > _GIVEN_BACK:
                _trim(0)
            with self._changed:
                self._taken -= count
                self._changed.notify_all()
