"""What every layout becomes: classes, and splits of labelled images that are read in batches."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self, overload

from components.data_prep.contents import Read
from components.data_prep.trees.file_tree import FileTree, Stamps
from components.shared.artifacts.dataset import Labels, LeftOut, SplitName, UnreadableImage
from components.shared.errors import DataError
from components.shared.text import shortened, shown

# Raw images are read in blocks of about this many bytes: large enough that NumPy's work per block outweighs Python's,
# small enough that memory does not grow with the data, and that threads end at about the same time.
BLOCK_BYTES = 1024**2


@dataclass(frozen=True)
class SourceSplit:
    """One split as the data brings it, in a folder below the data folder (empty: in that itself)."""

    folder: str
    labels: Labels  # of shape (n,), of readable and unreadable images
    names: Sequence[str]  # where each image is: a path below the data, or what its source calls it
    read: Read
    unreadable: dict[int, UnreadableImage] = field(default_factory=dict)  # known before any is opened, by position
    stamps: Callable[[], Stamps] | None = None  # finds out what its files are known again by, where there are files


@dataclass(frozen=True)
class Source:
    """The data's images and labels, found and checked as far as that goes without decoding.

    Use as a context manager, within which they are read.
    """

    tree: FileTree
    name: str  # such as "IDX files"
    classes: tuple[str, ...]  # in NFC; labels index them
    splits: dict[SplitName, SourceSplit]  # train always; in the order train, test, validation
    left_out: LeftOut
    why: str = ""  # what it was recognised by, such as "3 folders with 120 images"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tree.close()

    @property
    def where(self) -> str:
        """Where the data are, as one printable line."""
        return self.tree.at()

    @property
    def count(self) -> int:
        """Images in all splits."""
        return sum(len(split.labels) for split in self.splits.values())


def image_split(
    tree: FileTree, folder: str, files: list[str], labels: Labels, reasons: Mapping[str, str] | None = None
) -> SourceSplit:
    """A split of image files.

    Args:
        tree: Where they are.
        folder: The split's folder below it.
        files: Path of each below the data folder.
        labels: Of each, int64 of shape (n,).
        reasons: By path, why a file is known to be unreadable.
    """
    unreadable = {
        position: UnreadableImage(file=shown(file), reason=reasons[file])
        for position, file in enumerate(files if reasons else ())
        if reasons and file in reasons
    }
    return SourceSplit(folder, labels, files, tree.read(files), unreadable, partial(tree.stamps, files))


class MadeNames(Sequence[str]):
    """Names by position, made as they are asked for: of raw images, which have no files of their own."""

    def __init__(self, make: Callable[[int], str], positions: range) -> None:
        self._make, self._positions = make, positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return MadeNames(self._make, self._positions[index])
        return self._make(self._positions[index])

    def each(self, indices: Iterable[int]) -> list[str]:
        """Those at some positions, in a third of the time of one by one."""
        return list(map(self._make, map(self._positions.__getitem__, indices)))


def listed(names: Collection[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(shortened(name) for name in list(names)[:limit])
    return f"{first} and {len(names) - limit} more" if len(names) > limit else first


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Turn an error of the operating system about what is at `where` into a :class:`DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{shown(where)}: cannot be read: {error.strerror or error}") from error


def composed(name: str) -> str:
    """A name in Unicode's composed form, NFC, in which names that look the same are the same."""
    return unicodedata.normalize("NFC", name)


def in_class_order(names: Collection[str]) -> tuple[str, ...]:
    """Class names in the order of their labels: by value if all are whole numbers, else as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        # As text without leading zeros, so that no length of digits is too long.
        return tuple(sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name)))
    return tuple(sorted(names))


def training_classes(where: str, names: Collection[str], n_classes: int | None) -> tuple[str, ...]:
    """The classes of the training split in the order of their labels; an error if not `n_classes`, where given."""
    classes = in_class_order(names)
    if n_classes is not None and len(classes) != n_classes:
        # A single class can be no option of a run.
        advice = f"set n_classes to {len(classes)} or correct the data" if len(classes) > 1 else "add the other classes"
        raise DataError(
            f"{where}: holds {len(classes)} class(es) ({listed(classes)}), and params say n_classes = "
            f"{n_classes}; {advice}"
        )
    return classes


def check_enough_images(
    where: str, classes: Sequence[str], counts: Sequence[int], needed: Sequence[str], what: str, more: str = ""
) -> None:
    """Refuse classes with fewer images, called `what`, than splits that need one; `more` adds to the advice."""
    numbered = zip(classes, counts, strict=True)
    if short := [f"{name} ({count})" for name, count in numbered if count < len(needed)]:
        raise DataError(
            f"{where}: {len(short)} class(es) have too few {what}: {listed(short)}; every class needs {len(needed)}, "
            f"for {' and '.join(needed)}; add images{more}"
        )


def check_known_classes(where: str, held_out: Collection[str], classes: Collection[str]) -> None:
    """Refuse classes of the test or validation split that the training split does not have."""
    if unknown := in_class_order(set(held_out) - set(classes)):
        by_form = {_loosely(name): name for name in classes}
        advice = "".join(
            f"; {shortened(name)} and {shortened(by_form[_loosely(name)])} of train differ in case or spaces alone: "
            "rename one of them"
            for name in [name for name in unknown if _loosely(name) in by_form][:3]
        )
        raise DataError(
            f"{where}: holds {len(unknown)} class(es) that train does not have ({listed(unknown)}); "
            f"a model can be tested only on classes it was trained on, here {listed(classes)}{advice}"
        )


def alike(classes: Collection[str]) -> list[str]:
    """The class names that differ from another in case or spaces alone."""
    forms = Counter(_loosely(name) for name in classes)
    return [name for name in classes if forms[_loosely(name)] > 1]


def _loosely(name: str) -> str:
    return composed(" ".join(name.casefold().split()))
