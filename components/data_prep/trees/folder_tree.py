"""The data folder as a tree: every folder is listed once, links are resolved, and what is no data is set apart.

What cannot be read is noted by its name, and is an error once it is to be read: a link that leads out of the data, a
link to a folder above it, a pipe with the name of an image. What is not read is counted.
"""

from __future__ import annotations

import os
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from components.shared.artifacts.artifact import WRITING_MARKER
from components.shared.artifacts.dataset import DATASET, LeftOut
from components.shared.decoding.file_names import ending_of, is_no_data_folder, leads_out_of, left_out_as, why_not_read
from components.shared.decoding.images import image_extensions
from components.shared.errors import DataError
from components.shared.logs import step_logger
from components.shared.text import shown

# A recycle bin or a snapshot may hold more than the data: beyond this many files of one folder they are not counted.
MOST_COUNTED = 10_000
# What a file without such an ending is tried as. Formats that begin with anything, such as TGA, would take texts for
# pictures.
_BY_CONTENT = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000")
_TRIED_FIRST = 100
_NAMES_KEPT = 20
_ENDING_LENGTH = 20

_log = step_logger("data-prep")


@dataclass(eq=False, slots=True)
class Folder:
    """One folder, by its real path; several names may lead to it. All names are sorted."""

    real: str
    folders: dict[str, Folder] = field(default_factory=dict)
    # Files with an image's ending; of those the identities that are not their own paths; others; and pipes, devices, ….
    images: list[str] = field(default_factory=list)
    linked: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    specials: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)  # files that are hidden, of a system, or special
    left_out: list[tuple[str, int]] = field(default_factory=list)  # folders that are no data, and their files
    problems: dict[str, str] = field(default_factory=dict)  # why something cannot be read; by "": why itself cannot

    def identity(self, name: str) -> str:
        """What one of its images shares with every link to it."""
        return self.linked.get(name) or self.path(name)

    def path(self, name: str) -> str:
        """The path of a file in it."""
        return f"{self.real.rstrip('/')}/{name}"

    def with_images(self) -> dict[str, Folder]:
        """The folders in it that hold an image or have one below, by name."""
        held = ((name, folder, paths_below(folder)) for name, folder in self.folders.items())
        return {name: folder for name, folder, below in held if any(inner.images for _, inner in below)}

    def raise_problem(self, at: Callable[[str], str], path: str) -> None:
        """Raise the first problem of what is in this folder, not of what is below its folders.

        Args:
            at: Where a path is, for messages, such as a tree's.
            path: The folder's below the data.
        """
        for name, problem in sorted(self.problems.items()):
            raise DataError(f"{at(joined(path, name) if name else path)}: {problem}")


def identity(real: str, status: os.stat_result) -> str:
    """What is the same for all links to a file, symbolic or hard: its real path, or its inode."""
    return f"\0{status.st_dev}:{status.st_ino}" if status.st_nlink > 1 else real


def read_tree(data: Path, *, follow_links: bool) -> Folder:
    """List a data folder, which may be a link itself, and all below it; where links make loops, so do the records."""
    root = os.path.realpath(data)
    found = {root: Folder(root)}
    waiting = [found[root]]
    inodes: list[tuple[Folder, array[int]]] = []
    while waiting:
        folder = waiting.pop()
        inodes.append((folder, array("Q")))
        try:
            with os.scandir(folder.real) as entries:
                listed = sorted(_no_plain_images(entries, *inodes[-1]), key=lambda entry: entry.name)
        except OSError as error:
            folder.problems[""] = f"cannot be read: {error.strerror or error}"
            continue
        for entry in listed:
            try:
                real = os.path.realpath(entry.path) if entry.is_symlink() else folder.path(entry.name)
                left_root = root if entry.is_symlink() and not follow_links and not _is_within(real, root) else ""
                if not entry.is_dir():
                    _add_file(folder, entry, real, left_root, inodes[-1][1])
                elif inner := _folder_of(folder, entry, real, left_root):
                    if not inner.problems and real not in found:
                        found[real] = inner
                        waiting.append(inner)
                    folder.folders[entry.name] = inner if inner.problems else found[real]
            except OSError as error:  # such as a link to itself
                folder.problems[entry.name] = f"cannot be read: {error.strerror or error}"
        folder.images.sort()
    _note_hard_links(inodes)
    return found[root]


def _no_plain_images(entries: Iterable[os.DirEntry[str]], folder: Folder, inodes: array[int]) -> list[os.DirEntry[str]]:
    """Take what is an image by its entry alone, without looking it up: there may be a million; the other entries."""
    endings, others = _usual_endings(), []
    for entry in entries:
        name = entry.name
        if name[name.rfind(".") :] in endings and name[0] != "." and entry.is_file(follow_symlinks=False):
            folder.images.append(name)
            inodes.append(entry.inode())
        else:
            others.append(entry)
    return others


@cache
def _usual_endings() -> frozenset[str]:
    return frozenset(written for ending in image_extensions() for written in (ending, ending.upper()))


def _note_hard_links(inodes: list[tuple[Folder, array[int]]]) -> None:
    """Look up the images of folders in which one has an inode that another has, too."""
    arrays = [np.frombuffer(of_folder, dtype=np.uint64) for _, of_folder in inodes]
    numbers, counts = np.unique(np.concatenate(arrays), return_counts=True)
    again = numbers[counts > 1]
    for (folder, _), of_folder in zip(inodes, arrays, strict=True):
        if len(again) and np.isin(of_folder, again).any():
            for name in folder.images:
                path = folder.path(name)
                with suppress(OSError):  # reported when it is read
                    if name not in folder.linked and (found := identity(path, os.stat(path))) != path:  # noqa: PTH116
                        folder.linked[name] = found


def _folder_of(folder: Folder, entry: os.DirEntry[str], real: str, left_root: str) -> Folder | None:
    if is_no_data_folder(entry.name):
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


def _add_file(folder: Folder, entry: os.DirEntry[str], real: str, left_root: str, inodes: array[int]) -> None:
    name, is_image = entry.name, ending_of(entry.name) in image_extensions()
    if reason := left_out_as(name):
        folder.counted[reason] += 1
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
        status = entry.stat()
        folder.images.append(name)
        inodes.append(status.st_ino)
        if entry.is_symlink():
            folder.linked[name] = identity(real, status)
    else:
        folder.others.append(name)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _count_files(folder: str) -> int:
    count = 0
    for _, _, files in os.walk(folder):
        count += len(files)
        if count >= MOST_COUNTED:
            return MOST_COUNTED
    return count


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


def pictures_below(folder: Folder, path: str, is_picture: Callable[[str], bool]) -> dict[str, tuple[str, str]]:
    """Pictures in a folder and below it that are no images here, since no decoder is there or the ending is unknown.

    A picture of the same name as an image is none of them: cameras write a raw file beside a JPEG.

    Args:
        folder: The folder.
        path: Its own below the data.
        is_picture: Whether a file is one by its content, from its real path, such as a tree's.

    Returns:
        By path below the data folder: the real path, and why it is not read.
    """
    found: dict[str, tuple[str, str]] = {}
    unknown: dict[str, list[tuple[str, str]]] = {}
    for where, here in paths_below(folder, path):
        stems = {_stem(name) for name in here.images} if here.others else ()
        for name in here.others:
            file, real, ending = joined(where, name), here.path(name), ending_of(name)
            if _stem(name) in stems:
                continue
            if reason := why_not_read(ending):
                found[file] = real, reason
            else:
                unknown.setdefault(ending, []).append((file, real))
    for ending, files in unknown.items():
        # A folder may hold a million texts: all are opened only where the first of their ending show that one should.
        if any(is_picture(real) for _, real in files[:_TRIED_FIRST]):
            reason = (
                f"is an image by its content, and its name has {_shown_ending(ending)}; give it the ending of its "
                "format, such as .jpg or .png"
            )
            found |= {file: (real, reason) for file, real in files if is_picture(real)}
    return found


def count_left_out(root: Folder, images: Mapping[str, Collection[str]], used: Collection[str] = ()) -> LeftOut:
    """Count what is not read of a data folder, and log it.

    Args:
        root: The folder.
        images: Paths of images that are not used, by the reason.
        used: Real paths of files without an image's ending that are used, or set aside.
    """
    for reason, unused in images.items():
        if unused:
            _log.warning("not read, being %s: %d image(s), such as %s", reason, len(unused), shown(min(unused)))
    files: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    inside = 0
    for _, folder in paths_below(root):
        files.update(_shown_ending(ending_of(name)) for name in folder.others if folder.path(name) not in used)
        files.update(folder.counted)
        folders.update(shown(name)[:100] for name, _ in folder.left_out)
        inside += sum(count for _, count in folder.left_out)
    counted = LeftOut(
        files=_most_frequent(files, "other endings"),
        images={reason: len(unused) for reason, unused in sorted(images.items()) if unused},
        folders=_most_frequent(folders, "other folders"),
        files_in_folders=inside,
    )
    if counted.files:
        _log.info("not read, by ending: %s", ", ".join(f"{count} {name}" for name, count in counted.files.items()))
    if counted.folders:
        _log.info(
            "left out, being no data: the folders %s, with %d file(s)%s",
            ", ".join(f"{name} ({count})" for name, count in counted.folders.items()),
            inside,
            f"; of one folder at most {MOST_COUNTED} are counted" * (inside >= MOST_COUNTED),
        )
    return counted


def _shown_ending(ending: str) -> str:
    return shown(ending)[:_ENDING_LENGTH] or "no ending"


def _most_frequent(counts: Mapping[str, int], others: str) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_NAMES_KEPT:])
    return dict(ordered[:_NAMES_KEPT]) | ({others: rest} if rest else {})


def _stem(name: str) -> str:
    return name[: len(name) - len(ending_of(name))].casefold()


def shows_picture(content: Path | IO[bytes]) -> bool:
    """Whether a file is a picture by its content."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is for images that are read
        try:
            with Image.open(content, formats=_BY_CONTENT):
                return True
        except Exception:  # damaged files make Pillow raise nearly anything
            return False
