"""A gzip-compressed file inflated in large pieces."""

from __future__ import annotations

import zlib
from typing import IO

GZIP_MAGIC = b"\x1f\x8b"
_COMPRESSED = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class Inflated:
    """What a gzip-compressed file holds, its checksums compared.

    Python 3.11's gzip inflates 8 KiB at once, and takes the interpreter's lock for each: beside threads that compute it
    waits longer than it inflates.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._ahead = raw, b""
        self._member = zlib.decompressobj(_GZIP)

    def read(self, count: int) -> bytes:
        """Some bytes, at most `count`; none at the end.

        EOFError: the file ends within its compressed data. zlib.error: these are damaged.
        """
        while True:
            given = self._ahead or self._raw.read(_COMPRESSED)
            if self._member.eof:
                if not given:
                    return b""
                self._ahead = given.lstrip(b"\0")  # zeros may fill the last block of a device
                if self._ahead:
                    self._member = zlib.decompressobj(_GZIP)
                continue
            data = self._member.decompress(given, count)
            self._ahead = self._member.unused_data or self._member.unconsumed_tail
            if data:
                return data
            if not given and not self._member.eof:
                raise EOFError
