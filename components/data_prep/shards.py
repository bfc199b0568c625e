"""Tar files of samples, plain or gzip-compressed, read from front to back: members, and their bytes where wanted."""

from __future__ import annotations

import gzip
import posixpath
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

from components.shared.decoding.file_names import is_no_data_folder, left_out_as
from components.shared.errors import DataError
from components.shared.storage.content import ALWAYS_ALLOWED, GZIP_MAGIC, LARGEST_RATIO
from components.shared.text import shown

_ENDINGS = (".tar", ".tar.gz", ".tgz")
# tarfile reads headers whole: 512 bytes, a long name of at most 4,096, or PAX's records.
_LARGEST_HEADER = 64 << 10
_BLOCK = 512
_PIECE = 1 << 20


class Member(NamedTuple):
    """A file in a shard: its path there, and where its bytes are in the shard, once that is unpacked."""

    name: str
    offset: int
    size: int


def stem_of(shard: str) -> str:
    """A shard's path without its ending; empty for what is no shard by its name."""
    ending = next((ending for ending in _ENDINGS if shard.lower().endswith(ending)), shard)
    return shard[: len(shard) - len(ending)]


class Shard:
    """One open shard.

    Attributes:
        is_compressed: Whether offsets are into what is unpacked, not into the file.
        skipped: How many members are no files of samples, such as links, hidden ones and those of systems, by kind.
    """

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, where: str, most: int | None) -> None:
        self.where, self.is_compressed = where, most is not None
        self.skipped: Counter[str] = Counter()
        self._source = _Source(stream, most)

    def members(self) -> Iterator[Member]:
        """Its files in their order; DataError: it is no tar, is cut off, or a name leads out of it."""
        try:
            tar = tarfile.open(fileobj=cast("IO[bytes]", self._source), mode="r:")  # noqa: SIM115 # holds nothing open
            kept: list[tarfile.TarInfo] = vars(tar)["members"]
            while (member := tar.next()) is not None:
                kept.clear()  # else they become as many as there are
                if member.size < 0:
                    raise tarfile.ReadError("a size is below zero")
                if not (kind := _left_out_as(member)):
                    yield Member(self._path(member.name), member.offset_data, member.size)
                elif not member.isdir():
                    self.skipped[kind] += 1
            # tarfile takes a damaged header, or none, for the end.
            if self._source.last != bytes(_BLOCK):
                raise tarfile.ReadError("it ends without the mark of its end")
            self._source.read_to_the_end()
        except (tarfile.TarError, ArithmeticError, LookupError, RecursionError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def read(self, member: Member) -> bytes:
        """The bytes of a member: of the one that was last given, or of one behind it."""
        try:
            data = self._source.take(member.offset, member.size)
        except tarfile.TarError as error:
            raise self._damaged(str(error)) from error
        if len(data) < member.size:
            raise self._damaged(f"it ends within {shown(member.name)}")
        return data

    def _path(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{self.where}: the name {shown(name)} leads out of the shard; write it relative to it")
        return posixpath.normpath(name)

    def _damaged(self, how: str) -> DataError:
        return DataError(f"{self.where}: is no whole tar file: {shown(how)}; fetch or write it again")


@contextmanager
def open_shard(file: Path, where: str) -> Iterator[Shard]:
    """Open a shard, called `where` in messages; what goes wrong with reading it is a :class:`DataError`."""
    try:
        with file.open("rb") as raw:
            if raw.peek(2)[:2] != GZIP_MAGIC:
                yield Shard(raw, where, None)
                return
            most = max(ALWAYS_ALLOWED, LARGEST_RATIO * file.stat().st_size)
            # Not tarfile's own, which reads the first part of what several were joined to, and compares no checksum.
            with gzip.GzipFile(fileobj=raw) as stream:
                yield Shard(stream, where, most)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{where}: its compressed data cannot be read: {error}; fetch or write it again") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error


def unpacked(data: bytes, most: int) -> bytes | None:
    """The content of gzip data; None if it is none, or more than `most` bytes."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        content = unpacking.decompress(data, most)
    except zlib.error:
        return None
    return content if unpacking.eof else None


def _left_out_as(member: tarfile.TarInfo) -> str:
    """What a member counts as that is no file of a sample; empty: it may be one."""
    *folders, name = member.name.removeprefix("./").split("/")
    first = (folders or [name])[0]
    if member.isdir():
        return "folders"
    if kind := left_out_as(name):
        return kind
    if any(is_no_data_folder(folder) for folder in folders if folder not in (".", "..")):
        return "hidden"
    if len(first) > 4 and first.startswith("__") and first.endswith("__"):  # the library's own: of the shard
        return "metadata of shards"
    if member.issparse():
        return "sparse files"
    return "" if member.isreg() else "links" if member.islnk() or member.issym() else "no plain files"


class _Source:
    """What tarfile reads headers from: small reads, and seeks that go on, or back by the byte that it looks at again.

    So that the headers of compressed shards are found without a copy, and no lying size takes memory or time.
    """

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, most: int | None) -> None:
        self._stream, self._most = stream, most
        self._position = 0
        self._is_behind = False
        self.last = b""  # what was read last

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position - 1:
            raise tarfile.ReadError("a size is below zero")
        if self._most is not None and position > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {self._most} bytes, {LARGEST_RATIO} times its own")
        self._is_behind = position < self._position
        if not self._is_behind:
            self._stream.seek(position)
        self._position = position

    def read(self, count: int) -> bytes:
        if count > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header has {count} bytes, and {_LARGEST_HEADER} are read")
        if self._is_behind:
            self._is_behind = False
            self._position += 1
            return b"\0"
        self.last = self._stream.read(count)
        self._position += len(self.last)
        return self.last

    def take(self, position: int, count: int) -> bytes:
        self.seek(position)
        data = self._stream.read(count)
        self._position += len(data)
        return data

    def read_to_the_end(self) -> None:
        """Read what is behind the mark of the end: only zeros, and with compressed data the checksum."""
        while piece := self.take(self._position, _PIECE):
            if piece.strip(b"\0"):
                raise tarfile.ReadError("more follows the mark of its end, as where two were joined")
