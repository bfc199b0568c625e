"""Objects that are stored with Content-Encoding gzip: their content is what was packed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import IO

from components.shared.errors import StorageRefusedError
from components.shared.storage.checksums import PIECE

GZIP_MAGIC = b"\x1f\x8b"
# gzip packs at most a thousand to one. What is unpacked without a known size is bounded below that.
LARGEST_RATIO = 100
ALWAYS_ALLOWED = 1 << 30  # bytes

# As registered for HTTP (RFC 9110, 8.4.1), but for gzip.
_NOT_READ = frozenset({"br", "compress", "x-compress", "deflate", "zstd"})
# Others are no encodings, and servers keep whatever they are given: "utf-8" is common, and what S3's own clients add.
_GZIP = frozenset({"gzip", "x-gzip"})


def is_packed(encoding: str, uri: object) -> bool:
    """Whether an object's bytes are gzip and are to be unpacked, by its Content-Encoding.

    Raises:
        StorageRefusedError: They are packed in a way that is not read.
    """
    codings = [coding for coding in (part.strip().lower() for part in encoding.split(",")) if coding]
    packed = [coding for coding in codings if coding in _GZIP or coding in _NOT_READ]
    if len(packed) > 1 or any(coding in _NOT_READ for coding in packed):
        raise StorageRefusedError(
            f"{uri}: is stored with Content-Encoding {', '.join(codings)}, and gzip alone is unpacked; store it with "
            "gzip, or as it is"
        )
    return bool(packed)


def unpacked(packed: IO[bytes], size: int, uri: object, expected: int | None = None) -> Iterator[bytes]:
    """The content of so many bytes of gzip data, in pieces; at most `expected` bytes, where that is known.

    Raises:
        StorageRefusedError: It is no gzip, damaged, or unpacks to too much.
    """
    most = max(ALWAYS_ALLOWED, LARGEST_RATIO * size) if expected is None else expected
    count = 0
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


def unpacked_bytes(data: bytes, uri: object) -> bytes:
    """The content of a small object's gzip data; raises as :func:`unpacked` does."""
    return b"".join(unpacked(io.BytesIO(data), len(data), uri, LARGEST_RATIO * PIECE))
