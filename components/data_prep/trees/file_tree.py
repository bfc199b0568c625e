"""The files of the data, wherever they are: names as a tree of folders, content on demand."""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from components.data_prep.contents import Block, Encoded, FilePart, Read
from components.data_prep.trees.folder_tree import Folder, identity, read_tree, shows_picture
from components.shared.decoding.file_names import ending_of, leads_out_of
from components.shared.decoding.images import image_extensions
from components.shared.errors import DataError
from components.shared.text import shown

# Of the n files of a split, uint64 of shape (n,); 0: none is known.
Stamps = npt.NDArray[np.uint64]
# The coarsest clock of a file system that is in use: within this time a second change may not show.
_COARSE_NS = 2_000_000_000


def stamp_of(path: str | Path, now_ns: int, within: str = "") -> int:
    """A hash of what the file system says of a file, unlike another's or a changed one's; 0: none is known.

    Args:
        path: The file, or what a link leads to.
        now_ns: The time, in nanoseconds since 1970: what has been changed just now may be changed again, unseen.
        within: Which part of the file is meant.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - of a million files
    except OSError:  # reported when it is read
        return 0
    if max(found.st_mtime_ns, found.st_ctime_ns) > now_ns - _COARSE_NS:
        return 0
    values = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, within)
    digest = hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _state(path: Path) -> tuple[int, int] | None:
    """What changes with a file's content; no inode, of which some network file systems make another each time."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class FileTree(ABC):
    """Files by their paths below the data, separated by ``/``; use as a context manager, within which they are read.

    Attributes:
        name: The data as the user names it: a path or a URI.
        kind: What it is, such as ``a zip archive``.
        root: All names below it.
        is_file: Whether it is one file, which is all that the tree holds.
        stack: What ends when the tree is closed.
    """

    name: str
    kind: str
    root: Folder

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind, self.is_file = name, kind, False
        self.stack = ExitStack()
        self._watched: dict[Path, tuple[str, tuple[int, int] | None]] = {}

    def at(self, file: str = "") -> str:
        """Where a file or folder is, for messages, as one printable line; the data itself is empty."""
        return shown(f"{self.name.rstrip('/')}/{file}" if file else self.name)

    @abstractmethod
    def local(self, file: str) -> Path:
        """A local file with the content of one that is no image, such as a table; it stays while the tree is open.

        DataError: it is no file, leads out of the data, cannot be read, or is too large to be unpacked.
        """

    @contextmanager
    def borrowed(self, file: str) -> Iterator[Path]:
        """A local file as of `local`, which may end with the context, where not all there are could be kept."""
        path = self.local(file)
        self.watch(path, self.at(file))
        yield path

    def watch(self, path: Path, where: str) -> None:
        """Note how a file is now, called `where` in messages, of which parts are read later by what is listed now."""
        self._watched.setdefault(path, (where, _state(path)))

    def check_unchanged(self) -> None:
        """DataError: a file was changed between being listed and now, so that images may have others' labels."""
        for path, (where, state) in self._watched.items():
            if _state(path) != state:
                raise DataError(
                    f"{where}: was changed while it was read, so that images may have got labels of others; run again "
                    "once it stays as it is"
                )

    @abstractmethod
    def read(self, files: Sequence[str]) -> Read:
        """What hands out images by their positions in `files`."""

    def stamps(self, files: Sequence[str]) -> Stamps:
        """What files are known again by, as long as they are not changed; 0: nothing."""
        return np.zeros(len(files), dtype=np.uint64)

    @abstractmethod
    def is_picture(self, real: str) -> bool:
        """Whether a file is a picture by its content, whatever its name; `real` is its path in the tree's folders."""

    def identity(self, folder: Folder, name: str) -> str:
        """What a file, with an image's ending or not, shares with every link to it.

        DataError: why it may not be read, without where it is.
        """
        return folder.identity(name)

    def unwrap(self) -> bool:
        """Take the one folder that holds all for the data, where that is common, as in archives; whether it was."""
        return False

    def around(self) -> FileTree:
        """Of a tree that is one file: the tree of the folder in which it is, to be closed by itself."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is being fetched, and remove temporary files."""
        self.stack.close()


class LocalTree(FileTree):
    """A folder of this machine; or of one file the tree that holds it alone, by its name."""

    def __init__(self, data: Path, *, follow_links: bool = False) -> None:
        is_file = data.is_file()
        super().__init__(str(data), "a file" if is_file else "a folder")
        self.is_file = is_file
        self.data = data.parent if self.is_file else data
        self._real_root = "" if follow_links else os.path.realpath(self.data)
        self.follow_links = follow_links
        if self.is_file:
            self.root = Folder(os.path.realpath(self.data), others=[data.name])
        else:
            self.root = read_tree(data, follow_links=follow_links)

    def at(self, file: str = "") -> str:
        """Where a file or folder is; of one file the tree is at the file."""
        return shown(self.data / file) if self.is_file and file else super().at(file)

    def local(self, file: str) -> Path:
        """The file itself."""
        path = self.data / file
        if self._real_root and not self.is_file and not Path(os.path.realpath(path)).is_relative_to(self._real_root):
            raise DataError(f"{self.at(file)}: {leads_out_of(self.data, 'the file')}")
        if not path.is_file():  # opening a pipe would wait for its other end
            raise DataError(f"{self.at(file)}: is not a file")
        return path

    def read(self, files: Sequence[str]) -> Read:
        """What hands out paths, in ascending order."""
        return partial(_paths, f"{self.data}/", files)

    def stamps(self, files: Sequence[str]) -> Stamps:
        """Stamps of what the file system says of each."""
        now = time.time_ns()
        return np.fromiter((stamp_of(f"{self.data}/{file}", now) for file in files), np.uint64, len(files))

    def around(self) -> FileTree:
        """The tree of the file's folder."""
        return LocalTree(self.data, follow_links=self.follow_links)

    def is_picture(self, real: str) -> bool:
        """Whether a file is a picture by its content."""
        return shows_picture(Path(real))

    def identity(self, folder: Folder, name: str) -> str:
        """What a file shares with every link to it, symbolic or hard."""
        if name in folder.linked:
            return folder.linked[name]
        real = folder.path(name)
        if ending_of(name) not in image_extensions():  # links with such an ending alone are known to the tree
            real = os.path.realpath(real)
            if self._real_root and not Path(real).is_relative_to(self._real_root):
                raise DataError(leads_out_of(self._real_root, "the file"))
        with suppress(OSError):  # reported when it is read
            return identity(real, os.stat(real))  # noqa: PTH116 - of a million files
        return real


def _paths(start: str, files: Sequence[str], wanted: Collection[int]) -> Iterator[Encoded | Block]:
    for position in sorted(wanted):
        yield Encoded(position, FilePart(start + files[position]))
