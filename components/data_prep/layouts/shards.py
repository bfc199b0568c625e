"""Shards: tar files of samples, of which those members are read that are files of samples, in their order."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from components.data_prep.trees.tar_files import TarInput, not_plain, tar_members
from components.shared.decoding.file_names import is_no_data_folder, left_out_as
from components.shared.errors import DataError
from components.shared.text import shown

_ENDINGS = (".tar", ".tar.gz", ".tgz")


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

    def __init__(self, stream: TarInput, where: str) -> None:
        self.where, self.is_compressed = where, bool(stream.compression)
        self.skipped: Counter[str] = Counter()
        self._stream = stream

    def members(self) -> Iterator[Member]:
        """Its files in their order; DataError: it is no tar, is cut off, or a name leads out of it."""
        for member in tar_members(self._stream):
            if not (kind := _left_out_as(member)):
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise DataError(
                        f"{self.where}: the name {shown(member.name)} leads out of the shard; write it relative to it"
                    )
                yield Member(posixpath.normpath(member.name), member.offset_data, member.size)
            elif not member.isdir():
                self.skipped[kind] += 1

    def read(self, member: Member) -> bytes:
        """The bytes of a member: of the one that was last given, or of one behind it."""
        self._stream.seek(member.offset)
        return b"".join(self._stream.pieces(member.size))


@contextmanager
def open_shard(file: Path, where: str) -> Iterator[Shard]:
    """Open a shard, called `where` in messages; what goes wrong with reading it is a :class:`DataError`."""
    try:
        with TarInput(file, where) as stream:
            yield Shard(stream, where)
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
    if member.issym() or member.islnk():
        return "links"
    return "no plain files" if not_plain(member) else ""
