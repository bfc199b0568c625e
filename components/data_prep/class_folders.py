"""A folder per class: ``DATA/<class>/…``, or ``DATA/train/<class>/…`` and optionally so in ``test`` and ``val``."""

from __future__ import annotations

import filecmp
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from components.data_prep.folder_tree import Folder, ImagesOnce, images_below, raise_problem
from components.data_prep.image_files import ImageFileSplit
from components.data_prep.left_out import (
    IN_NO_CLASS,
    IN_NO_SPLIT,
    LeftOutCounter,
    advice,
    lost_pictures,
    pictures_in_words,
)
from components.data_prep.source import (
    SPLITS,
    Pictures,
    Source,
    SourceSplit,
    check_class_count,
    check_known_classes,
    composed,
    in_class_order,
    listed,
    shown,
)
from components.data_prep.split_folders import split_in, split_of
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.logs import step_logger

# Of the images with the path of a training image, taken evenly, since each is read once more.
_COPIES_COMPARED = 1000

_log = step_logger("data-prep")


@dataclass(frozen=True)
class ClassFolders:
    """Where the class folders are.

    Attributes:
        splits: The folder that holds the class folders of each split, by its name; the empty name is the data folder.
        unlabelled: Folders named after a split that hold images and no class folder.
        unread: Other folders beside those of the splits that hold images.
    """

    splits: dict[SplitName, tuple[str, Folder]]
    unlabelled: dict[str, Folder] = field(default_factory=dict)
    unread: dict[str, Folder] = field(default_factory=dict)

    def has_several(self) -> bool:
        """Whether there is more than one folder of them, so that one alone is not all of the data."""
        return len(self.splits) + len(self.unlabelled) + len(self.unread) > 1


def find_class_folders(data: Path, root: Folder) -> ClassFolders | None:
    """The class folders of a data folder, if at least one holds an image, or something that cannot be read.

    Args:
        data: The data folder, for messages.
        root: What is in it.

    Raises:
        DataError: Folders may be splits or classes, or two of them name one split.
    """
    for name, folder in root.folders.items():
        if split_of(name):
            raise_problem(folder, data / name)
    holding = root.with_images()
    splits = _with_class_folders(holding)
    if splits:
        return _find_splits(data, root, holding, splits)
    if not holding:
        there = any(folder.has_problems() for folder in root.folders.values())
        return ClassFolders({"train": ("", root)}) if there else None
    if all(split_of(name) for name in holding):  # images of splits, in no class folder
        return None
    _check_are_classes(data, holding)
    return ClassFolders({"train": ("", root)})


def _with_class_folders(holding: dict[str, Folder]) -> dict[str, SplitName]:
    """The folders that are named after a split and hold folders with images."""
    return {name: split for name, folder in holding.items() if (split := split_of(name)) and any(folder.with_images())}


def _find_splits(data: Path, root: Folder, holding: dict[str, Folder], splits: dict[str, SplitName]) -> ClassFolders:
    where = shown(data)
    named: dict[SplitName, list[str]] = {}
    for name, split in splits.items():
        named.setdefault(split, []).append(name)
    unlabelled = {name: folder for name, folder in holding.items() if split_of(name) and name not in splits}
    unread = {name: folder for name, folder in holding.items() if not split_of(name)}
    for name in root.folders:  # one without an image may be a split that is still to be filled
        if (other := split_of(name)) and name not in holding:
            named.setdefault(other, [name])
    for split, names in named.items():
        alike = names + [name for name in unlabelled if split_of(name) == split]
        if len(alike) > 1:
            raise DataError(
                f"{where}: {' and '.join(shown(name) for name in alike)} both name the {split} split; rename or remove "
                "all but one, so that it is clear which counts"
            )
    if "train" not in splits.values():
        raise _no_train(data, holding, splits)
    if unread and len(splits) == 1:
        raise DataError(
            f"{where}: {shown(next(iter(splits)))} holds class folders, as a split does, and beside it "
            f"{listed(list(unread))} hold(s) images: it is not clear whether these are splits or classes; "
            f"{_renaming(unread, splits.values())}where all are classes, put them below a folder "
            f"{shown(data / 'train')}; else move what is no split out of the data folder"
        )
    found = {split: (named[split][0], root.folders[named[split][0]]) for split in SPLITS if split in named}
    return ClassFolders(found, unlabelled, unread)


def _no_train(data: Path, holding: dict[str, Folder], splits: dict[str, SplitName]) -> DataError:
    given = " and ".join(f"{shown(name)} ({split})" for name, split in splits.items())
    start = f"{shown(data)}: holds the split(s) {given}, and none for training; "
    if unlabelled := [name for name in holding if split_of(name) == "train"]:
        return DataError(f"{start}{unlabelled[0]} holds images in no class folder; put each into a folder of its class")
    others = {name: folder for name, folder in holding.items() if name not in splits}
    if others:
        renaming = (
            _renaming(others, splits.values())
            or f"rename the folder with the training images ({listed(list(others))}) to train; "
        )
        return DataError(f"{start}{renaming}where all are classes, put them below a folder train")
    name = next(iter(splits))
    advice = f"; or, if its images are to be trained on, give --data {shown(data / name)}" if len(splits) == 1 else ""
    return DataError(f"{start}add the training images as train/, or rename the folder that holds them to train{advice}")


def _renaming(folders: Collection[str], taken: Collection[SplitName] = ()) -> str:
    """What to rename of folders whose names hold the word of a split that is not taken."""
    renamed = [f"{shown(name)} to {split}" for name in folders if (split := split_in(name)) and split not in taken]
    return f"rename {listed(renamed)}; " if renamed else ""


def _check_are_classes(data: Path, holding: dict[str, Folder]) -> None:
    """See that the folders of a data folder are classes.

    Raises:
        DataError: They look like splits, or hold splits, or the classes lie one folder deeper.
    """
    where = shown(data)
    deeper = {name: folder for name, folder in holding.items() if any(folder.with_images())}
    meant = {name: split for name in deeper if (split := split_in(name))}
    if len(set(meant.values())) > 1:
        raise DataError(
            f"{where}: {listed(list(meant))} hold folders with images, and their names sound like splits; "
            f"{_renaming(meant)}where they are classes, put all class folders below a folder train"
        )
    inner = {
        name: {split for inside in folder.with_images() if (split := split_of(inside))}
        for name, folder in holding.items()
    }
    if len(inner) > 1 and all(inner.values()) and len(set().union(*inner.values())) > 1:
        first = next(iter(holding))
        below = next(name for name in holding[first].with_images() if split_of(name))
        raise DataError(
            f"{where}: every class folder holds folders named after splits, such as {shown(f'{first}/{below}')}; put "
            f"the splits above the classes, as {shown(f'{below}/{first}')}; where they are none, rename them"
        )
    if len(holding) == 1 and deeper:
        raise _deeper(data, holding)


def _deeper(data: Path, holding: dict[str, Folder]) -> DataError:
    """The error that the classes of a data folder lie below the one folder in it."""
    path = data
    while len(holding) == 1 and not _with_class_folders(holding):
        ((name, folder),) = holding.items()
        if folder.images or not any(folder.with_images()):
            break
        path, holding = path / name, folder.with_images()
    if path == data:
        path = data / next(iter(holding))
    return DataError(f"{shown(data)}: the classes lie one folder deeper or more; give --data {shown(path)}")


def open_class_folders(data: Path, root: Folder, layout: ClassFolders, n_classes: int) -> Source:
    """The source made of class folders: files listed, none opened but those whose ending does not say what they are.

    Args:
        data: The folder.
        root: What is in it.
        layout: What :func:`find_class_folders` found there.
        n_classes: How many classes there must be.

    Raises:
        DataError: A class without images, unusable names, classes that disagree, links that may not be followed.
    """
    _check_not_deeper(data, layout)
    reader = _Reader(data)
    by_split = {split: reader.files_by_class(split, name, folder) for split, (name, folder) in layout.splits.items()}
    train_folder = data / layout.splits["train"][0]
    if empty := [name for name, files in by_split["train"].items() if not files]:
        lost = [reader.pictures["train", name] for name in empty if reader.pictures["train", name].count]
        raise DataError(
            f"{shown(train_folder)}: class folder(s) without an image: {listed(empty)}; an image is a file with an "
            f"image's ending, such as .png; add images or remove the folder{_unread(lost)}"
        )
    classes = in_class_order(by_split["train"])
    check_class_count(train_folder, classes, n_classes)
    splits: dict[SplitName, SourceSplit] = {}
    for split, (name, _) in layout.splits.items():
        by_class = by_split[split]
        check_known_classes(data / name, by_class, classes)
        if not any(by_class.values()):
            lost = [found for (of, _), found in reader.pictures.items() if of == split and found.count]
            raise DataError(
                f"{shown(data / name)}: holds no image; remove the folder to have {split} images held out"
                + _unread(lost)
            )
        splits[split] = _as_split(data, by_class, classes)
    if again := reader.once.check_links():
        _log.warning(
            "%d image(s) are links to images that are read under another name, too, and so are read twice", again
        )
    _log_copies(data, layout, by_split)
    counter = _count_left_out(root, layout, reader)
    return Source(
        path=data,
        name="a folder per class",
        classes=classes,
        splits=splits,
        folders={split: name for split, (name, _) in layout.splits.items()},
        left_out=counter.counted(),
        pictures=tuple(found for found in reader.pictures.values() if found.count),
    )


def _unread(pictures: Collection[Pictures]) -> str:
    """What there is in the place of images, for the end of a message."""
    return f"; {pictures_in_words(pictures)} cannot be read: {advice(pictures)}" if pictures else ""


def _check_not_deeper(data: Path, layout: ClassFolders) -> None:
    """See that the folder of a split holds classes.

    Raises:
        DataError: Its one folder holds them, or the splits once more.
    """
    train_name, train = layout.splits["train"]
    if not train_name:
        return  # find_class_folders has seen to it
    known = {composed(name) for name in train.folders}
    deeper: dict[str, str] = {}
    for name, folder in layout.splits.values():
        holding, where = folder.with_images(), shown(data / name)
        once_more = _with_class_folders(holding)
        only = next(iter(holding)) if len(holding) == 1 else ""
        if once_more and len(once_more) == len(holding) and set(once_more.values()) != {split_of(name)}:
            todo = (
                "keep one folder of each split, right below the data folder, and rename or move the others"
                if layout.has_several()
                else f"give --data {where}, or move the class folders up"
            )
            raise DataError(
                f"{where}: holds {listed(list(once_more))} with class folders, which are splits in a split; {todo}"
            )
        is_class = folder is not train and train_name not in deeper and composed(only) in known
        if only and any(holding[only].with_images()) and not is_class:
            deeper[name] = f"{name}/{only}"
    if not deeper:
        return
    inner, outer = (" and ".join(map(shown, names)) for names in (deeper.values(), deeper))
    if len(deeper) > 1:
        raise DataError(
            f"{shown(data)}: the classes lie one folder deeper, in {inner}; move the class folders up into {outer}, "
            "and remove the inner folder of each"
        )
    instead = "" if layout.has_several() else f", or give --data {shown(data / inner)}"
    raise DataError(f"{shown(data / outer)}: the classes lie one folder deeper, in {inner}; move them up{instead}")


def _log_copies(data: Path, layout: ClassFolders, by_split: dict[SplitName, dict[str, list[str]]]) -> None:
    """Warn of images of a split that lie in the training split, too, by the same path and of the same content."""
    train_name = layout.splits["train"][0]
    train = {file.removeprefix(train_name) for files in by_split["train"].values() for file in files}
    for split, (name, _) in layout.splits.items():
        files = [file for of_class in by_split[split].values() for file in of_class]
        both = [file for file in files if split != "train" and file.removeprefix(name) in train]
        compared = both[:: len(both) // _COPIES_COMPARED + 1]
        copies = [file for file in compared if _is_same(data / file, data / f"{train_name}{file.removeprefix(name)}")]
        if copies:
            _log.warning(
                "%d of %d %s images are the same files as training images (such as %s)%s; %s accuracy will be too high",
                len(copies),
                len(files),
                split,
                shown(copies[0]),
                f"; {len(compared)} of them were compared" if len(compared) < len(both) else "",
                split,
            )


def _is_same(file: Path, other: Path) -> bool:
    """Whether two files have the same content; one that cannot be read is reported when it is decoded."""
    try:
        return file.stat().st_size == other.stat().st_size > 0 and filecmp.cmp(file, other, shallow=False)
    except OSError:
        return False


def _as_split(data: Path, by_class: dict[str, list[str]], classes: tuple[str, ...]) -> ImageFileSplit:
    """Images class by class, and by path within a class."""
    counts = [len(by_class.get(name, [])) for name in classes]
    files = [file for name in classes for file in by_class.get(name, [])]
    return ImageFileSplit(data, files, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


class _Reader:
    """Lists the images of each split by class."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.once = ImagesOnce(data)
        self.pictures: dict[tuple[str, str], Pictures] = {}

    def files_by_class(self, split: SplitName, path: str, folder: Folder) -> dict[str, list[str]]:
        """Sorted image paths, relative to the data folder, by the name of their class in NFC."""
        raise_problem(folder, self.data / path)
        by_class: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        for name, inner in folder.folders.items():
            where = self.data / path
            if problem := class_name_problem(name):
                raise DataError(f"{shown(where)}: the folder name {shown(name)} {problem}; rename it")
            of_class = composed(name)
            if of_class in by_class:
                raise DataError(
                    f"{shown(where)}: the folders {names[of_class]!a} and {name!a} differ in Unicode "
                    "composition alone, and so name one class; put their images into one of them"
                )
            below = f"{path}/{name}" if path else name
            by_class[of_class] = self.once.below(inner, below, split, of_class)
            lost = lost_pictures(inner, below)
            self.pictures[split, of_class] = replace(lost, read=len(by_class[of_class]))
            names[of_class] = name
        return by_class


def _count_left_out(root: Folder, layout: ClassFolders, reader: _Reader) -> LeftOutCounter:
    """Count the images that are of no class or of no split."""
    counter = LeftOutCounter(root)
    unused: dict[str, list[str]] = {}
    for path, _, folder in images_below(root):
        if not reader.once.is_read(folder):
            reason = IN_NO_SPLIT if path.partition("/")[0] in layout.unread else IN_NO_CLASS
            unused.setdefault(reason, []).append(path)
    for reason, files in unused.items():
        counter.add_images(reason, files)
    if layout.unread:
        _log.warning("not read, being no split: folder(s) %s of %s", listed(list(layout.unread)), shown(reader.data))
    for name in layout.unlabelled:
        _log.warning(
            "%s: holds images in no class folder, which have no label and cannot be a %s split",
            shown(reader.data / name),
            split_of(name),
        )
    return counter
