"""Image files as people name them, one after another: files, folders with all that is below them, buckets."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from components.shared.artifacts.names import LONGEST_NAME
from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.file_names import (
    ending_of,
    is_no_data_folder,
    leads_out_of,
    left_out_as,
    why_not_read,
)
from components.shared.decoding.images import image_extensions
from components.shared.errors import DataError, InputError, StorageRefusedError
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.storage.fetch_ahead import FetchAhead
from components.shared.storage.location import AnyPath, Location, parse_location
from components.shared.storage.store import ChangedError
from components.shared.text import natural_key, shortened, shown

STANDARD_INPUT = Path("-")
_KINDS_COUNTED = 20


class ImageFile(NamedTuple):
    """One file: its name as one printable line, and what makes it a local file that can be decoded."""

    name: str
    opened: AbstractContextManager[Path]


class ImageFiles:
    """The image files at some locations, found while they are read; use as a context manager.

    Args:
        locations: Files, folders and locations in buckets; ``-``: as many as standard input has lines.
        follow_links: Whether links may lead out of a folder that is named.

    Attributes:
        left_out: How many files were found that are no images, by ending or reason.
    """

    def __init__(self, locations: Iterable[AnyPath], *, follow_links: bool = False) -> None:
        self._locations = locations
        self._follow_links = follow_links
        self._stack = ExitStack()
        self._buckets: dict[Location, FetchAhead] = {}
        self.left_out: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[ImageFile]:
        for location in self._locations:
            if location == STANDARD_INPUT:
                yield from self._listed_on_standard_input()
            else:
                yield from self._at(location)

    def _listed_on_standard_input(self) -> Iterator[ImageFile]:
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # names may be of any bytes
        for line in (line.rstrip("\r\n") for line in sys.stdin):
            try:
                location = parse_location(line) if line else None
            except InputError as error:  # one line is not to end the others; without the login that it may hold
                name, _, reason = str(error).partition(": ")
                yield _refused(name, reason)
            else:
                yield from () if location is None else self._at(location)

    def _at(self, location: AnyPath) -> Iterator[ImageFile]:
        if isinstance(location, Location):
            yield from self._in_bucket(location)
        elif location.is_dir():
            yield from self._below(str(location))
        elif location.is_file():  # whatever its name is
            yield _file(str(location))
        else:
            yield _refused(
                str(location), "is not a file" if os.path.lexists(location) else "there is no such file or folder"
            )

    def _below(self, folder: str) -> Iterator[ImageFile]:
        root = os.path.realpath(folder)
        # Each folder from the first to where this is: its real path, and what in it is still to come.
        waiting = [(root, self._listed(folder, root))]
        while waiting:
            found = next(waiting[-1][1], None)
            if found is None:
                waiting.pop()
            elif isinstance(found, ImageFile):
                yield found
            elif (real := os.path.realpath(found)) in [above for above, _ in waiting]:
                problem = "is a link to a folder above it, which would be read without end; remove the link"
                yield _refused(found, problem)
            else:
                waiting.append((real, self._listed(found, root)))

    def _listed(self, folder: str, root: str) -> Iterator[ImageFile | str]:
        """A folder's images, and the paths of its folders, 2.png before 10.png."""
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            yield _refused(folder, f"cannot be read: {error.strerror or error}")
            return
        # Cameras write a raw file beside a JPEG.
        stems = {_stem(entry.name) for entry in entries if ending_of(entry.name) in image_extensions()}
        for entry in entries:
            try:
                yield from self._entry(entry, root, stems)
            except OSError as error:  # such as a link to itself
                yield _refused(entry.path, f"cannot be read: {error.strerror or error}")

    def _entry(self, entry: os.DirEntry[str], root: str, stems: Collection[str]) -> Iterator[ImageFile | str]:
        is_folder, name, ending = entry.is_dir(), entry.name, ending_of(entry.name)
        is_image = not is_folder and ending in image_extensions()
        if is_folder and is_no_data_folder(name):
            self._leave_out("folders that are no data")
        elif not is_folder and (reason := left_out_as(name)):
            self._leave_out(reason)
        elif (is_folder or is_image) and entry.is_symlink() and self._leads_out(entry.path, root):
            yield _refused(entry.path, leads_out_of(root, "what it leads to" if is_folder else "the file"))
        elif is_folder:
            yield entry.path
        elif is_image:
            problem = "is not a file, or a link that leads nowhere; remove it"
            yield _file(entry.path) if entry.is_file() else _refused(entry.path, problem)
        elif (problem := why_not_read(ending) or "") and _stem(name) not in stems:
            yield _refused(entry.path, problem)
        else:
            self._leave_out(shown(ending)[:20] or "no ending")

    def _leads_out(self, path: str, root: str) -> bool:
        return not self._follow_links and not Path(os.path.realpath(path)).is_relative_to(root)

    def _in_bucket(self, location: Location) -> Iterator[ImageFile]:
        whole = Location(location.scheme, location.bucket, "")
        if whole not in self._buckets:
            bucket = FetchAhead(whole, os.environ.get(SCRATCH_VARIABLE))
            self._buckets[whole] = self._stack.enter_context(bucket)
        bucket = self._buckets[whole]
        for stored in bucket.objects(location):
            address = str(whole.child(stored.key))
            *folders, name = stored.key.removeprefix(location.prefix).split("/")
            ending = ending_of(name)
            if stored.key == location.key:  # whatever its name is
                yield ImageFile(shown(address, LONGEST_NAME), _fetched(bucket.fetch(stored)))
            elif any(map(is_no_data_folder, folders)):
                self._leave_out("files in folders that are no data")
            elif reason := left_out_as(name):
                self._leave_out(reason)
            elif ending in image_extensions():
                yield ImageFile(shown(address, LONGEST_NAME), _fetched(bucket.fetch(stored)))
            elif problem := why_not_read(ending):
                yield _refused(address, problem)
            else:
                self._leave_out(shown(ending)[:20] or "no ending")

    def _leave_out(self, what: str) -> None:
        is_counted = what in self.left_out or len(self.left_out) < _KINDS_COUNTED
        self.left_out[what if is_counted else "other endings"] += 1


def _stem(name: str) -> str:
    return name[: len(name) - len(ending_of(name))].casefold()


def _file(path: str) -> ImageFile:
    return ImageFile(shown(path, LONGEST_NAME), _there(Path(path)))


def _refused(path: str, reason: str) -> ImageFile:
    return ImageFile(shown(path, LONGEST_NAME), _raising(reason))


@contextmanager
def _there(path: Path) -> Iterator[Path]:
    try:
        yield path
    except DataError as error:  # of one file, which is not to end the others
        raise UnreadableImageError(str(error).removeprefix(f"{shown(path)}: ")) from error


@contextmanager
def _raising(reason: str) -> Iterator[Path]:
    raise UnreadableImageError(reason)
    yield Path()


@contextmanager
def _fetched(fetching: AbstractContextManager[Path]) -> Iterator[Path]:
    try:
        with fetching as path:
            yield path
    except ChangedError as error:
        raise UnreadableImageError("was removed or replaced while the others were read; start again") from error
    except StorageRefusedError as error:
        raise UnreadableImageError(shortened(str(error), 300)) from error
