"""Opens what holds the data as a tree of files: a folder, an archive, a bucket, or several archives."""

from __future__ import annotations

import os

from components.data_prep.layouts.source import listed, reading
from components.data_prep.splits import split_of
from components.data_prep.trees.archive_tree import ArchiveTree, JoinedTree, is_archive, is_other_archive, stem_of
from components.data_prep.trees.bucket_tree import BucketTree, Fetch
from components.data_prep.trees.file_tree import FileTree, LocalTree
from components.shared.errors import DataError
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.storage.location import AnyPath, Location
from components.shared.text import shown


def open_tree(data: AnyPath, *, follow_links: bool, fetch: Fetch | None = None) -> FileTree:
    """What is at a place, as it is: archives are files there.

    Args:
        data: Folder, file, or location in a bucket.
        follow_links: Whether links may lead out of a folder.
        fetch: Makes a local file of an object; None: a temporary one.

    Raises:
        DataError: Nothing is there, or it is neither a folder nor a file.
        StorageRefusedError: As :class:`~components.data_prep.trees.bucket_tree.BucketTree`.
    """
    scratch = os.environ.get(SCRATCH_VARIABLE)
    if isinstance(data, Location):
        return BucketTree(data, fetch, scratch)
    with reading(data):
        if not data.exists():
            raise DataError(f"{shown(data)}: there is no such data folder or file")
        if not data.is_dir() and not data.is_file():
            raise DataError(f"{shown(data)}: is neither a folder nor a file")
    return LocalTree(data, follow_links=follow_links)


def archives_in(tree: FileTree) -> FileTree | None:
    """The tree in an archive that is all of the data, or those in archives of splits; None: there are other files.

    DataError: several archives are all of the data and are not those of splits, or are of a kind that is not read.
    """
    root = tree.root
    if root.images or root.specials or root.folders or not root.others:
        return None
    if other := next(filter(is_other_archive, root.others), None):
        raise DataError(f"{tree.at(other)}: is an archive of a kind that is not read; make a .tar, .tar.gz or .zip")
    if not all(map(is_archive, root.others)):
        return None
    scratch = os.environ.get(SCRATCH_VARIABLE)
    if len(root.others) == 1:
        (file,) = root.others
        with reading(tree.at(file)):
            return ArchiveTree(tree.local(file), tree.at(file), scratch=scratch)
    splits = {file: split_of(stem_of(file)) for file in root.others}
    if None in splits.values() or len(set(splits.values())) < len(splits):
        raise DataError(
            f"{tree.at()}: holds the archives {listed(root.others)}, and no label follows from which archive an image "
            "is in: name them after splits, one each, as train.tar and test.tar, each with a folder per class; or give "
            "--data the one that holds the data; or unpack them"
        )
    opened: dict[str, FileTree] = {}
    try:
        for file, split in splits.items():
            with reading(tree.at(file)):
                opened[stem_of(file)] = ArchiveTree(tree.local(file), tree.at(file), split, scratch)
    except BaseException:
        for archive in opened.values():
            archive.close()
        raise
    return JoinedTree(tree.name, opened)
