"""A folder per class: ``DATA/<class>/…``, or ``DATA/train/<class>/…`` and optionally ``DATA/test/<class>/…``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data_prep.image_files import ImageFileSplit
from components.data_prep.images import image_extensions
from components.data_prep.source import (
    Source,
    check_class_count,
    check_test_classes,
    class_name_problem,
    in_class_order,
    leads_inside,
    listed,
    reading,
    shown,
)
from components.shared.artifacts import WRITING_MARKER
from components.shared.dataset import DATASET
from components.shared.errors import DataError
from components.shared.logs import step_logger

SPLIT_FOLDERS = ("train", "test")


@dataclass(frozen=True)
class ClassFolders:
    """Where the class folders are.

    Attributes:
        train: The folder that holds the class folders for training.
        test: The same for testing, where there is one.
        unread: Folders beside them that hold no class.
    """

    train: Path
    test: Path | None
    unread: tuple[str, ...]


def folders_in(folder: Path) -> list[str]:
    """Names of the folders directly in a folder, sorted, but for those that are none of the data.

    These are hidden ones, dataset directories, and what file systems put at the root of a volume.
    """
    with reading(folder), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
        return [
            name
            for name in names
            if name != "lost+found"
            and not any((folder / name / mark).exists() for mark in (DATASET.manifest_file, WRITING_MARKER))
        ]


def find_class_folders(data: Path) -> ClassFolders | None:
    """The class folders of a data folder, if at least one holds an image."""
    names = folders_in(data)
    # "train" may be a class, too, beside others: then it holds images and no folders.
    if "train" in names and (folders_in(data / "train") or set(names) <= set(SPLIT_FOLDERS)):
        unread = tuple(name for name in names if name not in SPLIT_FOLDERS)
        layout = ClassFolders(data / "train", data / "test" if "test" in names else None, unread)
    else:
        layout = ClassFolders(data, None, ())
    return layout if any(has_images(layout.train / name, data) for name in folders_in(layout.train)) else None


def has_images(folder: Path, data: Path) -> bool:
    """Whether there is an image file in a folder of `data` or below it."""
    return next(image_files(folder, data), None) is not None


def open_class_folders(data: Path, layout: ClassFolders, n_classes: int) -> Source:
    """The source made of class folders: files listed, none opened.

    Args:
        data: The folder no link may lead out of.
        layout: What :func:`find_class_folders` found there.
        n_classes: How many classes there must be.

    Raises:
        DataError: A class without images, unusable names, classes that disagree, links that lead outside.
    """
    if layout.unread:
        step_logger("data-prep").warning(
            "not read, being neither train nor test: folder(s) %s of %s", listed(layout.unread), shown(data)
        )
    train = _files_by_class(layout.train, data)
    if empty := [name for name, files in train.items() if not files]:
        raise DataError(
            f"{shown(layout.train)}: class folder(s) without an image: {listed(empty)}; an image is a file with an "
            "image's ending, such as .png; add images or remove the folder"
        )
    classes = in_class_order(train)
    check_class_count(layout.train, classes, n_classes)
    test = None
    if layout.test is not None:
        by_class = _files_by_class(layout.test, data)
        check_test_classes(layout.test, by_class, classes)
        if not any(by_class.values()):
            raise DataError(f"{shown(layout.test)}: holds no image; remove the folder to have test images held out")
        test = _as_split(data, by_class, classes)
    return Source(
        path=data, name="a folder per class", classes=classes, train=_as_split(data, train, classes), test=test
    )


def _as_split(data: Path, by_class: dict[str, list[str]], classes: tuple[str, ...]) -> ImageFileSplit:
    """Images class by class, and by path within a class."""
    counts = [len(by_class.get(name, [])) for name in classes]
    files = [file for name in classes for file in by_class.get(name, [])]
    return ImageFileSplit(data, files, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def _files_by_class(folder: Path, data: Path) -> dict[str, list[str]]:
    """Sorted image paths, relative to `data`, by the name of their class folder."""
    if not leads_inside(folder, data):
        raise DataError(f"{shown(folder)}: is a link that leads out of {shown(data)}; copy what it leads to")
    loose = _loose_images(folder)
    if loose:
        step_logger("data-prep").warning(
            "not read, being in no class folder: %d image(s) of %s, such as %s",
            len(loose),
            shown(folder),
            shown(loose[0]),
        )
    by_class = {}
    for name in folders_in(folder):
        if problem := class_name_problem(name):
            raise DataError(f"{shown(folder)}: the folder name {shown(name)} {problem}; rename it")
        start = (folder / name).relative_to(data).as_posix()
        by_class[name] = sorted(f"{start}/{file}" for file in image_files(folder / name, data))
    return by_class


def _loose_images(folder: Path) -> list[str]:
    with reading(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_image_name(entry.name) and entry.is_file())


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in image_extensions()


def image_files(folder: Path, data: Path) -> Iterator[str]:
    """Image files in a folder and the folders below it, relative to it, in no particular order.

    Raises:
        DataError: A link leads out of `data` or back to a folder that was read already, or a file is no plain file.
    """
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        start = waiting.pop()
        here = folder / start
        if not leads_inside(here, data):
            raise DataError(f"{shown(here)}: is a link that leads out of {shown(data)}; copy what it leads to")
        if (real := os.path.realpath(here)) in seen:
            raise DataError(f"{shown(here)}: is a link to a folder that is read already; remove the link")
        seen.add(real)
        with reading(here), os.scandir(here) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in found:
            with reading(Path(entry.path)):
                is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder:
                waiting.append(f"{start}{entry.name}/")
            elif _is_image_name(entry.name):
                if entry.is_symlink() and not leads_inside(entry.path, data):
                    raise DataError(f"{shown(entry.path)}: is a link that leads out of {shown(data)}; copy the file")
                if not is_file:
                    raise DataError(f"{shown(entry.path)}: is not a file, or a link that leads nowhere; remove it")
                yield f"{start}{entry.name}"
