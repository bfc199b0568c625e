"""Checksums of objects and files, several in one pass over the bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Algorithm = Literal["CRC32C", "MD5", "SHA-256"]

PIECE = 1 << 20  # bytes handled at once


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a whole object."""

    algorithm: Algorithm
    digest: bytes


def _crc32c() -> Any:
    import google_crc32c  # comes with google-cloud-storage, and only its store has such checksums

    return google_crc32c.Checksum()  # type: ignore[no-untyped-call] # it publishes no types


_HASHES: dict[Algorithm, Callable[[], Any]] = {
    "CRC32C": _crc32c,
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "SHA-256": hashlib.sha256,
}


class Checked:
    """Computes checksums of the same bytes in one pass, and compares them with those that are expected."""

    def __init__(self, *expected: Checksum | None) -> None:
        self._hashes = [(checksum, _HASHES[checksum.algorithm]()) for checksum in expected if checksum is not None]

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        for expected, one in self._hashes:
            one.update(bytes(data) if expected.algorithm == "CRC32C" else data)  # which takes nothing but bytes

    def wrong(self) -> Algorithm | None:
        """Which checksum is not what was expected; None if all are."""
        return next((each.algorithm for each, one in self._hashes if one.digest() != each.digest), None)


def crc32c_of(pieces: Iterator[memoryview]) -> bytes:
    """The CRC32C of some bytes."""
    checksum = _crc32c()
    for piece in pieces:
        checksum.update(bytes(piece))
    digest: bytes = checksum.digest()
    return digest


def pieces_of(file: Path, start: int = 0) -> Iterator[memoryview]:
    """A file's bytes from an offset on, in pieces that are valid until the next one is asked for."""
    with file.open("rb", buffering=0) as stream:
        # No larger than needed: for small files making it is most of the work.
        buffer = memoryview(bytearray(min(PIECE, max(1, os.fstat(stream.fileno()).st_size))))
        stream.seek(start)
        while count := stream.readinto(buffer):
            yield buffer[:count]
