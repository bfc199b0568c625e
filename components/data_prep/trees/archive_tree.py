"""The files in an archive: found by its headers, and read where they are; it is never unpacked as a whole."""

from __future__ import annotations

import io
import os
import re
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.data_prep.contents import Block, Encoded, FilePart, Read
from components.data_prep.splits import split_of
from components.data_prep.trees.file_tree import FileTree, Stamps, stamp_of
from components.data_prep.trees.folder_tree import Folder, shows_picture
from components.data_prep.trees.name_tree import NameTree
from components.data_prep.trees.tar_files import TarInput, not_plain, tar_members
from components.data_prep.trees.zip_files import zip_members
from components.shared.artifacts.dataset import SplitName
from components.shared.decoding.file_names import ending_of, why_not_read
from components.shared.decoding.images import image_extensions
from components.shared.errors import DataError
from components.shared.storage.content import ALWAYS_ALLOWED, LARGEST_RATIO, PIECE
from components.shared.text import shown

# An image that is not read where it is, but unpacked, is in memory as a whole.
LARGEST_UNPACKED = 1 << 28
# By this much of its beginning a file without an image's ending is recognised as a picture.
_BEGINNING = 1 << 24
_ARCHIVE = re.compile(r"(?P<stem>.+)\.(?:zip|tar|tgz|tbz2?|tar\.(?:gz|bz2))", re.IGNORECASE | re.DOTALL)
_OTHER_ARCHIVE = re.compile(r".+\.(?:txz|tzst|7z|rar|tar\.(?:xz|zst|lz|z))", re.IGNORECASE | re.DOTALL)
# Beside the one folder of an archive; other files may be part of a layout.
_DOCUMENTS = frozenset({"", ".txt", ".md", ".rst", ".pdf", ".html", ".htm"})


def is_archive(name: str) -> bool:
    """Whether a file name is that of an archive that is read."""
    return _ARCHIVE.fullmatch(name) is not None


def stem_of(name: str) -> str:
    """An archive's name without its ending."""
    found = _ARCHIVE.fullmatch(name)
    return found["stem"] if found else name


def is_other_archive(name: str) -> bool:
    """Whether a file name is that of an archive of a kind that is not read."""
    return _OTHER_ARCHIVE.fullmatch(name) is not None


class _Member(NamedTuple):
    """Where a file's bytes are in the archive, or in what it is unpacked to."""

    offset: int
    length: int
    inflated: int | None = None  # size of what deflated bytes become
    crc: int | None = None  # of the content


class ArchiveTree(FileTree):
    """A tar archive, plain or compressed by gzip or bzip2, or a zip archive.

    Args:
        path: The archive.
        name: It as the user names it.
        split: The split that it holds, where it is named after one.
        scratch: Directory for the temporary files; None: the machine's.
    """

    def __init__(self, path: Path, name: str, split: SplitName | None = None, scratch: str | None = None) -> None:
        super().__init__(name, "a tar archive")
        self._split = split
        self._path, self._scratch = path, scratch
        self._folder: Path | None = None  # for what is unpacked
        self._members: dict[str, _Member] = {}
        self._problems: dict[str, str] = {}  # of files without an image's ending
        self._pictures: set[str] = set()  # in a compressed archive, which is read once for all of them
        self._prefix = ""
        names = NameTree(self._inner)
        self._compression = ""
        self.watch(path, shown(name))
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            self.kind = "a zip archive"
            self._index_zip(names)
        else:
            self._index_tar(names)
        self.root = names.root()
        if [*self.root.folders] == [stem_of(name.rpartition("/")[2])]:  # as tar czf photos.tar.gz photos makes it
            self.unwrap()

    def _inner(self, path: str) -> str:
        return shown(f"{self.name}/{path}" if path else self.name)

    def at(self, file: str = "") -> str:
        """Where a file is: the archive's name and the path in it."""
        return self._inner(f"{self._prefix}{file}" if file else "")

    def _index_tar(self, names: NameTree) -> None:
        with TarInput(self._path, shown(self.name)) as stream:
            self._compression = stream.compression
            if stream.compression:
                self.kind = f"a {stream.compression}-compressed tar archive"
            for info in tar_members(stream):
                if not (path := self._path_of(info.name)):
                    continue
                if info.isdir():
                    names.add_folder(path)
                    continue
                problem = not_plain(info)
                if not names.add(path, problem, is_special=bool(problem)) or problem:
                    continue
                self._members[path] = _Member(info.offset_data, info.size)
                ending = ending_of(path.rpartition("/")[2])
                if stream.compression and ending not in image_extensions() and not why_not_read(ending):
                    start = io.BytesIO(b"".join(stream.pieces(min(info.size, _BEGINNING))))
                    if shows_picture(start):
                        self._pictures.add(path)

    def _index_zip(self, names: NameTree) -> None:
        for member in zip_members(self._path, shown(self.name)):
            if "\\" in member.name:
                raise DataError(
                    f"{self._inner(member.name)}: has \\ in its name, and / is between folders; make it again"
                )
            if not (path := self._path_of(member.name)):
                continue
            if member.name.endswith("/"):
                names.add_folder(path)
                continue
            if not names.add(path, member.problem, is_special=member.is_special):
                continue
            self._members[path] = _Member(member.offset, member.length, member.inflated, member.crc)
            if member.problem:
                self._problems[path] = member.problem

    def _path_of(self, name: str) -> str:
        """A member's name as a path below the archive's root; empty: the root."""
        if name.startswith("/"):
            raise DataError(f"{self._inner(name)}: is an absolute path in an archive; make it again with relative ones")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise DataError(f"{self._inner(name)}: leads out of the archive by its name; make it again")
        return "/".join(parts)

    def unwrap(self) -> bool:
        """Take the one folder in the archive for the data, which is not that of another split, nor of a class."""
        outer = self.root
        if len(outer.folders) != 1 or outer.images or outer.problems:
            return False
        ((name, inner),) = outer.folders.items()
        documents = [ending_of(other) for other in outer.others]
        if split_of(name) not in (None, self._split) or not (inner.folders or inner.others):
            return False
        if not _DOCUMENTS.issuperset(documents):
            return False
        self._prefix = f"{self._prefix}{name}/"
        inner.counted += outer.counted
        inner.counted.update(ending or "no ending" for ending in documents)
        inner.left_out += outer.left_out
        self.root = inner
        place(inner, "")
        return True

    def local(self, file: str) -> Path:
        """What is unpacked of the archive, once."""
        path = f"{self._prefix}{file}"
        if problem := self._problems.get(path):
            raise DataError(f"{self.at(file)}: {problem}")
        if (member := self._members.get(path)) is None:
            raise DataError(f"{self.at(file)}: is not a file")
        if self._folder is None:
            self._folder = Path(
                self.stack.enter_context(tempfile.TemporaryDirectory(prefix="shutterline-", dir=self._scratch))
            )
        # Of its name nothing but its ending matters to what reads it.
        unpacked = self._folder / f"{member.offset}-{os.path.basename(file)[-100:]}"  # noqa: PTH119
        if not unpacked.exists():
            # By another name until it is whole, as what is damaged may be asked for again.
            begun = unpacked.with_name("begun")
            with begun.open("wb") as stream:
                for piece in self._content(path, member):
                    stream.write(piece)
            begun.rename(unpacked)
        return unpacked

    def _content(self, path: str, member: _Member) -> Iterator[bytes]:
        """A member's content in pieces, its checksum and size compared where the archive has them."""
        if self._compression:
            with TarInput(self._path, shown(self.name)) as stream:
                stream.seek(member.offset)
                yield from stream.pieces(member.length)
            return
        crc = count = 0
        for piece in self._inflated(path, member):
            crc, count = zlib.crc32(piece, crc), count + len(piece)
            yield piece
        size = member.length if member.inflated is None else member.inflated
        if count != size or (member.crc is not None and crc != member.crc):
            raise DataError(f"{self._inner(path)}: is damaged: its checksum or size is wrong; fetch the archive again")

    def _inflated(self, path: str, member: _Member) -> Iterator[bytes]:
        """A member's content in pieces, not more than it claims, nor than so much compressed data commonly becomes."""
        if member.inflated is None:
            yield from self._raw(member)
            return
        most = min(member.inflated, max(ALWAYS_ALLOWED, LARGEST_RATIO * member.length))
        inflate, count = zlib.decompressobj(-15), 0
        try:
            for raw in self._raw(member):
                data = raw
                while data or not inflate.eof:
                    piece = inflate.decompress(data, PIECE)
                    if (count := count + len(piece)) > most:
                        raise DataError(
                            f"{self._inner(path)}: unpacks to more than {most} bytes, from {member.length}; store it "
                            "without compression"
                        )
                    yield piece
                    data = inflate.unconsumed_tail
                    if not data and len(piece) < PIECE:
                        break
        except zlib.error as error:
            raise DataError(f"{self._inner(path)}: is damaged ({error}); fetch the archive again") from error

    def _raw(self, member: _Member) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(member.offset)
            left = member.length
            while left > 0 and (data := file.read(min(PIECE, left))):
                left -= len(data)
                yield data

    def is_picture(self, real: str) -> bool:
        """Whether a member is a picture by its beginning."""
        path = f"{self._prefix}{real.removeprefix('/')}"
        if self._compression:
            return path in self._pictures
        start = bytearray()
        try:
            for piece in self._inflated(path, self._members[path]):
                start += piece
                if len(start) >= _BEGINNING:
                    break
        except DataError:  # it is not read either
            return False
        return shows_picture(io.BytesIO(start))

    def stamps(self, files: Sequence[str]) -> Stamps:
        """Those of the archive with each path in it."""
        now = time.time_ns()
        stamps = (stamp_of(self._path, now, f"{self._prefix}{file}") for file in files)
        return np.fromiter(stamps, np.uint64, len(files))

    def read(self, files: Sequence[str]) -> Read:
        """What hands out parts of the archive or, of a compressed one, bytes: in the order of the archive."""
        return partial(self._streamed if self._compression else self._parts, files)

    def _parts(self, files: Sequence[str], wanted: Collection[int]) -> Iterator[Encoded | Block]:
        found = ((self._members[f"{self._prefix}{files[position]}"], position) for position in wanted)
        for member, position in sorted(found, key=lambda each: each[0].offset):
            if member.inflated is not None and member.inflated > LARGEST_UNPACKED:
                yield Encoded(position, b"", problem=_too_large(member.inflated))
            else:
                part = FilePart(str(self._path), *member)
                yield Encoded(position, part)

    def _streamed(self, files: Sequence[str], wanted: Collection[int]) -> Iterator[Encoded | Block]:
        left = {f"{self._prefix}{files[position]}": position for position in wanted}
        with TarInput(self._path, shown(self.name)) as stream:
            for info in tar_members(stream) if left else ():
                if (position := left.pop(self._path_of(info.name), None)) is None:
                    continue
                if info.size > LARGEST_UNPACKED:
                    yield Encoded(position, b"", problem=_too_large(info.size))
                else:
                    yield Encoded(position, b"".join(stream.pieces(info.size)))
                if not left:
                    break
        if left:
            raise DataError(f"{self._inner(min(left))}: is no longer there; do not change the archive while it is read")


def _too_large(size: int) -> str:
    return f"has {size} bytes, and a compressed archive's images are read to {LARGEST_UNPACKED}; put it beside it"


class JoinedTree(FileTree):
    """Trees side by side, each as a folder of one tree."""

    def __init__(self, name: str, trees: Mapping[str, FileTree]) -> None:
        super().__init__(name, "archives of splits")
        self._trees = trees
        for tree in trees.values():
            self.stack.push(tree)
        self._join()

    def _join(self) -> None:
        self.root = Folder("")
        for folder, tree in self._trees.items():
            place(tree.root, f"/{folder}")
            self.root.folders[folder] = tree.root

    def unwrap(self) -> bool:
        """Unwrap those trees that can be."""
        are = [tree.unwrap() for tree in self._trees.values()]
        self._join()
        return any(are)

    def check_unchanged(self) -> None:
        """As of each of the trees."""
        super().check_unchanged()
        for tree in self._trees.values():
            tree.check_unchanged()

    def _found(self, file: str) -> tuple[FileTree, str]:
        folder, _, rest = file.partition("/")
        return self._trees[folder], rest

    def at(self, file: str = "") -> str:
        """Where a file is, in the tree that it is in."""
        folder, _, rest = file.partition("/")
        return self._trees[folder].at(rest) if folder in self._trees else super().at(file)

    def local(self, file: str) -> Path:
        """A file of one of the trees."""
        tree, rest = self._found(file)
        return tree.local(rest)

    def read(self, files: Sequence[str]) -> Read:
        """What hands out the images of one tree after those of another."""
        return partial(self._read, files)

    def _read(self, files: Sequence[str], wanted: Collection[int]) -> Iterator[Encoded | Block]:
        inner = [file.partition("/")[2] for file in files]
        for folder, tree in self._trees.items():
            if here := [position for position in wanted if files[position].startswith(f"{folder}/")]:
                yield from tree.read(inner)(here)

    def is_picture(self, real: str) -> bool:
        """Whether a file of one of the trees is a picture."""
        tree, rest = self._found(real.removeprefix("/"))
        return tree.is_picture(f"/{rest}")


def place(folder: Folder, real: str) -> None:
    """Set the real paths of a folder and all below it."""
    waiting = [(folder, real)]
    while waiting:
        here, path = waiting.pop()
        here.real = path
        waiting += [(inner, f"{path}/{name}") for name, inner in here.folders.items()]
