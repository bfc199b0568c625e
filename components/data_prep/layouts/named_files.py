"""Files that a table or manifest names by their paths, found in the tree."""

from __future__ import annotations

import os
from collections.abc import Collection

from components.data_prep.layouts.source import composed
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import Folder, images_below
from components.shared.decoding.file_names import is_no_data_folder, left_out_as
from components.shared.errors import DataError


class NamedFiles:
    """Finds files by their paths relative to a folder of a tree.

    Attributes:
        real: The real paths of those that were found.
    """

    def __init__(self, tree: FileTree, folder: str) -> None:
        self.real: set[str] = set()
        self._tree, self._below = tree, tree.at(folder)
        self._folder = tree.root
        for name in filter(None, folder.split("/")):
            self._folder = self._folder.folders[name]
        self._names: dict[str, dict[str, list[str]]] = {}

    def find(self, written: str, where: str) -> tuple[str, str]:
        """The path below the folder of a file that `where` names, and its identity; a DataError if it is none."""
        here, below = self._folder, self._below
        parts = os.path.normpath(written).split("/")
        if written.startswith("/"):
            raise DataError(f"{where} is an absolute path; write it relative to {below}")
        if parts[0] == "..":
            raise DataError(f"{where} leads out of {below}; images stay below it")
        for depth, part in enumerate(parts):
            if depth:
                here = here.folders.get(parts[depth - 1]) or Folder("")
            alike = self._alike(here, part)
            if part not in alike and len(alike) == 1:
                parts[depth] = part = alike[0]
            if problem := here.problems.get(part) or here.problems.get(""):
                raise DataError(f"{where} {problem}")
            if part not in alike:
                advice = "; its parts are separated by /, not by \\" if "\\" in written else ""
                if alike:
                    advice = (
                        f"; it may be {' or '.join(map(ascii, alike))}, alike but for Unicode composition: rename one"
                    )
                elif left_out_as(parts[-1]) or any(map(is_no_data_folder, parts[:-1])):
                    advice = " that is read: it is hidden, or in a folder of a system"
                raise DataError(f"{where}: there is no such file in {below}{advice}")
        if part in here.folders or part in here.specials:
            raise DataError(f"{where} is not a file")
        self.real.add(here.path(part))
        try:
            return "/".join(parts), self._tree.identity(here, part)
        except DataError as error:
            raise DataError(f"{where} {error}") from error

    def _alike(self, folder: Folder, name: str) -> list[str]:
        """The names in a folder that look like a name: the same but for Unicode composition."""
        if folder.real not in self._names:
            names = self._names.setdefault(folder.real, {})
            for each in (*folder.images, *folder.others, *folder.specials, *folder.folders, *folder.problems):
                names.setdefault(composed(each), []).append(each)
        return self._names[folder.real].get(composed(name), [])


def unused_images(tree: FileTree, used: Collection[str]) -> list[str]:
    """Paths of images whose identities are not among those that are used."""
    own = [(path, name, folder) for path, name, folder in images_below(tree.root) if folder.identity(name) not in used]
    return [path for path, name, folder in own if tree.identity(folder, name) not in used]  # which looks each up
