"""Makes a dataset of rows that are decoded: splits assigned, unreadable images left out, names, labels, manifest last.

The second of two stages. Rows are where :func:`assigned` placed them before it was known which images cannot be read.
Where none turned out unreadable, that is their final place; else they are moved, never decoded again, so that the
dataset is byte for byte as if those images had not been there. Before the manifest is written, inspectors see an
:class:`Assembled`: the source, which images each split has in stored order, their facts and their pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.equal_values import Indices, first_of_each_digest
from components.data_prep.engine.facts import Facts
from components.data_prep.layouts.source import MadeNames, Source, check_enough_images
from components.data_prep.splits import assign_splits
from components.shared.artifacts.dataset import Images, SplitName
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.names import ImageName, name_lines
from components.shared.artifacts.row_files import rearrange
from components.shared.decoding.pixels import Note
from components.shared.errors import DataError


@dataclass(frozen=True)
class Placed:
    """The images of one split of the dataset, in stored order."""

    source: SplitName  # the split of the source that they are from
    positions: npt.NDArray[np.int64]  # in that split, ascending


@dataclass(frozen=True)
class Assembled:
    """A dataset that lacks nothing but names, labels and manifest."""

    source: Source
    placed: Mapping[SplitName, Placed]
    facts: Mapping[SplitName, Facts]  # by split of the source
    read: Callable[[SplitName, npt.ArrayLike], Images]  # of a split of the dataset, the stored images of some indices
    new_file: Callable[[str], Path]  # makes the path of a further file, such as "quality.html"


# Looks at a dataset before its manifest is written; returns the further files it wrote, which the manifest records.
Inspect = Callable[[Assembled], list[Path]]


def assigned(
    source: Source, facts: Mapping[SplitName, Facts], fractions: dict[SplitName, float], seed: int
) -> dict[SplitName, Placed]:
    """Which images each split of the dataset has, without those that are known to be unreadable.

    Args:
        source: Splits and labels.
        facts: Of each split of the source; `unreadable` matters, and `digests`, as far as they are known.
        fractions: Share of the training images to hold out, by split that the source lacks.
        seed: What is held out is drawn by.

    Raises:
        DataError: A split has no readable image, or a class too few.
    """
    where, n_classes = source.where, len(source.classes)
    readable = {name: np.ones(len(split.labels), dtype=np.bool_) for name, split in source.splits.items()}
    for name, mask in readable.items():
        mask[list(facts[name].unreadable)] = False
        if name != "train" and not mask.any():
            raise DataError(
                f"{where}: no {name} image can be read; mend them, or remove the {name} split to have one held out"
            )
    labels, needed = source.splits["train"].labels, ["train", *fractions]
    counts = np.bincount(labels[readable["train"]], minlength=n_classes).tolist()
    more = " or set validation_fraction to 0" if "validation" in needed else ""
    check_enough_images(where, source.classes, counts, needed, "readable training images", more)
    same = copies(facts["train"]) if fractions else None
    drawn = assign_splits(labels, readable["train"], n_classes, fractions, seed, same)
    placed = {name: Placed("train", np.flatnonzero(mask)) for name, mask in drawn.items()}
    given = {name: Placed(name, np.flatnonzero(mask)) for name, mask in readable.items() if name != "train"}
    return placed | given


def copies(facts: Facts) -> Indices | None:
    """Of shape (n,), the lowest position of an image with the same bytes; None: no image is there twice."""
    first, every = first_of_each_digest(facts.digests), np.arange(len(facts.digests))
    first = np.where(facts.digests.any(axis=1), first, every)
    return None if (first == every).all() else first


def move(
    writer: DatasetWriter, before: Mapping[SplitName, Placed], after: Mapping[SplitName, Placed], source: Source
) -> None:
    """Move the rows of images to where they are once it is known what cannot be read and what is a copy; count anew."""
    writer.digests.close()
    slots = {name: np.full(len(split.labels), -1, dtype=np.int64) for name, split in source.splits.items()}
    room = {name: max(len(of[name].positions) for of in (before, after)) for name in before}
    start = 0
    for name, of_split in before.items():
        slots[of_split.source][of_split.positions] = np.arange(start, start + len(of_split.positions))
        start += room[name]
    wanted = {name: slots[of_split.source][of_split.positions] for name, of_split in after.items()}
    rearrange({name: writer.rows(name) for name in before}, room, wanted)
    writer.sums[...] = writer.rows("train").sums(len(after["train"].positions))


def describe(
    writer: DatasetWriter, source: Source, placed: Mapping[SplitName, Placed], facts: Mapping[SplitName, Facts]
) -> Counter[Note]:
    """Write the labels and names of all splits; of how many images there is something to report."""
    noted: Counter[Note] = Counter()
    for name, of_split in placed.items():
        split, of_source = source.splits[of_split.source], facts[of_split.source]
        writer.describe(name, split.labels[of_split.positions], _names(split.names, of_split.positions, of_source))
        noted += of_source.noted(of_split.positions)
    return noted


_AT_ONCE = 1024


def _names(names: Sequence[str], positions: npt.NDArray[np.int64], facts: Facts) -> Iterator[bytes]:
    """The lines of names.jsonl, many at once."""
    for start in range(0, len(positions), _AT_ONCE):
        part = positions[start : start + _AT_ONCE]
        places = part.tolist()
        files = names.each(places) if isinstance(names, MadeNames) else [names[place] for place in places]
        lines = name_lines(files, facts.sizes[part], facts.digests[part], facts.kinds[part], facts.kind_names)
        for index in [index for index, place in enumerate(places) if place in facts.notes] if facts.notes else ():
            digest, kind = facts.digests[places[index]].tobytes().hex(), facts.kind_names[facts.kinds[places[index]]]
            (width, height), notes = facts.sizes[places[index]].tolist(), tuple(facts.notes[places[index]])
            lines[index] = ImageName.of(files[index], width, height, digest, kind, notes).line()
        yield "".join(lines).encode()
