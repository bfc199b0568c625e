"""Finds out which of the three layouts a data folder has."""

from __future__ import annotations

from pathlib import Path

from components.data_prep.class_folders import find_class_folders, open_class_folders
from components.data_prep.file_tree import LocalTree
from components.data_prep.folder_tree import Folder, paths_below, pictures_below
from components.data_prep.idx import IDX_NAME, find_idx_files, open_idx
from components.data_prep.info_csv import FILE_NAME, find_tables, is_table, open_info_csv
from components.data_prep.source import Source, listed, reading
from components.data_prep.splits import split_of
from components.shared.artifacts.dataset import DATASET
from components.shared.errors import DataError
from components.shared.logs import step_logger
from components.shared.text import shown

_LAYOUTS = (
    "IDX files (train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz), "
    "a folder per class (<class>/*.png or train/<class>/*.png), "
    f"or a table (train/{FILE_NAME} with the columns files and type)"
)


def open_source(data: Path, n_classes: int | None = None, *, follow_links: bool = False) -> Source:
    """Recognise a data folder and open it as a source; without `n_classes` it has as many classes as are found.

    Raises:
        DataError: Not a folder, none of the layouts or several, or one whose content cannot be used.
    """
    where = shown(data)
    with reading(data):
        if not data.exists():
            raise DataError(f"{where}: there is no such data folder")
        if not data.is_dir():
            raise DataError(f"{where}: is a file; name the folder that holds the data, and unpack archives first")
        if (data / DATASET.manifest_file).exists():
            raise DataError(f"{where}: is a dataset directory already; give it to train as it is")
        idx = find_idx_files(data)
    tree = LocalTree(data, follow_links=follow_links)
    root = tree.root
    if "" in root.problems:
        root.raise_problem(data)
    tables = find_tables(data, root)
    folders = None if tables else find_class_folders(data, root)
    # Folders of splits hold the images that the tables name; only others can be classes.
    beside_table = tables and any(not split_of(name) for name in root.with_images())
    found = ["IDX files"] if idx else []
    found += [f"{shown(tables['train'][0])}/{FILE_NAME}"] if tables else []
    found += ["a folder per class"] if folders or beside_table else []
    if len(found) > 1:
        raise DataError(
            f"{where}: holds {' and '.join(found)}, and it must be clear which counts; it may be {_LAYOUTS}"
        )
    if idx:
        return open_idx(data, root, idx, n_classes, follow_links=follow_links)
    if tables:
        return open_info_csv(tree, data, tables, n_classes, follow_links=follow_links)
    if folders is None:
        raise _unknown(data, root)
    if any(map(is_table, root.others)):
        step_logger("data-prep").warning(
            "%s: %s is not read, since it is in no folder of a split; the classes are the folders", where, FILE_NAME
        )
    return open_class_folders(tree, data, folders, n_classes)


def _unknown(data: Path, root: Folder) -> DataError:
    """The error that a folder has none of the layouts, with what is likely to be done."""
    deeper = sorted(path for path, folder in paths_below(root) if path and _is_layout(folder))
    if len(deeper) == 1:
        return DataError(f"{shown(data)}: the data are deeper; give --data {shown(data / deeper[0])}")
    if deeper:
        return DataError(
            f"{shown(data)}: the data are deeper, in {listed(deeper)}; put the files that belong together into one "
            "folder, or give --data the folder that holds all of them"
        )
    with reading(data):
        content = sorted(path.name + "/" * path.is_dir() for path in data.iterdir())
    advice = ""
    if unlabelled := list(filter(split_of, root.with_images())):
        advice = (
            f"; {listed(unlabelled)} hold(s) images in no class folder, which have no label: put each into a folder of "
            "its class"
        )
    if lost := pictures_below(root, ""):
        file, (_, reason) = min(lost.items())
        advice += f"; {shown(file)} {reason}"
    return DataError(
        f"{shown(data)}: holds no images in a layout that is known (it holds {listed(content) or 'nothing'}); "
        f"it may be {_LAYOUTS}{advice}"
    )


def _is_layout(folder: Folder) -> bool:
    return any(IDX_NAME.fullmatch(name) for name in folder.others) or any(
        split_of(split) and any(map(is_table, inner.others)) for split, inner in folder.folders.items()
    )
