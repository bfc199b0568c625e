"""One object becomes one file: whole and verified under its name, or not there.

Bytes go to a file in the transfer's own folder and are renamed when they are all there and their checksums are right.
Nothing is synced to the disk: the next fetch after a power cut computes the checksums of what is there, and so does
whatever opens an artifact.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from components.shared.errors import StorageUnavailableError
from components.shared.files import naming
from components.shared.storage.content import GZIP_MAGIC, Checked, Checksum, is_packed, pieces_of, unpacked
from components.shared.storage.store import ChangedError, Store, StoredObject

# Larger objects are fetched in ranges of this size, side by side, and are resumed after a break.
RANGE = 32 << 20
_TRIES = 3


class Download:
    """Fetches one object; of one that is stored with Content-Encoding gzip, what was packed.

    Args:
        store: The bucket it is in.
        stored: The version of the object.
        file: Where it goes.
        folder: For the unfinished file and a note of its ranges; on the same file system.
        sha256: Of its content, unpacked, where that is known from elsewhere.
        size: How many bytes that has, where it is known.
    """

    def __init__(
        self,
        store: Store,
        stored: StoredObject,
        file: Path,
        folder: Path,
        sha256: str | None = None,
        size: int | None = None,
    ) -> None:
        self.file = file
        self.bytes = stored.bytes
        self._store = store
        self._transfer = store.transfer
        self._stored = stored
        self._content_size = size
        self._uri = store.uri(stored.key)
        name = hashlib.sha256(f"{stored}\n{file}\n{RANGE}".encode()).hexdigest()[:32]
        self._part, self._ranges = folder / f"{name}.part", folder / f"{name}.ranges"
        self._sha256 = Checksum("SHA-256", bytes.fromhex(sha256)) if sha256 is not None else None
        self._lock = threading.Lock()
        self._missing: set[int] = set()

    def tasks(self) -> Iterator[Callable[[], None]]:
        """What is to be done, in any order and side by side; together they leave the file, or one raises.

        The tasks raise ChangedError, the storage errors, and OSError of the local file system with its file name.
        """
        if self._is_there() or self.bytes <= RANGE:
            yield self._verify_or_fetch
            return
        done = self._done_ranges()
        self._missing = set(range(0, self.bytes, RANGE)) - done
        self._transfer.found(sum(min(self.bytes, start + RANGE) - start for start in done))
        if not self._missing:
            yield self._finish
            return
        if not done:
            with naming(self._part):
                self._part.write_bytes(b"")
        yield from (partial(self._fetch_range, start) for start in sorted(self._missing))

    def _is_there(self) -> bool:
        size = self.bytes if self._content_size is None else self._content_size
        return self.file.is_file() and self.file.stat().st_size == size

    def _is_packed(self) -> bool:
        return is_packed(self._stored.encoding or "", self._uri)

    def _expected(self) -> tuple[Checksum | None, ...]:
        server = self._stored.checksum
        if self._is_packed():
            return (self._sha256,)
        return self._sha256, None if self._sha256 and server and server.algorithm == "MD5" else server

    def _verify_or_fetch(self) -> None:
        # Without any checksum nothing is known of a file that is there.
        if self._is_there() and any(self._expected()) and self._wrong(self.file, *self._expected()) is None:
            self._transfer.found(self.bytes)
            self._transfer.finished_file()
        else:
            self._fetch_whole()

    def _fetch_whole(self) -> None:
        try:
            wrong = None
            for _ in range(_TRIES):
                checked = Checked(*self._expected())
                with naming(self._part), self._part.open("wb", buffering=0) as stream:
                    self._read(0, self.bytes, stream.fileno(), checked)
                wrong = self._settle(checked)
                if wrong is None:
                    return
                self._transfer.found(-self.bytes)
            raise StorageUnavailableError(
                f"{self._uri}: its bytes came {_TRIES} times with a wrong {wrong} checksum; the object or the way to "
                "it is damaged: publish it again, or try from another machine"
            )
        finally:
            self._part.unlink(missing_ok=True)

    def _fetch_range(self, start: int) -> None:
        with naming(self._part), self._part.open("rb+", buffering=0) as stream:
            self._read(start, min(start + RANGE, self.bytes), stream.fileno())
        with self._lock:
            self._missing.discard(start)
            with naming(self._ranges), self._ranges.open("a") as ranges:
                ranges.write(f"{start}\n")
            is_last = not self._missing
        if is_last:
            self._finish()

    def _finish(self) -> None:
        if self._settle() is not None:
            self._ranges.unlink(missing_ok=True)
            self._transfer.found(-self.bytes)
            self._fetch_whole()

    def _settle(self, checked: Checked | None = None) -> str | None:
        """Put the file in its place, if all bytes are right; else which checksum is wrong.

        `checked` has computed what was expected while the bytes came, if they came in one go.
        """
        if self._stored.encoding is None and self.bytes:  # all ranges are an earlier attempt's
            present = self._store.stat(self._stored.key)
            if present is None or present.version != self._stored.version:
                raise ChangedError(self._uri)
            self._stored = present
        if self._is_packed():
            wrong = self._wrong(self._part, self._stored.checksum) or self._unpack()
        else:
            wrong = checked.wrong() if checked else self._wrong(self._part, *self._expected())
            # A listing does not tell which of S3's ETags are no MD5: those of objects encrypted with a key.
            if wrong == "MD5" and self._stored.checksum is None:
                wrong = None
        if wrong is None:
            with naming(self.file):
                self._part.replace(self.file)
            self._ranges.unlink(missing_ok=True)
            self._transfer.finished_file()
        return wrong

    def _unpack(self) -> str | None:
        """Put the content in the place of gzip data; or say that its checksum is wrong."""
        checked, first = Checked(self._sha256), b""
        file = self._part.with_suffix(".unpacked")
        try:
            with naming(file), self._part.open("rb") as packed, file.open("wb") as stream:
                for piece in unpacked(packed, self.bytes, self._uri, self._content_size):
                    first = first or piece[:2]
                    checked.update(piece)
                    stream.write(piece)
                    self._transfer.check()
            # A file of such a name is to be gzip, and was not packed a second time.
            if self._sha256 is None and self.file.suffix.lower() in (".gz", ".tgz") and first != GZIP_MAGIC:
                return None
            wrong = checked.wrong()
            if wrong is None:
                file.replace(self._part)
            return wrong
        finally:
            file.unlink(missing_ok=True)

    def _wrong(self, file: Path, *expected: Checksum | None) -> str | None:
        checked = Checked(*expected)
        with naming(file):
            for piece in pieces_of(file):
                checked.update(piece)
                self._transfer.check()
        return checked.wrong()

    def _read(self, start: int, stop: int, descriptor: int, checked: Checked | None = None) -> None:
        """Bytes [start, stop), over as many connections as it takes; a broken one goes on at the byte it came to."""
        position = start

        def attempt() -> None:
            nonlocal position
            self._stored, pieces = self._store.read(self._stored, position, stop)
            with closing(pieces):  # and with them the connection, also where the disk is full
                for piece in pieces:
                    if checked is not None:
                        checked.update(piece)
                    position += len(piece)
                    count = 0
                    while count < len(piece):
                        count += os.pwrite(descriptor, piece[count:], position - len(piece) + count)
                    self._transfer.moved(len(piece))

        if start < stop:
            self._transfer.retry(self._uri, attempt)

    def _done_ranges(self) -> set[int]:
        with suppress(OSError, ValueError):
            if self._part.is_file():
                return set(map(int, self._ranges.read_text().split())) & set(range(0, self.bytes, RANGE))
        self._ranges.unlink(missing_ok=True)
        return set()
