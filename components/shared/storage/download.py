"""One object becomes one file: whole and verified under its name, or not there.

Bytes go to a file in the transfer's own folder and are renamed when they are all there and their checksums are right.
Nothing is synced to the disk: whoever comes again after a power cut computes the checksums of what is there, and so
does whoever opens an artifact.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from components.shared.errors import StorageUnavailableError
from components.shared.storage.content import Checked, Checksum, pieces_of
from components.shared.storage.encoding import GZIP_MAGIC, is_packed, unpacked
from components.shared.storage.objects import ObjectStore, StoredObject
from components.shared.storage.transfer import Transfer

# Larger objects are fetched in ranges of this size, side by side, and are resumed after a break.
RANGE = 32 << 20
_TRIES = 3


@dataclass(frozen=True)
class Wanted:
    """What is to be fetched.

    Attributes:
        stored: The version of the object.
        file: Where it goes.
        sha256: What is known of its content from elsewhere, unpacked.
        bytes: How many bytes that has, where it is known.
    """

    stored: StoredObject
    file: Path
    sha256: str | None = None
    bytes: int | None = None


class Download:
    """Fetches one object; of one that is stored with Content-Encoding gzip, what was packed.

    An unpacked file is known again by its SHA-256 alone; without that the object is fetched again.

    Args:
        store: The bucket it is in.
        transfer: What it is part of.
        wanted: What goes where.
        uri: Of the object, for messages.
        folder: For the unfinished file and the note of what is done of it; on the same file system as the file.
    """

    def __init__(self, store: ObjectStore, transfer: Transfer, wanted: Wanted, uri: str, folder: Path) -> None:
        self._store = store
        self._transfer = transfer
        self._stored = wanted.stored
        self._file = wanted.file
        self._uri = uri
        name = hashlib.sha256(f"{wanted.stored.key}\n{wanted.file}".encode()).hexdigest()[:32]
        self._part = folder / f"{name}.part"
        self._journal = folder / f"{name}.json"
        self._unpacked = folder / f"{name}.unpacked"
        self._bytes = wanted.stored.bytes if wanted.bytes is None else wanted.bytes
        self._most = wanted.bytes
        self._sha256 = Checksum("sha256", bytes.fromhex(wanted.sha256)) if wanted.sha256 is not None else None
        server = wanted.stored.checksum
        if is_packed(wanted.stored.encoding or "", uri):
            self._expected: tuple[Checksum | None, ...] = (self._sha256,)
        else:
            # MD5 is the slowest of them all, and adds nothing where SHA-256 is known.
            self._expected = (self._sha256, None if self._sha256 and server and server.algorithm == "md5" else server)
        self._lock = threading.Lock()
        self._missing: set[int] = set()

    def tasks(self) -> Iterator[Callable[[], None]]:
        """What is to be done, in any order and side by side; together they leave the file, or one raises.

        The tasks raise Changed, the storage errors, and OSError of the local file system with its file name.
        """
        size = self._stored.bytes
        if self._is_there() or size <= RANGE:
            yield self._look_or_fetch
            return
        done = self._read_journal()
        self._missing = {start for start in range(0, size, RANGE) if start not in done}
        self._transfer.found(sum(min(size, start + RANGE) - start for start in done))
        if not self._missing:
            yield self._finish
        else:
            self._prepare(done)
            yield from (partial(self._fetch_range, start) for start in sorted(self._missing))

    def _is_there(self) -> bool:
        return self._file.is_file() and self._file.stat().st_size == self._bytes

    def _look_or_fetch(self) -> None:
        """Take the file that is there if it is right, or fetch the object in one go."""
        # Without any checksum nothing is known of a file that is there.
        if any(self._expected) and self._is_there() and self._wrong(self._file, *self._expected) is None:
            self._transfer.found(self._stored.bytes)
            self._done()
        else:
            self._fetch_whole()

    def _fetch_whole(self) -> None:
        try:
            self._fetch_and_judge()
        finally:
            self._part.unlink(missing_ok=True)

    def _fetch_and_judge(self) -> None:
        wrong = ""
        for _ in range(_TRIES):
            checked = Checked(*self._expected)
            with _file_errors(self._part), self._part.open("wb", buffering=0) as stream:
                self._read(0, self._stored.bytes, partial(_take, stream.fileno(), checked))
            wrong = self._settle(checked) or ""
            if not wrong:
                return
            self._transfer.found(-self._stored.bytes)
        raise StorageUnavailableError(
            f"{self._uri}: its bytes came {_TRIES} times with a wrong {wrong} checksum; the object or the way to it is "
            "damaged: publish it again, or try from another machine"
        )

    def _prepare(self, done: set[int]) -> None:
        """Have the unfinished file and its note there before the first range comes."""
        if not done:
            with _file_errors(self._part), self._part.open("wb"):
                pass
        self._write_journal(done)

    def _fetch_range(self, start: int) -> None:
        stop = min(start + RANGE, self._stored.bytes)
        with _file_errors(self._part):
            descriptor = os.open(self._part, os.O_WRONLY)
            try:
                self._read(start, stop, partial(_write, descriptor))
            finally:
                os.close(descriptor)
        with self._lock:
            self._missing.discard(start)
            self._write_journal(set(range(0, self._stored.bytes, RANGE)) - self._missing)
            last = not self._missing
        if last:
            self._finish()

    def _finish(self) -> None:
        """Every range is there: check the whole."""
        if self._settle() is None:
            return
        self._journal.unlink(missing_ok=True)
        self._transfer.found(-self._stored.bytes)
        self._fetch_whole()

    def _settle(self, checked: Checked | None = None) -> str | None:
        """Put the file in its place, if all bytes are right; else which checksum is wrong.

        Args:
            checked: Has computed what is expected, if it was computed on the way.
        """
        if is_packed(self._store.encoding(self._stored), self._uri):
            wrong = self._wrong(self._part, self._stored.checksum) or self._unpack()
        elif checked is not None:
            wrong = self._judged(checked)
        else:
            wrong = self._wrong(self._part, *self._expected)
        if wrong is None:
            self._place()
        return wrong

    def _unpack(self) -> str | None:
        """Put the content in the place of gzip data; or say that its checksum is wrong."""
        checked = Checked(self._sha256)
        first = b""
        try:
            with _file_errors(self._unpacked), self._part.open("rb") as packed, self._unpacked.open("wb") as stream:
                for piece in unpacked(packed, self._stored.bytes, self._uri, self._most):
                    first = first or piece[:2]
                    checked.update(memoryview(piece))
                    stream.write(piece)
                    self._transfer.check()
            # A file of such a name is to be gzip, and was not packed a second time.
            if self._sha256 is None and self._file.suffix.lower() in (".gz", ".tgz") and first != GZIP_MAGIC:
                return None
            if wrong := checked.wrong():
                return wrong
            self._unpacked.replace(self._part)
            return None
        finally:
            self._unpacked.unlink(missing_ok=True)

    def _wrong(self, file: Path, *expected: Checksum | None) -> str | None:
        checked = Checked(*expected)
        with _file_errors(file):
            for piece in pieces_of(file):
                checked.update(piece)
                self._transfer.check()
        return self._judged(checked)

    def _judged(self, checked: Checked) -> str | None:
        """Which checksum is wrong, if one is."""
        wrong = checked.wrong()
        if wrong == "MD5":
            # A listing does not tell which of S3's ETags are no MD5: those of objects encrypted with a key.
            present = self._store.stat(self._stored.key)
            if present is not None and present.version == self._stored.version and present.checksum is None:
                return None
        return wrong

    def _place(self) -> None:
        with _file_errors(self._file):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._part.replace(self._file)
        self._journal.unlink(missing_ok=True)
        self._done()

    def _done(self) -> None:
        self._transfer.finished_file()

    def _read(self, start: int, stop: int, take: Callable[[int, memoryview], None]) -> None:
        """Bytes [start, stop), over as many connections as it takes; a broken one goes on at the byte it came to."""
        position = start

        def attempt() -> None:
            nonlocal position
            for piece in self._store.read(self._stored, position, stop):
                take(position, piece)
                position += len(piece)
                self._transfer.moved(len(piece))

        if start < stop:
            self._transfer.persist(self._uri, attempt)

    def _read_journal(self) -> set[int]:
        """Where the ranges begin that are in the unfinished file; none if it is of another version."""
        try:
            note = json.loads(self._journal.read_text(encoding="utf-8"))
            done = {int(start) for start in note["done"]}
            matching = (note["version"], note["bytes"], note["range"]) == (
                self._stored.version,
                self._stored.bytes,
                RANGE,
            )
            if matching and self._part.is_file() and done <= set(range(0, self._stored.bytes, RANGE)):
                return done
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._journal.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        return set()

    def _write_journal(self, done: set[int]) -> None:
        note = {"version": self._stored.version, "bytes": self._stored.bytes, "range": RANGE, "done": sorted(done)}
        fresh = self._journal.with_suffix(".new")
        with _file_errors(self._journal):
            fresh.write_text(json.dumps(note), encoding="utf-8")
            fresh.replace(self._journal)


def _take(descriptor: int, checked: Checked, position: int, piece: memoryview) -> None:
    checked.update(piece)
    _write(descriptor, position, piece)


def _write(descriptor: int, position: int, piece: memoryview) -> None:
    while piece:
        count = os.pwrite(descriptor, piece, position)
        piece, position = piece[count:], position + count


@contextmanager
def _file_errors(file: Path) -> Iterator[None]:
    """Give an error of the file system the name of the file, which a write by descriptor leaves out."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise
