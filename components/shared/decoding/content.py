"""The encoded bytes of an image: a file, a part of one, such as of an archive, or bytes in memory."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from typing import NamedTuple

from components.shared.errors import DataError
from components.shared.text import shown

DIGEST_BYTES = 16


def digest_of(data: bytes | memoryview) -> bytes:
    """BLAKE2b-128, by which encoded bytes are known again."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digest_of_stream(stream: io.BufferedReader) -> bytes:
    """As :func:`digest_of`, of all that a binary file has."""
    return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).digest()


class UnreadableImageError(Exception):
    """One image cannot be decoded; the text says why, in one line without the file's name.

    Attributes:
        digest: As :func:`digest_of` its encoded bytes; empty where they could not be read whole.
    """

    digest: bytes = b""


class FilePart(NamedTuple):
    """Bytes of a local file: all of it, or a part, as of an archive."""

    path: str
    offset: int = 0
    length: int | None = None  # None: to the file's end
    inflated: int | None = None  # the part is a raw deflate stream of so many bytes when inflated; more is an error
    crc: int | None = None  # CRC-32 of the content, where the archive has it; another one is an error

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a file."""
        return not self.offset and self.length is None and self.inflated is None


Content = FilePart | bytes


def read_content(part: FilePart, most: int) -> bytes | int:
    """The encoded bytes; their number where they are, with what they are inflated from, more than `most`.

    Raises:
        UnreadableImageError: The part ends early, or cannot be inflated to what it should be.
        DataError: The operating system does not hand the file out.
    """
    try:
        # os.open and os.read, which take a quarter of the time that open() does: most images are small.
        file = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            length = os.fstat(file).st_size - part.offset if part.length is None else part.length
            if (count := length + (part.inflated or 0)) > most:
                return count
            read = _read(file, part.offset, length)
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{shown(part.path)}: cannot be read: {error.strerror}") from error
    if part.length is not None and len(read) < length:
        raise UnreadableImageError(f"is cut short: {len(read)} of {length} bytes are there")
    content = read if part.inflated is None else _inflated(read, part.inflated)
    if part.crc is not None and zlib.crc32(content) != part.crc:
        raise UnreadableImageError("is damaged: its archive has another checksum of it")
    return content


def _read(file: int, offset: int, length: int) -> bytes:
    """At most so many bytes of an open file."""
    read = os.pread(file, length, offset)
    while len(read) < length and (more := os.pread(file, length - len(read), offset + len(read))):
        read += more  # Linux reads at most 2 GB at once
    return read


def _inflated(deflated: bytes, length: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        read = inflater.decompress(deflated, length + 1)
    except zlib.error as error:
        raise UnreadableImageError(f"cannot be inflated: {error}") from error
    if len(read) > length:
        raise UnreadableImageError(f"has more than the {length} bytes that its archive gives it")
    if len(read) < length:
        raise UnreadableImageError(f"is cut short: {len(read)} of {length} bytes are there")
    return read
