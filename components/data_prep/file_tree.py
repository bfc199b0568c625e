"""The files of the data, wherever they are: names as a tree of folders, content on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from components.data_prep.contents import Block, Encoded, FilePart, Read
from components.data_prep.folder_tree import Folder, read_tree
from components.shared.text import shown


class FileTree(ABC):
    """Files by their paths below the data, separated by ``/``; use as a context manager, within which they are read.

    Attributes:
        name: The data as the user names it: a path or a URI.
        root: All names below it.
    """

    name: str
    root: Folder

    def at(self, file: str = "") -> str:
        """Where a file or folder is, for messages, as one printable line; the data itself is empty."""
        return shown(f"{self.name}/{file}" if file else self.name)

    @abstractmethod
    def local(self, file: str) -> Path:
        """A local file with the content of one that is no image, such as a table; it stays while the tree is open.

        DataError: it cannot be read, or is too large to be unpacked.
        """

    @abstractmethod
    def read(self, files: Sequence[str]) -> Read:
        """What hands out images by their positions in `files`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 # most have nothing to close
        """Give up what is being fetched, and remove temporary files."""


class LocalTree(FileTree):
    """A folder of this machine."""

    def __init__(self, data: Path, *, follow_links: bool = False) -> None:
        self.data, self.name, self.follow_links = data, str(data), follow_links
        self.root = read_tree(data, follow_links=follow_links)

    def local(self, file: str) -> Path:
        """The file itself."""
        return self.data / file

    def read(self, files: Sequence[str]) -> Read:
        """What hands out paths, in ascending order."""
        return partial(_paths, f"{self.data}/", files)


def _paths(start: str, files: Sequence[str], wanted: Collection[int]) -> Iterator[Encoded | Block]:
    for position in sorted(wanted):
        yield Encoded(position, FilePart(start + files[position]))
