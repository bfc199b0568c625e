"""A split of image files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from components.data_prep.layouts.source import SourceSplit
from components.data_prep.trees.file_tree import FileTree
from components.shared.artifacts.dataset import UnreadableImage
from components.shared.text import shown


def image_split(
    tree: FileTree, folder: str, rows: list[tuple[str, int]], reasons: Mapping[str, str] | None = None
) -> SourceSplit:
    """A split of image files.

    Args:
        tree: Where they are.
        folder: The split's folder below it.
        rows: Path below the data folder and label of each image.
        reasons: By path, why a file is known to be unreadable.
    """
    files = [file for file, _ in rows]
    unreadable = {
        position: UnreadableImage(file=shown(file), reason=reasons[file])
        for position, file in enumerate(files)
        if reasons and file in reasons
    }
    labels = np.array([label for _, label in rows], dtype=np.int64)
    return SourceSplit(folder, labels, files, tree.read(files), unreadable, partial(tree.stamps, files))
