"""SHA-256 of files of rows while these are written in any order: read back, from the page cache, as they grow whole."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.shared.files import read_at

# Read at once; and written to the disk at once, so that little is left to be made durable in the end.
_PIECE, _FLUSHED = 2 * 1024**2, 32 * 1024**2


@dataclass
class _Growing:
    path: Path
    header_bytes: int
    row_bytes: int
    is_written: npt.NDArray[np.bool_]  # of shape (n,), by row
    whole: int = 0  # rows from the first on that are written
    position: int = 0  # bytes that are digested
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def is_complete(self) -> bool:
        return self.whole == len(self.is_written)

    @property
    def size(self) -> int:
        return self.header_bytes + len(self.is_written) * self.row_bytes

    def advance(self) -> None:
        while not self.is_complete:
            ahead = self.is_written[self.whole : self.whole + 4096]
            if not ahead.all():
                self.whole += int(ahead.argmin())
                return
            self.whole += len(ahead)


class RowDigests:
    """Digests files in a thread of its own, behind those who write them; thread-safe."""

    def __init__(self) -> None:
        self._files: dict[Path, _Growing] = {}
        self._changed = threading.Condition()
        self._waiting: deque[_Growing] = deque()
        self._is_ending = self._is_closed = False
        self._thread: threading.Thread | None = None

    def expect(self, path: Path, header_bytes: int, rows: int, row_bytes: int) -> None:
        """A file, whose header is written, is going to have so many rows."""
        self._files[path] = _Growing(path, header_bytes, row_bytes, np.zeros(rows, dtype=np.bool_))

    def written(self, path: Path, rows: npt.NDArray[np.int64]) -> None:
        """Some rows of a file are written, for good."""
        with self._changed:
            if (growing := self._files.get(path)) is None or self._is_closed:
                return
            growing.is_written[rows] = True
            growing.advance()
            self._waiting.append(growing)
            if self._thread is None:
                self._thread = threading.Thread(target=self._digest_all, name="digests", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Give up: nothing is known of any file."""
        self._end()
        self._files.clear()

    def results(self) -> Mapping[Path, str]:
        """The digests, hexadecimal, of the files that are whole; waits until they are digested."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        return {path: each.digest.hexdigest() for path, each in self._files.items() if each.is_complete}

    def _end(self) -> None:
        with self._changed:
            self._is_closed = self._is_ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _digest_all(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        is_ending = False
        while not is_ending:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_ending)
                is_ending = not self._waiting
                growing = list(self._files.values()) if is_ending else [self._waiting.popleft()]
            for each in growing:
                try:
                    self._digest(each, buffer, least=1 if is_ending or each.is_complete else _PIECE)
                except OSError:  # what is wrong with it is reported once it is recorded
                    self._files.pop(each.path, None)

    def _digest(self, growing: _Growing, buffer: memoryview, least: int) -> None:
        end = growing.header_bytes + growing.whole * growing.row_bytes
        if end - growing.position < least or not growing.whole:
            return
        descriptor = os.open(growing.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while (count := min(_PIECE, end - growing.position)) and not self._is_closed:
                read_at(descriptor, buffer[:count], growing.position)
                growing.digest.update(buffer[:count])
                growing.position += count
                if growing.position % _FLUSHED < count or growing.position == growing.size:
                    os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
