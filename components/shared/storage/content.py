"""Bytes on their way: what is to be written, and checksums of what is read."""

from __future__ import annotations

import hashlib
import mimetypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Algorithm = Literal["crc32c", "md5", "sha256"]

# Content has an attribute of the name of the type.
Data = bytes

PIECE = 1 << 20  # bytes handled at once

_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a whole object."""

    algorithm: Algorithm
    digest: bytes


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32c:
    def __init__(self) -> None:
        import google_crc32c  # comes with google-cloud-storage, and only its store has such checksums

        self._extend: Callable[[int, bytes], int] = google_crc32c.extend
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = self._extend(self._value, bytes(data))  # it takes nothing but bytes

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_HASHES: dict[Algorithm, Callable[[], _Hash]] = {
    "crc32c": _Crc32c,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha256": hashlib.sha256,
}


class Checked:
    """Computes several checksums of the same bytes in one pass, and compares."""

    def __init__(self, *expected: Checksum | None) -> None:
        self._expected = [checksum for checksum in expected if checksum is not None]
        self._hashes = [_HASHES[checksum.algorithm]() for checksum in self._expected]

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        for one in self._hashes:
            one.update(data)

    def wrong(self) -> str | None:
        """Which checksum is not what was expected; None if all are."""
        for one, expected in zip(self._hashes, self._expected, strict=True):
            if one.digest() != expected.digest:
                return {"crc32c": "CRC32C", "md5": "MD5", "sha256": "SHA-256"}[expected.algorithm]
        return None


def digests(pieces: Iterator[memoryview], *algorithms: Algorithm) -> list[Data]:
    """Checksums of some bytes, in one pass."""
    hashes = [_HASHES[algorithm]() for algorithm in algorithms]
    for piece in pieces:
        for one in hashes:
            one.update(piece)
    return [one.digest() for one in hashes]


def pieces_of(file: Path, start: int = 0) -> Iterator[memoryview]:
    """A file's bytes from an offset on, in pieces that are valid until the next one is asked for."""
    with file.open("rb", buffering=0) as stream:
        # No larger than needed: for small files making it is most of the work.
        buffer = memoryview(bytearray(min(PIECE, max(1, os.fstat(stream.fileno()).st_size))))
        stream.seek(start)
        while count := stream.readinto(buffer):
            yield buffer[:count]


@dataclass(frozen=True, slots=True)
class Content:
    """What an object is to hold.

    Attributes:
        source: The bytes themselves, or a file with them.
        bytes: How many.
        type: The content type.
    """

    source: Data | Path
    bytes: int
    type: str

    def pieces(self, start: int = 0) -> Iterator[memoryview]:
        """The bytes from an offset on."""
        if isinstance(self.source, Path):
            yield from pieces_of(self.source, start)
        else:
            whole = memoryview(self.source)
            for offset in range(start, len(whole), PIECE):
                yield whole[offset : offset + PIECE]

    def cut(self, start: int, stop: int) -> Data:
        """The bytes [start, stop), as far as there are any."""
        if isinstance(self.source, Path):
            with self.source.open("rb") as stream:
                stream.seek(start)
                return stream.read(stop - start)
        return self.source[start:stop]

    def digests(self, *algorithms: Algorithm) -> list[Data]:
        """Checksums of the whole."""
        return digests(self.pieces(), *algorithms)


def content_of(file: Path, size: int | None = None) -> Content:
    """A file as content; a small one is read here, once, and with it what is checked is what is sent."""
    size = file.stat().st_size if size is None else size
    if size > PIECE:
        return Content(file, size, content_type(file.name))
    data = file.read_bytes()
    return Content(data, len(data), content_type(file.name))


def content_type(name: str) -> str:
    """What a browser or a console is told that a file is."""
    suffix = Path(name).suffix.lower()
    # Of a compressed file the type would be that of what is inside, to be unpacked by whoever reads it.
    guessed, encoding = mimetypes.guess_type(name)
    return _TYPES.get(suffix) or (guessed if guessed and not encoding else None) or "application/octet-stream"
