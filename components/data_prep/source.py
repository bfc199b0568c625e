"""What every source of images looks like to data prep, and the checks all of them share."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from components.shared.allowed_classes import shortened
from components.shared.dataset import Images, Labels, UnreadableImage
from components.shared.errors import DataError

Positions = npt.NDArray[np.int64]

# Images travel from a source to the dataset in batches of about this many bytes: large enough that NumPy's work per
# batch outweighs Python's, small enough that memory does not grow with the data.
BATCH_BYTES = 4 * 1024**2

_CLASS_NAME_LENGTH = 200


@dataclass(frozen=True)
class Batch:
    """Images read one after another.

    Attributes:
        positions: Which images of the split these are, int64 of shape (n,), ascending.
        images: uint8 of shape (n, height, width, channels).
        unreadable: Images of this stretch that could not be read, by position; `positions` leaves them out.
    """

    positions: Positions
    images: Images
    unreadable: dict[int, UnreadableImage]


class SourceSplit(Protocol):
    """One split as the data brings it, in its stored order."""

    @property
    def labels(self) -> Labels:
        """int64 of shape (n,): the class of every image, readable or not."""
        ...

    def batches(self, shape: tuple[int, int, int], skip: Collection[int]) -> Iterator[Batch]:
        """Read all images in order, but for those at the positions in `skip`.

        Args:
            shape: Height, width, channels that every image is brought to.
            skip: Positions that are known to be unreadable.

        Raises:
            DataError: The data is damaged in a way that setting single images aside does not mend.
        """
        ...


@dataclass(frozen=True)
class Source:
    """Images and labels, found and checked as far as that goes without decoding.

    Attributes:
        path: The data folder.
        name: What the manifest calls it, such as ``IDX files``.
        classes: Class names; labels index them.
        train: Training images.
        test: Test images, where the data brings some.
    """

    path: Path
    name: str
    classes: tuple[str, ...]
    train: SourceSplit
    test: SourceSplit | None


def shown(path: object) -> str:
    """A path or name as one printable line, whatever bytes a file system or a file gave it."""
    return shortened(str(path), 500)


def listed(names: Collection[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(shortened(name) for name in list(names)[:limit])
    return f"{first} and {len(names) - limit} more" if len(names) > limit else first


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a :class:`DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error


def leads_inside(path: str | Path, root: str | Path) -> bool:
    """Whether a path, every link followed, ends at or below `root`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def class_name_problem(name: str) -> str | None:
    """Why a text cannot be a class name; None if it can."""
    if not name:
        return "is empty, and must name a class"
    if len(name) > _CLASS_NAME_LENGTH:
        return f"has {len(name)} characters, and a class name may have {_CLASS_NAME_LENGTH}"
    if not name.isprintable():
        return "holds characters that cannot be printed, and must name a class"
    return None


def in_class_order(names: Collection[str]) -> tuple[str, ...]:
    """Class names in the order of their labels: by value if all are whole numbers, else as text.

    Numbers are compared as text without leading zeros, so that no length of digits is too long.
    """
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name)))
    return tuple(sorted(names))


def check_class_count(where: Path, classes: Collection[str], n_classes: int) -> None:
    """Hold the classes that were found against the params.

    Raises:
        DataError: They are not `n_classes`.
    """
    if len(classes) != n_classes:
        # A single class can be no option of a run.
        advice = f"set n_classes to {len(classes)} or correct the data" if len(classes) > 1 else "add the other classes"
        raise DataError(
            f"{shown(where)}: holds {len(classes)} class(es) ({listed(classes)}), and params say n_classes = "
            f"{n_classes}; {advice}"
        )


def check_test_classes(where: Path, test: Collection[str], classes: Collection[str]) -> None:
    """Hold the classes of the test split against those of the training split.

    Raises:
        DataError: A class is in the test split alone.
    """
    known = set(classes)
    if unknown := [name for name in in_class_order(test) if name not in known]:
        raise DataError(
            f"{shown(where)}: holds {len(unknown)} class(es) that train does not have ({listed(unknown)}); "
            f"a model can be tested only on classes it was trained on, here {listed(classes)}"
        )
