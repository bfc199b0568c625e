"""A folder per class: ``DATA/<class>/…``, or ``DATA/train/<class>/…`` and optionally so in ``test`` and ``val``."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.data_prep.folder_tree import HARD_LINK, Folder, images_below, joined
from components.data_prep.images import read_batches
from components.data_prep.left_out import count_left_out, lost_pictures, pictures_instead
from components.data_prep.source import (
    Pictures,
    Source,
    SourceSplit,
    check_known_classes,
    composed,
    listed,
    shown,
    training_classes,
)
from components.data_prep.splits import SPLITS, split_in, split_of
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
        unlabelled: Names of folders named after a split that hold images and no class folder.
        unread: Names of other folders beside those of the splits that hold images.
    """

    splits: dict[SplitName, tuple[str, Folder]]
    unlabelled: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

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
            folder.raise_problem(data / name)
    holding = root.with_images()
    if splits := _splits_in(holding):
        return _find_splits(data, root, holding, splits)
    if holding and all(split_of(name) for name in holding):  # images of splits, in no class folder
        return None
    if not holding and not any(folder.has_problems() for folder in root.folders.values()):
        return None
    _check_are_classes(data, holding)
    return ClassFolders({"train": ("", root)})


def _splits_in(holding: dict[str, Folder]) -> dict[str, SplitName]:
    """The folders that are named after a split and hold folders with images."""
    return {name: split for name, folder in holding.items() if (split := split_of(name)) and folder.with_images()}


def _find_splits(data: Path, root: Folder, holding: dict[str, Folder], splits: dict[str, SplitName]) -> ClassFolders:
    named: dict[SplitName, list[str]] = {}
    for name, split in splits.items():
        named.setdefault(split, []).append(name)
    unlabelled = [name for name in holding if split_of(name) and name not in splits]
    unread = [name for name in holding if not split_of(name)]
    for name in root.folders:  # one without an image may be a split that is still to be filled
        if (other := split_of(name)) and name not in holding:
            named.setdefault(other, [name])
    for split, names in named.items():
        same = names + [name for name in unlabelled if split_of(name) == split]
        if len(same) > 1:
            raise DataError(
                f"{shown(data)}: {' and '.join(map(shown, same))} both name the {split} split; rename or remove all "
                "but one, so that it is clear which counts"
            )
    if "train" not in splits.values():
        raise _no_train(data, holding, splits)
    if unread and len(splits) == 1:
        raise DataError(
            f"{shown(data)}: {shown(next(iter(splits)))} holds class folders, as a split does, and beside it "
            f"{listed(unread)} hold(s) images: it is not clear whether these are splits or classes; "
            f"{_renaming(unread, splits.values())}where all are classes, put them below a folder "
            f"{shown(data / 'train')}; else move what is no split out of the data folder"
        )
    found = {split: (named[split][0], root.folders[named[split][0]]) for split in SPLITS if split in named}
    return ClassFolders(found, unlabelled, unread)


def _no_train(data: Path, holding: dict[str, Folder], splits: dict[str, SplitName]) -> DataError:
    given = " and ".join(f"{shown(name)} ({split})" for name, split in splits.items())
    others = [name for name in holding if name not in splits]
    if unlabelled := [name for name in holding if split_of(name) == "train"]:
        advice = f"{unlabelled[0]} holds images in no class folder; put each into a folder of its class"
    elif others:
        rename = f"rename the folder with the training images ({listed(others)}) to train; "
        advice = f"{_renaming(others, splits.values()) or rename}where all are classes, put them below a folder train"
    else:
        advice = "add the training images as train/, or rename the folder that holds them to train"
        if len(splits) == 1:
            only = shown(data / next(iter(splits)))
            advice += f"; or, if its images are to be trained on, give --data {only}"
    return DataError(f"{shown(data)}: holds the split(s) {given}, and none for training; {advice}")


def _renaming(folders: Collection[str], taken: Collection[SplitName] = ()) -> str:
    """What to rename of folders whose names hold the word of a split that is not taken."""
    renamed = [f"{shown(name)} to {split}" for name in folders if (split := split_in(name)) and split not in taken]
    return f"rename {listed(renamed)}; " if renamed else ""


def _check_are_classes(data: Path, holding: dict[str, Folder]) -> None:
    deeper = [name for name, folder in holding.items() if folder.with_images()]
    meant = {name: split for name in deeper if (split := split_in(name))}
    if len(set(meant.values())) > 1:
        raise DataError(
            f"{shown(data)}: {listed(meant)} hold folders with images, and their names sound like splits; "
            f"{_renaming(meant)}where they are classes, put all class folders below a folder train"
        )
    inner = [{split: name for name in folder.with_images() if (split := split_of(name))} for folder in holding.values()]
    if len(inner) > 1 and all(inner) and len(set().union(*inner)) > 1:
        first, below = next(iter(holding)), next(iter(inner[0].values()))
        raise DataError(
            f"{shown(data)}: every class folder holds folders named after splits, such as {shown(f'{first}/{below}')}; "
            f"put the splits above the classes, as {shown(f'{below}/{first}')}; where they are none, rename them"
        )
    if len(holding) == 1 and deeper:
        path = data
        while len(holding) == 1 and not _splits_in(holding):
            ((name, folder),) = holding.items()
            if folder.images or not folder.with_images():
                break
            path, holding = path / name, folder.with_images()
        where = data / deeper[0] if path == data else path
        raise DataError(f"{shown(data)}: the classes lie one folder deeper or more; give --data {shown(where)}")


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
        lost = [found for name in empty if (found := reader.pictures["train", name]).count]
        raise DataError(
            f"{shown(train_folder)}: class folder(s) without an image: {listed(empty)}; an image is a file with an "
            f"image's ending, such as .png; add images or remove the folder{pictures_instead(lost)}"
        )
    classes = training_classes(train_folder, by_split["train"], n_classes)
    splits: dict[SplitName, SourceSplit] = {}
    for split, by_class in by_split.items():
        folder = data / layout.splits[split][0]
        check_known_classes(folder, by_class, classes)
        if not any(by_class.values()):
            lost = [found for (of, _), found in reader.pictures.items() if of == split and found.count]
            raise DataError(
                f"{shown(folder)}: holds no image; remove the folder to have {split} images held out"
                f"{pictures_instead(lost)}"
            )
        # Class by class, and by path within a class.
        counts = [len(by_class.get(name, [])) for name in classes]
        files = [file for name in classes for file in by_class.get(name, [])]
        splits[split] = SourceSplit(
            np.repeat(np.arange(len(classes), dtype=np.int64), counts), partial(read_batches, data, files)
        )
    if again := reader.check_links():
        _log.warning(
            "%d image(s) are links to images that are read under another name, too, and so are read twice", again
        )
    _log_copies(data, layout, by_split)
    unused: dict[str, list[str]] = {}
    for path, _, inner in images_below(root):
        if not reader.is_read(inner):
            is_in_split = path.partition("/")[0] not in layout.unread
            unused.setdefault("in no class folder" if is_in_split else "in no split's folder", []).append(path)
    left_out = count_left_out(root, unused)
    if layout.unread:
        _log.warning("not read, being no split: folder(s) %s of %s", listed(layout.unread), shown(data))
    for name in layout.unlabelled:
        _log.warning(
            "%s: holds images in no class folder, which have no label and cannot be a %s split",
            shown(data / name),
            split_of(name),
        )
    return Source(
        path=data,
        name="a folder per class",
        classes=classes,
        splits=splits,
        folders={split: name for split, (name, _) in layout.splits.items()},
        left_out=left_out,
        pictures=tuple(found for found in reader.pictures.values() if found.count),
    )


def _check_not_deeper(data: Path, layout: ClassFolders) -> None:
    train_name, train = layout.splits["train"]
    if not train_name:
        return  # find_class_folders has seen to it
    known = {composed(name) for name in train.folders}
    deeper: dict[str, str] = {}
    for name, folder in layout.splits.values():
        holding, where = folder.with_images(), shown(data / name)
        again = _splits_in(holding)
        if again and len(again) == len(holding) and set(again.values()) != {split_of(name)}:
            advice = f"give --data {where}, or move the class folders up"
            if layout.has_several():
                advice = "keep one folder of each split, right below the data folder, and rename or move the others"
            raise DataError(f"{where}: holds {listed(again)} with class folders, which are splits in a split; {advice}")
        only = next(iter(holding)) if len(holding) == 1 else ""
        is_class = folder is not train and train_name not in deeper and composed(only) in known
        if only and holding[only].with_images() and not is_class:
            deeper[name] = f"{name}/{only}"
    if deeper:
        inner, outer = (" and ".join(map(shown, names)) for names in (deeper.values(), deeper))
        if len(deeper) > 1:
            raise DataError(
                f"{shown(data)}: the classes lie one folder deeper, in {inner}; move the class folders up into "
                f"{outer}, and remove the inner folder of each"
            )
        instead = "" if layout.has_several() else f", or give --data {shown(data / inner)}"
        raise DataError(f"{shown(data / outer)}: the classes lie one folder deeper, in {inner}; move them up{instead}")


def _log_copies(data: Path, layout: ClassFolders, by_split: dict[SplitName, dict[str, list[str]]]) -> None:
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
    try:
        return file.stat().st_size == other.stat().st_size > 0 and filecmp.cmp(file, other, shallow=False)
    except OSError:  # reported when it is decoded
        return False


class _Reached(NamedTuple):
    """By which path a folder or a linked image was reached, and for which split and class."""

    path: str
    use: tuple[str, str]


class _Reader:
    """Lists the images of each split by class, and refuses to read an image for two splits or classes.

    Attributes:
        pictures: Those that are not read, by split and class.
    """

    def __init__(self, data: Path) -> None:
        self.pictures: dict[tuple[str, str], Pictures] = {}
        self._data = data
        self._folders: dict[str, tuple[Folder, _Reached]] = {}
        self._links: list[tuple[str, _Reached]] = []

    def files_by_class(self, split: SplitName, path: str, folder: Folder) -> dict[str, list[str]]:
        """Sorted image paths, relative to the data folder, by the name of their class in NFC."""
        where = self._data / path
        folder.raise_problem(where)
        by_class: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        for name, inner in folder.folders.items():
            if problem := class_name_problem(name):
                raise DataError(f"{shown(where)}: the folder name {shown(name)} {problem}; rename it")
            of_class = composed(name)
            if of_class in by_class:
                raise DataError(
                    f"{shown(where)}: the folders {names[of_class]!a} and {name!a} differ in Unicode "
                    "composition alone, and so name one class; put their images into one of them"
                )
            below = joined(path, name)
            by_class[of_class] = self._files_below(inner, below, (split, of_class))
            self.pictures[split, of_class] = lost_pictures(inner, below, len(by_class[of_class]))
            names[of_class] = name
        return by_class

    def _files_below(self, folder: Folder, path: str, use: tuple[str, str]) -> list[str]:
        files: list[str] = []
        waiting = [(folder, path)]
        while waiting:
            here, start = waiting.pop()
            here.raise_problem(self._data / start)
            if here.real in self._folders:
                raise DataError(
                    f"{shown(self._data / start)}: is by a link the same folder as "
                    f"{shown(self._folders[here.real][1].path)}, which is read already, and an image has one class and "
                    "one split; remove one of them"
                )
            self._folders[here.real] = here, _Reached(start, use)
            files += (f"{start}/{name}" for name in here.images)
            links = sorted([*here.links.items(), *here.hard_links.items()])
            self._links += ((real, _Reached(f"{start}/{link}", use)) for link, real in links)
            waiting += [(inner, f"{start}/{name}") for name, inner in here.folders.items()]
        return sorted(files)

    def is_read(self, folder: Folder) -> bool:
        """Whether the images of a folder belong to a class."""
        return folder.real in self._folders

    def check_links(self) -> int:
        """How many images that are links lead to one that is read under another name, too.

        Raises:
            DataError: That one is of another split or class.
        """
        seen: dict[str, _Reached] = {}
        again = 0
        for real, link in self._links:
            earlier = seen.setdefault(real, self._as_file(real) or link)
            if earlier is link:
                continue
            if earlier.use != link.use:
                kind = "hard link" if real.startswith(HARD_LINK) else "link"
                raise DataError(
                    f"{shown(self._data / link.path)}: is a {kind} to the same image as {shown(earlier.path)}, and an "
                    "image has one class and one split; remove one of them"
                )
            again += 1
        return again

    def _as_file(self, real: str) -> _Reached | None:
        """The image of this real path under its own name, if it is read."""
        start, name = os.path.split(real)
        folder, reached = self._folders.get(start, (None, None))
        if folder is None or reached is None or name not in folder.images or name in folder.links:
            return None
        return _Reached(f"{reached.path}/{name}", reached.use)
