"""Tar archives, plain or compressed by gzip or bzip2: their members in order, read as a stream.

tarfile reads the headers. It takes a damaged header for the end of the archive, and reads headers of any claimed size
into memory: here the first is an error, and the second bounded.
"""

from __future__ import annotations

import bz2
import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from components.shared.errors import DataError
from components.shared.storage.content import ALWAYS_ALLOWED, LARGEST_RATIO, PIECE

_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# Long names and extended attributes; a name has at most 4 KiB.
_LONGEST_HEADER = 1 << 16
# tarfile searches such headers by an expression that takes a time quadratic in the digits that follow each other.
_MANY_DIGITS = re.compile(rb"\d{256}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2"}
_NOT_READ = {b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarInput:
    """The bytes of a tar archive from its beginning to its end, unpacked; use as a context manager.

    Args:
        path: The archive.
        where: It, for messages.

    Attributes:
        compression: ``gzip``, ``bzip2``, or empty.
    """

    def __init__(self, path: Path, where: str) -> None:
        self._where = where
        self._raw = path.open("rb")
        self._size = os.fstat(self._raw.fileno()).st_size
        start = self._raw.read(6)
        self._raw.seek(0)
        if kind := next((kind for magic, kind in _NOT_READ.items() if start.startswith(magic)), ""):
            self._raw.close()
            raise DataError(f"{where}: is compressed by {kind}, which is not read here; compress it by gzip, or not")
        self.compression = next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), "")
        self._stream: IO[bytes] = self._raw
        if self.compression:
            opened = gzip.GzipFile(fileobj=self._raw) if self.compression == "gzip" else bz2.BZ2File(self._raw)
            self._stream = cast("IO[bytes]", opened)
        self._position = 0
        self._most = max(ALWAYS_ALLOWED, LARGEST_RATIO * self._size)

    def __enter__(self) -> TarInput:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def error(self, problem: str) -> DataError:
        """An error about the archive as a whole."""
        return DataError(f"{self._where}: {problem}")

    def tell(self) -> int:
        """How many bytes came so far."""
        return self._position

    def read(self, size: int) -> bytes:
        """A header; tarfile's face to it."""
        if not 0 <= size <= _LONGEST_HEADER:
            raise self.error(f"has a header of {size} bytes, and {_LONGEST_HEADER} are read at most")
        data = b"".join(self._pieces(size))
        if len(data) > tarfile.BLOCKSIZE and _MANY_DIGITS.search(data):
            raise self.error("has a header with a number of more than 255 digits")
        return data

    def seek(self, position: int) -> None:
        """Go on to a later position, which must be there."""
        if position < self._position:
            raise self.error("is damaged: its headers lead back; fetch it again")
        if self.compression:
            for _ in self.pieces(position - self._position):
                pass
        elif position > self._size:
            raise self._ends_early()
        else:
            self._raw.seek(position)
            self._position = position

    def pieces(self, size: int) -> Iterator[bytes]:
        """So many of the next bytes, in pieces; an error if they end before."""
        end = self._position + size
        yield from self._pieces(size)
        if self._position < end:
            raise self._ends_early()

    def rest_is_zero(self) -> bool:
        """Whether nothing but zeros follow; by this a checksum at the end of compressed data is compared, too."""
        return not any(piece.strip(b"\0") for piece in self._pieces(self._most + 1))

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            try:
                data = self._stream.read(min(PIECE, size))
            except EOFError as error:
                raise self._ends_early() from error
            except (zlib.error, gzip.BadGzipFile, OSError, ValueError) as error:
                raise self.error(f"is damaged: its {self.compression} data cannot be read ({error})") from error
            if not data:
                return
            size -= len(data)
            self._position += len(data)
            if self.compression and self._position > self._most:
                raise self.error(
                    f"its {self._size} bytes unpack to more than {self._most}, {LARGEST_RATIO} times as many, which "
                    "is not read; make it a plain .tar"
                )
            yield data

    def _ends_early(self) -> DataError:
        return self.error(f"ends early, after {self._size} bytes; fetch it again")


def tar_members(stream: TarInput) -> Iterator[tarfile.TarInfo]:
    """The members in the order of the archive; until the next one is asked for, `stream` can read a member's content.

    DataError: the archive is damaged, or not whole.
    """
    end = -1
    try:
        # strict UTF-8 would refuse names that file systems have.
        with tarfile.TarFile(
            fileobj=cast("IO[bytes]", stream), encoding="utf-8", errors="surrogateescape"
        ) as tar:  # reads the first header
            info = tar.next()
            while info is not None:
                if info.size < 0 or tar.offset <= end:
                    raise stream.error("is damaged: its headers lead back; fetch it again")
                yield info
                end = tar.offset
                stream.seek(end)
                info = tarfile.TarInfo.fromtarfile(tar)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # typeshed lacks it
        pass
    except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
        raise stream.error("ends without the mark that a whole tar archive ends with; fetch it again") from error
    except (tarfile.TarError, RecursionError, ValueError, OverflowError) as error:
        what = "is no tar archive" if end < 0 else f"is damaged at byte {end}"
        raise stream.error(f"{what} ({error}); fetch it again") from error
    if not stream.rest_is_zero():
        raise stream.error(
            "goes on after its end mark, as archives do that were put one behind the other; make one archive of them"
        )


def not_plain(info: tarfile.TarInfo) -> str:
    """Why a member is no plain file; empty: it is."""
    if info.issym() or info.islnk():
        return "is a link, which is not followed in an archive; put the file in its place"
    if info.sparse is not None or info.type == tarfile.GNUTYPE_SPARSE:
        return "is a sparse file, which is not read in an archive; make the archive without --sparse"
    return "" if info.type in _PLAIN_TYPES else "is not a file"
