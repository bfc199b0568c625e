"""The data folder as a tree: every folder is listed once, links are resolved, and what is no data is set apart.

Nothing is opened. What cannot be read is noted by its name, and is an error once it is to be read: a link that leads
out of the data, a link to a folder above it, a pipe with the name of an image.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.data_prep.images import image_extensions
from components.data_prep.source import leads_out_of, shown
from components.shared.artifacts.artifact import WRITING_MARKER
from components.shared.artifacts.dataset import DATASET
from components.shared.errors import DataError

# What file systems, file servers and tools put beside people's files: thumbnails, deleted files, snapshots. Compared
# without regard to case, since Windows writes $RECYCLE.BIN and $Recycle.Bin. So are folders with a leading dot.
_SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharebin", "@tmp"),  # Synology, QNAP
        *("__macosx", "network trash folder", "temporary items"),  # macOS
        *("$recycle.bin", "system volume information"),  # Windows
        *("lost+found", "__pycache__"),
    }
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
# A recycle bin or a snapshot may hold more than the data: beyond this many files of one folder they are not counted.
COUNTED_FILES = 10_000


@dataclass(eq=False, slots=True)
class Folder:
    """One folder, by its real path; several names may lead to it. All names are sorted.

    Attributes:
        real: Its path, every link resolved.
        folders: The folders in it by name, without those that are left out.
        images: Names of files with an image's ending, each with its identity, if that is not its own path.
        others: Names of plain files with another ending.
        specials: Names of pipes, sockets, devices and links that lead nowhere, of whatever ending.
        counted: How many of its files are hidden, of a system, or special.
        left_out: Folders in it that are no data: their names, and how many files each holds, up to ``COUNTED_FILES``.
        problems: Why something in it cannot be read, by name; by the empty name: why itself cannot.
    """

    real: str
    folders: dict[str, Folder] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    specials: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, int]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def identity(self, name: str) -> str:
        """What one of its images shares with every link to it."""
        return self.images[name] or f"{self.real}/{name}"

    def with_images(self) -> dict[str, Folder]:
        """The folders in it that hold an image or have one below, by name."""
        return {
            name: folder
            for name, folder in self.folders.items()
            if any(inner.images for _, inner in paths_below(folder))
        }

    def raise_problem(self, path: Path) -> None:
        """Raise the first problem of what is in this folder, not of what is below its folders."""
        for name, problem in sorted(self.problems.items()):
            raise DataError(f"{shown(path / name if name else path)}: {problem}")


def identity(real: str, status: os.stat_result) -> str:
    """What is the same for all links to a file, symbolic or hard: its real path, or its inode."""
    return f"\0{status.st_dev}:{status.st_ino}" if status.st_nlink > 1 else real


def read_tree(data: Path, *, follow_links: bool) -> Folder:
    """List a data folder, which may be a link itself, and all folders below it.

    Args:
        data: The folder.
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
                real = os.path.realpath(entry.path) if entry.is_symlink() else f"{folder.real.rstrip('/')}/{entry.name}"
                left_root = root if entry.is_symlink() and not follow_links and not _is_within(real, root) else ""
                if not entry.is_dir():
                    _add_file(folder, entry, real, left_root)
                elif inner := _folder_of(folder, entry, real, left_root):
                    if not inner.problems and real not in found:
                        found[real] = inner
                        waiting.append(inner)
                    folder.folders[entry.name] = inner if inner.problems else found[real]
            except OSError as error:  # such as a link to itself
                folder.problems[entry.name] = f"cannot be read: {error.strerror or error}"
    return found[root]


def _folder_of(folder: Folder, entry: os.DirEntry[str], real: str, left_root: str) -> Folder | None:
    if entry.name.startswith(".") or entry.name.casefold() in _SYSTEM_FOLDERS:
        folder.left_out.append((entry.name, 0 if entry.is_symlink() else _count_files(entry.path)))
        return None
    if left_root:
        return Folder(real, problems={"": leads_out_of(left_root, "what it leads to")})
    if entry.is_symlink() and _is_within(folder.real, real):
        problem = "is a link to a folder above it, which would be read without end; remove the link"
        return Folder(real, problems={"": problem})
    if any(os.path.lexists(f"{real}/{mark}") for mark in (DATASET.manifest_file, WRITING_MARKER)):
        folder.left_out.append(("a dataset directory", _count_files(real)))
        return None
    return Folder(real)


def _add_file(folder: Folder, entry: os.DirEntry[str], real: str, left_root: str) -> None:
    name, is_image = entry.name, ending_of(entry.name) in image_extensions()
    if name == ".DS_Store" or name.startswith("._") or (not is_image and name.casefold() in _SYSTEM_FILES):
        folder.counted["system files"] += 1
    elif name.startswith("."):
        folder.counted["hidden"] += 1
    elif is_image and left_root:
        folder.problems[name] = leads_out_of(left_root, "the file")
    elif not entry.is_file():
        folder.specials.append(name)
        folder.counted["no plain files"] += 1
        if is_image:
            folder.problems[name] = "is not a file, or a link that leads nowhere; remove it"
        elif entry.is_symlink() and not ending_of(name):  # it may have been a class's folder
            folder.problems[name] = "is a link that leads nowhere; remove it"
    elif is_image:
        own = "" if entry.is_symlink() else real
        folder.images[name] = "" if (found := identity(real, entry.stat())) == own else found
    else:
        folder.others.append(name)


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


def paths_below(folder: Folder, path: str = "") -> Iterator[tuple[str, Folder]]:
    """A folder and every one below it, each once however links lead, with its path; `path` is the first one's."""
    waiting, seen = [(path, folder)], set()
    while waiting:
        where, here = waiting.pop()
        if here.real not in seen:
            seen.add(here.real)
            yield where, here
            waiting += [(joined(where, name), inner) for name, inner in here.folders.items()]


def images_below(folder: Folder) -> Iterator[tuple[str, str, Folder]]:
    """Every image in a folder and below it: its path, its name, and the folder that it is in."""
    return ((joined(path, name), name, here) for path, here in paths_below(folder) for name in here.images)


def joined(path: str, name: str) -> str:
    """A path below the data folder; the data folder itself is empty."""
    return f"{path}/{name}" if path else name
