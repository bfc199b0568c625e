"""Finds out which of the known layouts the data have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from components.data_prep.layouts.class_folders import find_class_folders, open_class_folders
from components.data_prep.layouts.idx import IDX_NAME, find_idx_files, open_idx
from components.data_prep.layouts.info_csv import FILE_NAME, find_tables, is_table, open_info_csv
from components.data_prep.layouts.manifest import Manifests, find_manifest, open_manifest
from components.data_prep.layouts.manifest_rows import is_manifest_name
from components.data_prep.layouts.open_tree import archives_in, open_tree
from components.data_prep.layouts.parquet_source import find_parquet, open_parquet
from components.data_prep.layouts.source import Source, listed
from components.data_prep.layouts.webdataset import find_webdataset, open_webdataset
from components.data_prep.splits import split_of
from components.data_prep.trees.bucket_tree import Fetch
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import Folder, paths_below, pictures_below
from components.shared.artifacts.dataset import DATASET
from components.shared.errors import DataError
from components.shared.logs import step_logger
from components.shared.storage.location import AnyPath
from components.shared.text import shown

AUTO = "auto"

_log = step_logger("data-prep")


class Layout(NamedTuple):
    """One way to keep labelled images."""

    option: str  # of --layout and data_layout
    name: str  # as messages have it
    looks: str  # how it is known
    find: Callable[[FileTree], Any]  # what makes it this layout, such as the names of its tables; None: it is not
    open: Callable[[FileTree, Any, int | None], Source]  # from what was found; a number of classes, where it is known
    names_images: bool = False  # so that folders which hold them may be no classes


LAYOUTS = (
    Layout(
        "idx",
        "IDX files",
        "IDX files (train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz)",
        find_idx_files,
        open_idx,
    ),
    Layout(
        "info-csv",
        FILE_NAME,
        f"a table (train/{FILE_NAME} with the columns files and type)",
        find_tables,
        open_info_csv,
        names_images=True,
    ),
    Layout(
        "manifest",
        "a manifest",
        "a manifest (a .csv or .jsonl with the columns file_name and label, such as metadata.csv)",
        find_manifest,
        open_manifest,
        names_images=True,
    ),
    Layout(
        "parquet",
        "Parquet files",
        "Parquet files with columns image and label (train-00000-of-00003.parquet)",
        find_parquet,
        open_parquet,
    ),
    Layout(
        "folders",
        "a folder per class",
        "a folder per class (<class>/*.png or train/<class>/*.png)",
        find_class_folders,
        open_class_folders,
    ),
    Layout(
        "webdataset",
        "WebDataset shards",
        "WebDataset shards (*.tar or train/*.tar of 1.png and 1.cls or 1.json)",
        find_webdataset,
        open_webdataset,
    ),
)


def open_source(
    data: AnyPath,
    n_classes: int | None = None,
    *,
    layout: str = AUTO,
    follow_links: bool = False,
    fetch: Fetch | None = None,
) -> Source:
    """Recognise the layout of the data and open them as a source, which is to be closed.

    Args:
        data: Folder, file or location of the images and their labels.
        n_classes: How many classes they must have; None: as many as are found.
        layout: ``auto``, or the layout that they have, whatever else they look like.
        follow_links: Whether links may lead out of a data folder.
        fetch: Makes a local file of an object in a bucket that is no image; None: a temporary one.

    Raises:
        DataError: Nothing is there, it has none of the layouts or several, or its content cannot be used.
    """
    tree = open_tree(data, follow_links=follow_links, fetch=fetch)
    try:
        if "" in tree.root.problems:
            tree.root.raise_problem(tree.at, "")
        matches = _matches(tree, layout)
        if not matches and (archives := archives_in(tree)):
            archives.stack.push(tree)
            tree = archives
            matches = _matches(tree, layout)
        chosen, found = _chosen(tree, matches, layout)
        source = chosen.open(tree, found, n_classes)
    except BaseException:
        tree.close()
        raise
    _log.info("%s: %s (%s), in %s", tree.at(), source.name, source.why, tree.kind)
    return source


def _matches(tree: FileTree, option: str) -> list[tuple[Layout, Any]]:
    """The layouts that the data may have, and what makes them so; of a named one, whatever else there is."""
    if DATASET.manifest_file in tree.root.others:
        raise DataError(f"{tree.at()}: is a dataset directory already; give it to train as it is")
    layouts = [layout for layout in LAYOUTS if option in (AUTO, layout.option)]
    while True:
        matches = [(layout, layout.find(tree)) for layout in layouts if layout.find is not find_class_folders]
        matches = [(layout, found) for layout, found in matches if found is not None]
        if matches or not tree.unwrap():
            break
    for layout in layouts:
        if layout.find is find_class_folders:
            # Folders of splits hold the images that the tables name; only others can be classes.
            others = [name for name in tree.root.with_images() if not split_of(name)] or None
            if (beside := next((found for _, found in matches if isinstance(found, Manifests)), None)) is not None:
                # The images that a manifest names are usually in a folder; several may be classes.
                holding = tree.root.with_images().items()
                in_splits = [inner for name, folder in holding if split_of(name) for inner in folder.with_images()]
                several = max(others or [], in_splits, key=len)
                others = None if beside.are_metadata or len(several) < 2 else several
            found = others if any(other.names_images for other, _ in matches) else layout.find(tree)
            if found is not None:
                matches.append((layout, found))
    return matches


def _chosen(tree: FileTree, matches: list[tuple[Layout, Any]], option: str) -> tuple[Layout, Any]:
    if len(matches) > 1:
        names = " and ".join(f"{layout.name} (--layout {layout.option})" for layout, _ in matches)
        raise DataError(
            f"{tree.at()}: holds {names}, and it must be clear which counts: give that --layout, or set data_layout, "
            "or move the other out of the data"
        )
    if not matches and option != AUTO:
        layout = next(layout for layout in LAYOUTS if layout.option == option)
        name = layout.name.removeprefix("a ")
        raise DataError(
            f"{tree.at()}: holds no {name}, which --layout {option} (or data_layout) asks for: {layout.looks}; "
            f"{_content(tree)}"
        )
    if not matches:
        raise _unknown(tree)
    if matches[0][0].find is find_class_folders and any(map(is_table, tree.root.others)):
        _log.warning(
            "%s: %s is not read, since it is in no folder of a split; the classes are the folders", tree.at(), FILE_NAME
        )
    return matches[0]


def _unknown(tree: FileTree) -> DataError:
    """The error that the data have none of the layouts, with what is likely to be done."""
    root = tree.root
    if tree.is_file:
        return DataError(
            f"{tree.at()}: is a file of no kind that holds data; an archive's name ends in .tar, .tar.gz, .tgz, "
            ".tar.bz2 or .zip; else name the folder that holds the data"
        )
    deeper = sorted(path for path, folder in paths_below(root) if path and _is_layout(folder))
    if len(deeper) == 1:
        return DataError(f"{tree.at()}: the data are deeper; give --data {tree.at(deeper[0])}")
    if deeper:
        return DataError(
            f"{tree.at()}: the data are deeper, in {listed(deeper)}; put the files that belong together into one "
            "folder, or give --data the folder that holds all of them"
        )
    advice = ""
    if unlabelled := list(filter(split_of, root.with_images())):
        advice = (
            f"; {listed(unlabelled)} hold(s) images in no class folder, which have no label: put each into a folder of "
            "its class"
        )
    if lost := pictures_below(root, "", tree.is_picture):
        file, (_, reason) = min(lost.items())
        advice += f"; {shown(file)} {reason}"
    if tables := [name for name in root.others if is_manifest_name(name) and not is_table(name)]:
        advice += f"; {listed(tables)} would be a manifest with a first line such as file_name,label, or such keys"
    layouts = [layout.looks for layout in LAYOUTS]
    return DataError(
        f"{tree.at()}: holds no images in a layout that is known ({_content(tree)}); "
        f"it may be {', '.join(layouts[:-1])}, or {layouts[-1]}{advice}"
    )


def _content(tree: FileTree) -> str:
    root = tree.root
    names = {*root.images, *root.others, *root.specials, *root.problems, *root.counted}
    folders = {*root.folders, *(name for name, _ in root.left_out)}
    return f"it holds {listed(sorted([*names, *(f'{name}/' for name in folders)])) or 'nothing'}"


def _is_layout(folder: Folder) -> bool:
    return any(IDX_NAME.fullmatch(name) for name in folder.others) or any(
        split_of(split) and any(map(is_table, inner.others)) for split, inner in folder.folders.items()
    )
