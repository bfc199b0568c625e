"""Finds out which of the three layouts a data folder has."""

from __future__ import annotations

from pathlib import Path

from components.data_prep.class_folders import (
    SPLIT_FOLDERS,
    find_class_folders,
    folders_in,
    has_images,
    open_class_folders,
)
from components.data_prep.idx import find_idx_files, open_idx
from components.data_prep.info_csv import FILE_NAME, open_info_csv
from components.data_prep.source import Source, listed, reading, shown
from components.shared.dataset import DATASET
from components.shared.errors import DataError

LAYOUTS = (
    "IDX files (train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz), "
    "a folder per class (<class>/*.png or train/<class>/*.png), "
    f"or a table (train/{FILE_NAME} with the columns files and type)"
)


def open_source(data: Path, n_classes: int) -> Source:
    """Recognise a data folder and open it as a source.

    Args:
        data: The folder.
        n_classes: How many classes the params expect.

    Raises:
        DataError: Not a folder, none of the layouts or several, or one whose content cannot be used.
    """
    with reading(data):
        if not data.exists():
            raise DataError(f"{shown(data)}: there is no such data folder")
        if not data.is_dir():
            raise DataError(f"{shown(data)}: is a file; name the folder that holds the data, and unpack archives first")
        if (data / DATASET.manifest_file).exists():
            raise DataError(f"{shown(data)}: is a dataset directory already; give it to train as it is")
        has_idx = bool(find_idx_files(data))
        has_table = (data / "train" / FILE_NAME).exists()
        if not has_table and (data / "test" / FILE_NAME).exists():
            raise DataError(f"{shown(data)}: test/{FILE_NAME} is there, and train/{FILE_NAME} is not; add it")
    folders = None if has_table else find_class_folders(data)
    # Folders below train/ and test/ hold the images that the tables name; only others can be classes.
    others = [name for name in folders_in(data) if name not in SPLIT_FOLDERS] if has_table else []
    beside_table = any(has_images(data / name, data) for name in others)
    kinds = {
        "IDX files": has_idx,
        f"train/{FILE_NAME}": has_table,
        "a folder per class": folders is not None or beside_table,
    }
    found = [kind for kind, there in kinds.items() if there]
    if len(found) > 1:
        raise DataError(
            f"{shown(data)}: holds {' and '.join(found)}, and it must be clear which counts; it may be {LAYOUTS}"
        )
    if has_idx:
        return open_idx(data, n_classes)
    if has_table:
        return open_info_csv(data, n_classes)
    if folders is not None:
        return open_class_folders(data, folders, n_classes)
    with reading(data):
        content = sorted(path.name + "/" * path.is_dir() for path in data.iterdir())
    raise DataError(
        f"{shown(data)}: holds no images in a layout that is known (it holds {listed(content) or 'nothing'}); "
        f"it may be {LAYOUTS}"
    )
