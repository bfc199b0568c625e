"""Zip archives: where each member's bytes are."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from components.shared.errors import DataError

# Its directory is read as a whole: of two million entries.
_LONGEST_DIRECTORY = 1 << 28
_LOCAL = struct.Struct("<4s22xHH")  # signature, lengths of name and of extra field
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd"}
_UTF8, _ENCRYPTED = 0x800, 0x1 | 0x40 | 0x2000


class ZipMember(NamedTuple):
    """One entry: its name, where its bytes are in the archive, and what they become."""

    name: str
    offset: int
    length: int
    inflated: int | None  # None: the bytes are stored as they are
    crc: int
    problem: str  # why it cannot be read
    is_special: bool


class _Input:
    """A file that hands out no more at once than a directory may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _LONGEST_DIRECTORY + 1) if size >= 0 else _LONGEST_DIRECTORY + 1)
        if len(data) > _LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has more than {_LONGEST_DIRECTORY} bytes; divide it")
        return data


def zip_members(path: Path, where: str) -> Iterator[ZipMember]:
    """The members in the order of their bytes; folders, whose names end with a slash, among them.

    DataError: the archive is damaged or not whole, or its members overlap.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(cast("IO[bytes]", _Input(file))) as archive:
                infos, start = archive.infolist(), archive.start_dir
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, EOFError) as error:
            raise DataError(f"{where}: is no zip archive, or damaged ({error}); fetch it again") from error
        infos.sort(key=lambda info: info.header_offset)
        end = 0
        for info in infos:
            header = os.pread(file.fileno(), _LOCAL.size, info.header_offset) if info.header_offset >= 0 else b""
            raw = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", "surrogateescape")
            if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
                raise DataError(f"{where}: is damaged at byte {info.header_offset}, or lacks a part; fetch it again")
            _, name_length, extra_length = _LOCAL.unpack(header)
            if info.header_offset < end:
                raise DataError(f"{where}: is damaged, or made to harm: its members overlap; make it again")
            offset = info.header_offset + _LOCAL.size + name_length + extra_length
            end = offset + info.compress_size
            if end > start:
                raise DataError(f"{where}: is damaged: the sizes of its members do not fit its own; fetch it again")
            if os.pread(file.fileno(), name_length, info.header_offset + _LOCAL.size) != raw:
                raise DataError(f"{where}: is damaged: a member has two names; fetch it again")
            problem, is_special = _problem(info)
            inflated = info.file_size if info.compress_type == zipfile.ZIP_DEFLATED else None
            yield ZipMember(_name(info, raw), offset, info.compress_size, inflated, info.CRC, problem, is_special)


def _name(info: zipfile.ZipInfo, raw: bytes) -> str:
    """The name: in UTF-8 if it can be, whatever the entry says, else bytes as a file system's name has them."""
    return info.orig_filename if info.flag_bits & _UTF8 else raw.decode("utf-8", "surrogateescape")


def _problem(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """Why an entry cannot be read, and whether it is no plain file; empty: it can."""
    if (kind := stat.S_IFMT(info.external_attr >> 16)) == stat.S_IFLNK:
        return "is a link, which is not followed in an archive; put the file in its place", True
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is not a file", True
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted; make the archive again without a password", False
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"is compressed by {method}, and deflate alone is read; make the archive again, or give a .tar", False
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return f"has {info.compress_size} bytes by one size and {info.file_size} by another; fetch it again", False
    return "", False
