"""Manifests: CSV or JSON Lines that name images and their labels, in folders, archives and buckets.

Among them are ``metadata.csv`` and ``metadata.jsonl`` as Hugging Face has them, and the import files of Vertex AI.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from components.data_prep.contents import Block, Encoded, Read
from components.data_prep.layouts.info_csv import is_table
from components.data_prep.layouts.manifest_images import ManifestImages, Numbers
from components.data_prep.layouts.manifest_rows import NotManifestError, is_manifest, is_manifest_name
from components.data_prep.layouts.source import Source, SourceSplit, check_known_classes, listed, training_classes
from components.data_prep.splits import split_of
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import joined
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.text import shown

# Hugging Face's names, of which one is read whatever folders are beside it.
_METADATA = ("metadata.csv", "metadata.jsonl")
# Of more that are in one folder it would not be clear which counts; in a bucket each is fetched to find out.
_TRIED = 20


@dataclass(frozen=True)
class Manifests:
    """The manifests of the data.

    Attributes:
        files: Their paths, each with the split that its name or folder means; None: its rows say.
        problem: Why they cannot be read, if that is known.
    """

    files: dict[str, SplitName | None]
    problem: str = ""

    @property
    def are_metadata(self) -> bool:
        """Whether folders beside them are no classes, however many hold images."""
        return all(file.rpartition("/")[2] in _METADATA for file in self.files)


def find_manifest(tree: FileTree) -> Manifests | None:
    """The manifests in the data folder, or in the folders of splits; or the one file that is the data."""
    root = tree.root
    if tree.is_file:
        return Manifests(dict.fromkeys(root.others)) if all(map(is_manifest_name, root.others)) else None
    found = {"": _manifests_in(tree, "", root.others)}
    splits = {name: split for name in root.folders if (split := split_of(name))}
    found |= {name: _manifests_in(tree, name, root.folders[name].others) for name in splits}
    files = {joined(folder, file): splits.get(folder) for folder, inside in found.items() for file in inside}
    if not files:
        return None
    if found[""] and len(files) > 1:
        files |= {file: split_of(os.path.splitext(file)[0]) for file in found[""]}  # noqa: PTH122 # a text
    of_splits = [split for split in files.values() if split]
    problem = ""
    if len(files) > 1 and (len(set(of_splits)) < len(files) or (found[""] and len(found[""]) < len(files))):
        problem = f"{listed(files)} all name images, and it is not clear which counts; keep one, or one for each split"
    holding = root.with_images()
    if not found[""] and (without := [name for name in splits if name in holding and not found[name]]):
        problem = f"{listed(without)} hold(s) images and no manifest, and {next(iter(files))} is one; add or remove it"
    return Manifests(files, problem)


def _manifests_in(tree: FileTree, folder: str, names: Sequence[str]) -> list[str]:
    if metadata := [name for name in names if name in _METADATA]:
        return metadata
    candidates = [name for name in names if is_manifest_name(name) and not is_table(name)][:_TRIED]
    return [name for name in candidates if is_manifest(tree.local(joined(folder, name)), name)]


def open_manifest(tree: FileTree, found: Manifests, n_classes: int | None) -> Source:
    """The source made of manifests: read whole, every image that they name found, none opened.

    Raises:
        DataError: Two manifests count, a row does not say what it should, or an image is not there.
        StorageRefusedError: A bucket may not be read.
    """
    if found.problem:
        raise DataError(f"{tree.at()}: {found.problem}")
    images = ManifestImages(tree)
    counts: dict[str, int] = {}
    for file, split in found.files.items():
        try:
            counts[file] = images.add(file, split)
        except NotManifestError as error:
            advice = "; where the folders are the classes, give --layout folders" if tree.root.with_images() else ""
            raise DataError(f"{error}{advice}") from error
    by_split = images.by_split()
    labels = {split: [images.labels[number] for number in numbers] for split, numbers in by_split.items()}
    classes = training_classes(tree.at(), set(labels["train"]), n_classes)
    for of_split in labels.values():
        check_known_classes(tree.at(), set(of_split), classes)
    number_of = {name: number for number, name in enumerate(classes)}
    reads = images.reads()
    folders = {split: file.rpartition("/")[0] for file, split in found.files.items()}
    splits = {
        split: SourceSplit(
            folders.get(split, ""),
            np.array([number_of[label] for label in labels[split]], dtype=np.int64),
            [images.names[number] for number in numbers],
            partial(_read, reads, np.array(numbers, dtype=np.int64)),
        )
        for split, numbers in by_split.items()
    }
    why = " and ".join(f"{shown(file)} with {count} row(s)" for file, count in counts.items())
    return Source(tree, "a manifest", classes, splits, images.count_left_out(), why)


def _read(reads: list[tuple[Numbers, Read]], numbers: Numbers, wanted: Collection[int]) -> Iterator[Encoded | Block]:
    """The images at wanted positions of a split, one place after another; `numbers` are those of its rows."""
    positions = np.array(sorted(wanted), dtype=np.int64)
    for of_place, read in reads:
        here = np.isin(numbers[positions], of_place, assume_unique=True)
        inner = np.searchsorted(of_place, numbers[positions[here]])
        position_of = dict(zip(inner.tolist(), positions[here].tolist(), strict=True))
        for each in read(inner.tolist()):
            yield replace(each, position=position_of[each.position]) if isinstance(each, Encoded) else each
