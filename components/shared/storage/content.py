"""The bytes of objects and files: read in pieces, their checksums, and what was packed by Content-Encoding gzip."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from components.shared.errors import StorageRefusedError

Algorithm = Literal["CRC32C", "MD5", "SHA-256"]

PIECE = 1 << 20  # bytes handled at once
GZIP_MAGIC = b"\x1f\x8b"
# gzip packs at most a thousand to one. What is unpacked without a known size is bounded below that.
LARGEST_RATIO = 100
ALWAYS_ALLOWED = 1 << 30  # bytes
_GZIP = frozenset({"gzip", "x-gzip"})
# As registered for HTTP (RFC 9110, 8.4.1). Others are no encodings, and servers keep whatever they are given: "utf-8"
# is common, and what S3's own clients add.
_NOT_READ = frozenset({"br", "compress", "x-compress", "deflate", "zstd"})


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


class Hashes:
    """Computes several checksums of the same bytes in one pass."""

    def __init__(self, *algorithms: Algorithm) -> None:
        self._hashes = {algorithm: _HASHES[algorithm]() for algorithm in algorithms}

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        for algorithm, one in self._hashes.items():
            one.update(bytes(data) if algorithm == "CRC32C" else data)  # which takes nothing but bytes

    def of(self, algorithm: Algorithm) -> Checksum:
        """One of the checksums."""
        return Checksum(algorithm, self._hashes[algorithm].digest())


class Checked(Hashes):
    """Compares checksums of the same bytes with those that are expected."""

    def __init__(self, *expected: Checksum | None) -> None:
        self._expected = [checksum for checksum in expected if checksum is not None]
        super().__init__(*(checksum.algorithm for checksum in self._expected))

    def wrong(self) -> Algorithm | None:
        """Which checksum is not what was expected; None if all are."""
        return next((each.algorithm for each in self._expected if self.of(each.algorithm) != each), None)


def pieces_of(file: Path) -> Iterator[memoryview]:
    """A file's bytes, in pieces that are valid until the next one is asked for."""
    with file.open("rb", buffering=0) as stream:
        # No larger than needed: for small files making it is most of the work.
        buffer = memoryview(bytearray(min(PIECE, max(1, os.fstat(stream.fileno()).st_size))))
        while count := stream.readinto(buffer):
            yield buffer[:count]


def is_packed(encoding: str, uri: object) -> bool:
    """Whether an object's bytes are gzip, by its Content-Encoding; StorageRefusedError where it is another coding."""
    codings = [coding for coding in (part.strip().lower() for part in encoding.split(",")) if coding]
    packed = [coding for coding in codings if coding in _GZIP | _NOT_READ]
    if len(packed) > 1 or not _GZIP.issuperset(packed):
        raise StorageRefusedError(
            f"{uri}: is stored with Content-Encoding {', '.join(codings)}, and gzip alone is unpacked; store it with "
            "gzip, or as it is"
        )
    return bool(packed)


def unpacked(packed: IO[bytes], size: int, uri: object, most: int | None = None) -> Iterator[bytes]:
    """The content of so many bytes of gzip data, in pieces; StorageRefusedError if it is none, or more than `most`."""
    most, count = max(ALWAYS_ALLOWED, LARGEST_RATIO * size) if most is None else most, 0
    try:
        with gzip.GzipFile(fileobj=packed) as stream:
            while piece := stream.read(PIECE):
                count += len(piece)
                if count > most:
                    raise StorageRefusedError(
                        f"{uri}: its {size} bytes of gzip unpack to more than {most}; store it as it is"
                    )
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise StorageRefusedError(
            f"{uri}: is stored with Content-Encoding gzip, and its bytes are no whole gzip data ({error}); store it "
            "again, packed, or without that encoding"
        ) from error
