"""The data folder as a tree: every folder is listed once, links are resolved, and what is no data is set apart.

Nothing is opened here. What cannot be read is noted beside its name, and is an error once it is to be read: a link that
leads out of the data, a link to a folder above it, a pipe with the name of an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.data_prep.images import image_extensions
from components.data_prep.source import shown
from components.shared.artifacts.artifact import WRITING_MARKER
from components.shared.artifacts.dataset import DATASET
from components.shared.errors import DataError

# What file systems, file servers and tools put beside people's files: thumbnails, deleted files, snapshots. Compared
# without regard to case, since Windows writes $RECYCLE.BIN and $Recycle.Bin. So are folders with a leading dot.
SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharebin", "@tmp"),  # Synology, QNAP
        *("__macosx", "network trash folder", "temporary items"),  # macOS
        *("$recycle.bin", "system volume information"),  # Windows
        *("lost+found", "__pycache__"),
    }
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_DATASET_FOLDER = "a dataset directory"
# A recycle bin or a snapshot may hold more than the data: beyond this many files of one folder they are not counted.
COUNTED_FILES = 10_000
_HARD = "\0"  # which no path has


@dataclass(eq=False, slots=True)
class Folder:
    """One folder, by its real path; several names may lead to it.

    Attributes:
        real: Its path, every link resolved.
        folders: The folders in it by name, in the order of their names; not those that are left out.
        images: Names of files with an image's ending, sorted.
        links: Of those, the ones that are links, with the real path of what they lead to.
        hard_links: The ones that have a further name, wherever, with what is the same for all names of the file.
        others: Names of plain files with another ending, sorted.
        specials: Names of pipes, sockets, devices and links that lead nowhere, of whatever ending.
        hidden: How many files have a name with a leading dot.
        system: How many files are of a system, such as ``Thumbs.db``.
        left_out: Folders in it that are no data: their names, and how many files each holds, up to ``COUNTED_FILES``.
        problems: Why something in it cannot be read, by name; by the empty name: why itself cannot.
    """

    real: str
    folders: dict[str, Folder] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    hard_links: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    specials: list[str] = field(default_factory=list)
    hidden: int = 0
    system: int = 0
    left_out: list[tuple[str, int]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def below(self) -> Iterator[Folder]:
        """This folder and every one below it, each once, however links lead."""
        return (folder for _, folder in paths_below(self))

    def has_images(self) -> bool:
        """Whether there is an image file in it or below it."""
        return any(folder.images for folder in self.below())

    def has_problems(self) -> bool:
        """Whether something in it or below it cannot be read."""
        return any(folder.problems for folder in self.below())

    def with_images(self) -> dict[str, Folder]:
        """The folders in it that hold an image or have one below, by name."""
        return {name: folder for name, folder in self.folders.items() if folder.has_images()}


def read_tree(data: Path, *, follow_links: bool) -> Folder:
    """List a data folder and all folders below it.

    Args:
        data: The folder; it may be a link itself.
        follow_links: Whether links may lead out of it.

    Returns:
        The folder. Where links make loops, so do the records.
    """
    root = os.path.realpath(data)
    found = {root: Folder(root)}
    waiting = [found[root]]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder.real) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            folder.problems[""] = f"cannot be read: {error.strerror or error}"
            continue
        for entry in listed:
            try:
                _add(folder, entry, root, found, waiting, follow_links=follow_links)
            except OSError as error:  # such as a link to itself
                folder.problems[entry.name] = f"cannot be read: {error.strerror or error}"
    return found[root]


def _add(
    folder: Folder,
    entry: os.DirEntry[str],
    root: str,
    found: dict[str, Folder],
    waiting: list[Folder],
    *,
    follow_links: bool,
) -> None:
    """Put one entry where it belongs; folders that are new are listed later."""
    name, is_folder = entry.name, entry.is_dir()
    if is_folder and (name.startswith(".") or name.casefold() in SYSTEM_FOLDERS):
        folder.left_out.append((name, 0 if entry.is_symlink() else _count_files(entry.path)))
        return
    real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(folder.real, name)  # noqa: PTH118 - a text for each of a million files
    leads_out = entry.is_symlink() and not follow_links and not _is_within(real, root)
    if is_folder:
        _add_folder(folder, entry, real, root, found, waiting, leads_out=leads_out)
    elif name.startswith("."):
        folder.system += name == ".DS_Store" or name.startswith("._")
        folder.hidden += not (name == ".DS_Store" or name.startswith("._"))
    elif not is_image_name(name):
        if name.casefold() in _SYSTEM_FILES:
            folder.system += 1
        elif entry.is_file():
            folder.others.append(name)
        else:
            folder.specials.append(name)
            if entry.is_symlink() and not ending_of(name):  # it may have been a class's folder
                folder.problems[name] = "is a link that leads nowhere; remove it"
    elif leads_out:
        folder.problems[name] = leads_out_of(root, "the file")
    elif not entry.is_file():
        folder.specials.append(name)
        folder.problems[name] = "is not a file, or a link that leads nowhere; remove it"
    else:
        folder.images.append(name)
        if entry.is_symlink():
            folder.links[name] = real
        elif (status := entry.stat()).st_nlink > 1:
            folder.hard_links[name] = f"{_HARD}{status.st_dev}:{status.st_ino}"


def _add_folder(
    folder: Folder,
    entry: os.DirEntry[str],
    real: str,
    root: str,
    found: dict[str, Folder],
    waiting: list[Folder],
    *,
    leads_out: bool,
) -> None:
    name = entry.name
    if leads_out:
        folder.folders[name] = Folder(real, problems={"": leads_out_of(root, "what it leads to")})
    elif entry.is_symlink() and _is_within(folder.real, real):
        problem = "is a link to a folder above it, which would be read without end; remove the link"
        folder.folders[name] = Folder(real, problems={"": problem})
    elif any(os.path.lexists(f"{real}/{mark}") for mark in (DATASET.manifest_file, WRITING_MARKER)):
        folder.left_out.append((_DATASET_FOLDER, _count_files(real)))
    else:
        if real not in found:
            found[real] = Folder(real)
            waiting.append(found[real])
        folder.folders[name] = found[real]


def leads_out_of(root: str | Path, what: str) -> str:
    """What is said of a link that leads out of a folder."""
    return f"is a link that leads out of {shown(root)}; copy {what}, or give --follow-links"


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _count_files(folder: str) -> int:
    count = 0
    for _, _, files in os.walk(folder):
        count += len(files)
        if count >= COUNTED_FILES:
            return COUNTED_FILES
    return count


def ending_of(name: str) -> str:
    """A file name's ending in lower case with its dot; empty where it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a text for each of a million files


def is_image_name(name: str) -> bool:
    """Whether a file's ending is one of an image that can be read."""
    return ending_of(name) in image_extensions()


def paths_below(folder: Folder, path: str = "") -> Iterator[tuple[str, Folder]]:
    """A folder and every one below it, each once, with its path; `path` is the first one's."""
    waiting, seen = [(path, folder)], set()
    while waiting:
        where, here = waiting.pop()
        if here.real not in seen:
            seen.add(here.real)
            yield where, here
            waiting += [(_joined(where, name), inner) for name, inner in here.folders.items()]


def images_below(folder: Folder) -> Iterator[tuple[str, str, Folder]]:
    """Every image in a folder and below it: its path, its name, and the folder that it is in."""
    for path, here in paths_below(folder):
        for name in here.images:
            yield _joined(path, name), name, here


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


@dataclass(frozen=True)
class _Reached:
    """Where a folder or a linked image was reached: by which path, and for which split and class."""

    path: str
    use: tuple[str, str]


class ImagesOnce:
    """Names the image files of one folder after another, and refuses to read one for two splits or classes.

    Args:
        data: The data folder, for messages.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._folders: dict[str, tuple[Folder, _Reached]] = {}
        self._links: list[tuple[str, _Reached]] = []

    def below(self, folder: Folder, path: str, split: str, name: str) -> list[str]:
        """Paths of all images in a folder and below it, relative to the data folder, sorted.

        Args:
            folder: The folder of a class.
            path: Its path below the data folder.
            split: The split it is read for.
            name: The class.

        Raises:
            DataError: Something in it cannot be read, or was read already.
        """
        files: list[str] = []
        waiting = [(folder, path)]
        while waiting:
            here, start = waiting.pop()
            raise_problem(here, self._data / start)
            reached = _Reached(start, (split, name))
            if here.real in self._folders:
                earlier = self._folders[here.real][1].path
                raise DataError(
                    f"{shown(self._data / start)}: is by a link the same folder as {shown(earlier)}, which is read "
                    "already, and an image has one class and one split; remove one of them"
                )
            self._folders[here.real] = here, reached
            files += (f"{start}/{name}" for name in here.images)
            self._links += (
                (real, _Reached(f"{start}/{link}", reached.use))
                for link, real in sorted([*here.links.items(), *here.hard_links.items()])
            )
            waiting += [(inner, f"{start}/{inner_name}") for inner_name, inner in here.folders.items()]
        return sorted(files)

    def is_read(self, folder: Folder) -> bool:
        """Whether the images of a folder were named by :meth:`below`."""
        return folder.real in self._folders

    def check_links(self) -> int:
        """How many images that are links lead to one that is read under another name, too.

        Raises:
            DataError: That one is of another split or class.
        """
        seen: dict[str, _Reached] = {}
        again = 0
        for real, link in self._links:
            if (earlier := seen.get(real) or self._as_file(real)) is None:
                seen[real] = link
                continue
            if earlier.use != link.use:
                kind = "hard link" if real.startswith(_HARD) else "link"
                raise DataError(
                    f"{shown(self._data / link.path)}: is a {kind} to the same image as {shown(earlier.path)}, and an "
                    "image has one class and one split; remove one of them"
                )
            again += 1
        return again

    def _as_file(self, real: str) -> _Reached | None:
        """The image of this real path under its own name, if it is read."""
        start, name = os.path.split(real)
        folder, reached = self._folders.get(start, (None, None))
        if folder is None or reached is None or name not in folder.images or name in folder.links:
            return None
        return _Reached(f"{reached.path}/{name}", reached.use)


def raise_problem(folder: Folder, path: Path) -> None:
    """Raise the first problem of a folder itself, not of those below it.

    Raises:
        DataError: There is one.
    """
    for name, problem in sorted(folder.problems.items()):
        raise DataError(f"{shown(path / name if name else path)}: {problem}")
