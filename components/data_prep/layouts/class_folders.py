"""A folder per class: ``DATA/<class>/…``, or ``DATA/train/<class>/…`` and optionally so in ``test`` and ``val``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from components.data_prep.layouts.source import (
    Source,
    SourceSplit,
    check_known_classes,
    composed,
    image_split,
    listed,
    training_classes,
)
from components.data_prep.splits import SPLITS, split_in, split_of
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import (
    Folder,
    count_left_out,
    joined,
    paths_below,
    pictures_below,
)
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.logs import step_logger
from components.shared.text import shown

_log = step_logger("data-prep")


@dataclass(frozen=True)
class ClassFolders:
    """Where the class folders are: the name of the folder that holds those of each split; empty: the data folder."""

    splits: dict[SplitName, str]
    unlabelled: list[str] = field(default_factory=list)  # folders named after a split with images in no class folder
    unread: list[str] = field(default_factory=list)  # other folders beside those of the splits that hold images

    @property
    def is_alone(self) -> bool:
        """Whether one folder is all of the data."""
        return len(self.splits) + len(self.unlabelled) + len(self.unread) == 1


def find_class_folders(tree: FileTree) -> ClassFolders | None:
    """The class folders of a data folder, if at least one holds an image, or something that cannot be read."""
    named = {name: split for name in tree.root.folders if (split := split_of(name))}
    for name in named:
        tree.root.folders[name].raise_problem(tree.at, name)
    holding = tree.root.with_images()
    splits = _splits_in(holding)
    if not splits:
        # Images of splits in no class folder are none; what cannot be read may be a class.
        is_unreadable = any(below.problems for inner in tree.root.folders.values() for _, below in paths_below(inner))
        if all(name in named for name in holding) and (holding or not is_unreadable):
            return None
        _check_are_classes(tree, holding)
        return ClassFolders({"train": ""})
    chosen: dict[SplitName, str] = {}
    for split in SPLITS:
        of_split = [name for name, other in named.items() if other == split]
        filled = [name for name in of_split if name in holding]
        if len(filled) > 1:
            raise DataError(
                f"{tree.at()}: {' and '.join(map(shown, filled))} both name the {split} split; rename or remove all "
                "but one, so that it is clear which counts"
            )
        for name in filled or of_split[:1]:  # one without an image may be a split that is still to be filled
            if name in splits or name not in holding:
                chosen[split] = name
    if "train" not in splits.values():
        raise _no_train(tree, holding, splits)
    unread = [name for name in holding if name not in named]
    if unread and len(splits) == 1:
        raise DataError(
            f"{tree.at()}: {shown(next(iter(splits)))} holds class folders, as a split does, and beside it "
            f"{listed(unread)} hold(s) images: it is not clear whether these are splits or classes; "
            f"{_renaming(unread, splits.values())}where all are classes, put them below a folder "
            f"{tree.at('train')}; else move what is no split out of the data folder"
        )
    layout = ClassFolders(chosen, [name for name in holding if name in named and name not in splits], unread)
    _check_splits_hold_classes(tree, layout)
    return layout


def _splits_in(holding: dict[str, Folder]) -> dict[str, SplitName]:
    """The folders that are named after a split and hold folders with images."""
    return {name: split for name, folder in holding.items() if (split := split_of(name)) and folder.with_images()}


def _no_train(tree: FileTree, holding: dict[str, Folder], splits: dict[str, SplitName]) -> DataError:
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
            only = tree.at(next(iter(splits)))
            advice += f"; or, if its images are to be trained on, give --data {only}"
    return DataError(f"{tree.at()}: holds the split(s) {given}, and none for training; {advice}")


def _renaming(folders: Collection[str], taken: Collection[SplitName] = ()) -> str:
    """What to rename of folders whose names hold that of a split that is not taken."""
    renamed = [f"{shown(name)} to {split}" for name in folders if (split := split_in(name)) and split not in taken]
    return f"rename {listed(renamed)}; " if renamed else ""


def _check_are_classes(tree: FileTree, holding: dict[str, Folder]) -> None:
    deeper = [name for name, folder in holding.items() if folder.with_images()]
    meant = {name: split for name in deeper if (split := split_in(name))}
    if len(set(meant.values())) > 1:
        raise DataError(
            f"{tree.at()}: {listed(meant)} hold folders with images, and their names sound like splits; "
            f"{_renaming(meant)}where they are classes, put all class folders below a folder train"
        )
    inner = [{split: name for name in folder.with_images() if (split := split_of(name))} for folder in holding.values()]
    if len(inner) > 1 and all(inner) and len(set().union(*inner)) > 1:
        first, below = next(iter(holding)), next(iter(inner[0].values()))
        raise DataError(
            f"{tree.at()}: every class folder holds folders named after splits, such as {shown(f'{first}/{below}')}; "
            f"put the splits above the classes, as {shown(f'{below}/{first}')}; where they are none, rename them"
        )
    path = ""
    while len(holding) == 1 and not _splits_in(holding):
        ((name, only),) = holding.items()
        holding = only.with_images()
        if only.images or not holding:
            break
        path = joined(path, name)
    if path:
        raise DataError(f"{tree.at()}: the data are deeper; give --data {tree.at(path)}")


def _check_splits_hold_classes(tree: FileTree, layout: ClassFolders) -> None:
    known = {composed(name) for name in tree.root.folders[layout.splits["train"]].folders}
    for split, name in layout.splits.items():
        holding, where = tree.root.folders[name].with_images(), tree.at(name)
        again = _splits_in(holding)
        if again and len(again) == len(holding) and set(again.values()) != {split}:
            advice = "keep one folder of each split, right below the data folder, and rename or move the others"
            if layout.is_alone:
                advice = f"give --data {where}, or move the class folders up"
            raise DataError(f"{where}: holds {listed(again)} with class folders, which are splits in a split; {advice}")
        only = next(iter(holding)) if len(holding) == 1 else ""
        if only and holding[only].with_images() and (split == "train" or composed(only) not in known):
            instead = f", or give --data {tree.at(f'{name}/{only}')}" if layout.is_alone else ""
            raise DataError(f"{where}: the classes are one folder deeper, in {name}/{only}; move them up{instead}")


def open_class_folders(tree: FileTree, layout: ClassFolders, n_classes: int | None) -> Source:
    """The source made of class folders; no file is opened but those whose ending does not say what they are."""
    reader, root = _Reader(tree), tree.root
    folders = {**root.folders, "": root}
    by_split = {split: reader.files_by_class(split, name, folders[name]) for split, name in layout.splits.items()}
    train_folder = tree.at(layout.splits["train"])
    if empty := [name for name, files in by_split["train"].items() if not files]:
        raise DataError(
            f"{train_folder}: class folder(s) without an image: {listed(empty)}; an image is a file with an "
            "image's ending, such as .png; add images or remove the folder"
        )
    classes = training_classes(train_folder, by_split["train"], n_classes)
    splits: dict[SplitName, SourceSplit] = {}
    for split, by_class in by_split.items():
        folder = tree.at(layout.splits[split])
        check_known_classes(folder, by_class, classes)
        if not any(by_class.values()):
            raise DataError(f"{folder}: holds no image; remove the folder to have {split} images held out")
        # Class by class, and by path within a class.
        files = [file for name in classes for file in by_class.get(name, ())]
        labels = np.repeat(np.arange(len(classes)), [len(by_class.get(name, ())) for name in classes])
        splits[split] = image_split(tree, layout.splits[split], files, labels, reader.pictures)
    if again := reader.check_links():
        _log.warning("%d image(s) are links to others that are read, too, and so are read twice", again)
    unused: dict[str, list[str]] = {}
    for path, inner in paths_below(root):
        if inner.images and inner.real not in reader.folders:
            reason = "in no split's folder" if path.partition("/")[0] in layout.unread else "in no class folder"
            unused.setdefault(reason, []).extend(joined(path, name) for name in inner.images)
    left_out = count_left_out(root, unused, reader.real_pictures)
    for read, *_ in reader.folders.values():
        read.images.clear()  # the splits' paths hold the names of all; twice they would take a tenth of all memory
    if layout.unread:
        _log.warning("not read, being no split: folder(s) %s of %s", listed(layout.unread), tree.at())
    for name in layout.unlabelled:
        without = "%s: holds images in no class folder, which have no label and cannot be a %s split"
        _log.warning(without, tree.at(name), split_of(name))
    images = sum(len(split.labels) for split in splits.values())
    folder_count = sum(map(len, by_split.values()))
    why = f"{folder_count} folders with {images} images"
    return Source(tree, "a folder per class", classes, splits, left_out, why)


_Use = tuple[SplitName, str]  # for which split and class


class _Reader:
    """Lists the images of each split by class, and refuses to read an image for two splits or classes."""

    def __init__(self, tree: FileTree) -> None:
        self.folders: dict[str, tuple[Folder, str, _Use]] = {}  # that are read, by their real paths
        self.pictures: dict[str, str] = {}  # by path, why they cannot be read
        self.real_pictures: set[str] = set()
        self._tree = tree

    def files_by_class(self, split: SplitName, path: str, folder: Folder) -> dict[str, list[str]]:
        """Sorted paths of images and pictures, relative to the data folder, by the name of their class in NFC."""
        where = self._tree.at(path)
        folder.raise_problem(self._tree.at, path)
        by_class: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        for name, inner in folder.folders.items():
            if problem := class_name_problem(name):
                raise DataError(f"{where}: the folder name {shown(name)} {problem}; rename it")
            of_class = composed(name)
            if of_class in by_class:
                raise DataError(
                    f"{where}: the folders {names[of_class]!a} and {name!a} differ in Unicode "
                    "composition alone, and so name one class; put their images into one of them"
                )
            by_class[of_class] = self._files_below(inner, joined(path, name), (split, of_class))
            names[of_class] = name
        return by_class

    def _files_below(self, folder: Folder, path: str, use: _Use) -> list[str]:
        pictures = pictures_below(folder, path, self._tree.is_picture)
        self.pictures |= {file: reason for file, (_, reason) in pictures.items()}
        self.real_pictures |= {real for real, _ in pictures.values()}
        files = list(pictures)
        waiting = [(folder, path)]
        while waiting:
            here, start = waiting.pop()
            here.raise_problem(self._tree.at, start)
            if here.real in self.folders:
                raise DataError(
                    f"{self._tree.at(start)}: is by a link the same folder as "
                    f"{shown(self.folders[here.real][1])}, which is read already, and an image has one class and "
                    "one split; remove one of them"
                )
            self.folders[here.real] = here, start, use
            files += (f"{start}/{name}" for name in here.images)
            waiting += [(inner, f"{start}/{name}") for name, inner in here.folders.items()]
        return sorted(files)

    def check_links(self) -> int:
        """How many images are links to one that is read under another name, too; an error if that has another use."""
        linked = {identity for folder, *_ in self.folders.values() for identity in folder.linked.values()}
        seen: dict[str, tuple[str, _Use]] = {}
        again = 0
        for folder, start, use in self.folders.values() if linked else ():
            for name in folder.images:
                if (identity := folder.identity(name)) not in linked:
                    continue
                here = f"{start}/{name}"
                earlier, earlier_use = seen.setdefault(identity, (here, use))
                if earlier_use != use:
                    raise DataError(
                        f"{self._tree.at(here)}: is by a link the same image as {shown(earlier)}, and an image "
                        "has one class and one split; remove one of them"
                    )
                again += earlier != here
        return again
