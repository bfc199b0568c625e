"""Names of archives and buckets as a tree of folders, in which the same is left out and counted as in a local folder.

Names are the input of strangers: what they cost in memory is bounded by their number and length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from components.data_prep.trees.folder_tree import MOST_COUNTED, Folder, joined, paths_below
from components.shared.artifacts.artifact import WRITING_MARKER
from components.shared.artifacts.dataset import DATASET
from components.shared.decoding.file_names import ending_of, is_no_data_folder, left_out_as
from components.shared.decoding.images import image_extensions
from components.shared.errors import DataError

# Measured: a million files in a tar archive take 0.4 GB, in a zip archive, whose directory is read as a whole, 1.3 GB.
MOST_NAMES = 2_000_000
_MOST_CHARACTERS = 1 << 29  # of all names and folders together
_LONGEST_NAME = 4096  # as file systems have it


class NameTree:
    """Collects names; `at` is where a path is, for messages."""

    def __init__(self, at: Callable[[str], str]) -> None:
        self._at = at
        self._folders = {"": Folder("")}
        self._files: set[str] = set()
        self._left_out: dict[str, tuple[Folder, str]] = {}  # folders that are no data: where they are, and their names
        self._left_out_files: Counter[str] = Counter()
        self._datasets: list[str] = []
        self._characters = 0

    def add(self, path: str, problem: str = "", *, is_special: bool = False) -> bool:
        """Add a file, with why it cannot be read if that is known; whether it is data, and not left out by its name.

        A special one is a link or device, or whatever else is no plain file.

        DataError: the name is there already, or is a folder's, or there are too many.
        """
        if path in self._folders or path in self._left_out:
            raise DataError(f"{self._at(path)}: is both a file and a folder; rename one of them")
        if path in self._files:
            raise DataError(f"{self._at(path)}: is there twice, and it is not clear which counts; remove one of them")
        self._count(path)
        self._files.add(path)
        parent, _, name = path.rpartition("/")
        if (folder := self._folder(parent, files=1)) is None:
            return False
        if name in (DATASET.manifest_file, WRITING_MARKER):
            self._datasets.append(parent)
        is_image = ending_of(name) in image_extensions()
        if reason := left_out_as(name):
            folder.counted[reason] += 1
            return False
        if is_special:
            folder.specials.append(name)
            folder.counted["no plain files"] += 1
            if is_image or not ending_of(name):  # without an ending it may have been a class's folder
                folder.problems[name] = problem
        elif is_image and problem:
            folder.problems[name] = problem
        elif is_image:
            folder.images.append(name)
        else:
            folder.others.append(name)
        return not is_special

    def add_folder(self, path: str) -> None:
        """Add a folder, which may be empty, and may be there already."""
        self._folder(path, files=0)

    def _folder(self, path: str, files: int) -> Folder | None:
        """A folder, made if it is not there; None: it is no data, and so many more files of it are counted."""
        if (found := self._folders.get(path)) is not None:
            return found
        top = path
        while top and top not in self._left_out and top not in self._folders:
            top = top.rpartition("/")[0]
        if top in self._left_out:
            self._left_out_files[top] += files
            return None
        here = self._folders[top]
        for name in path[len(top) :].strip("/").split("/"):
            top = joined(top, name)
            if top in self._files:
                raise DataError(f"{self._at(top)}: is both a file and a folder; rename one of them")
            self._count(top)
            if is_no_data_folder(name):
                self._left_out[top] = here, name
                self._left_out_files[top] += files
                return None
            here.folders[name] = self._folders[top] = here = Folder(f"/{top}")
        return here

    def root(self) -> Folder:
        """All that was added, sorted."""
        for path, (parent, name) in self._left_out.items():
            parent.left_out.append((name, min(self._left_out_files[path], MOST_COUNTED)))
        for path in sorted(filter(None, self._datasets)):
            above, _, name = path.rpartition("/")
            if dataset := self._folders[above].folders.pop(name, None):
                count = sum(
                    len(inner.images)
                    + len(inner.others)
                    + inner.counted.total()
                    + sum(hidden for _, hidden in inner.left_out)
                    for _, inner in paths_below(dataset)
                )
                self._folders[above].left_out.append(("a dataset directory", min(count, MOST_COUNTED)))
        for folder in self._folders.values():
            folder.folders = dict(sorted(folder.folders.items()))
            folder.images.sort()
            folder.others.sort()
            folder.specials.sort()
        return self._folders[""]

    def _count(self, path: str) -> None:
        self._characters += len(path)
        if len(path) > _LONGEST_NAME:
            raise DataError(f"{self._at(path)}: a name of {len(path)} characters is not read; {_LONGEST_NAME} is most")
        if len(self._files) + len(self._folders) >= MOST_NAMES or self._characters > _MOST_CHARACTERS:
            raise DataError(
                f"{self._at('')}: holds more than {MOST_NAMES} files and folders, or names of more than "
                f"{_MOST_CHARACTERS} characters together; divide it"
            )
