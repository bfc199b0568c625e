"""What data hold, as far as their names and a sample of their images show it; nothing is written."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from components.data_prep.contents import Block, Encoded
from components.data_prep.layouts.layout import AUTO, open_source
from components.data_prep.layouts.source import Source, SourceSplit, check_enough_images, listed
from components.shared.artifacts.dataset import Images, SplitName
from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.images import render
from components.shared.decoding.rendering import Rendering
from components.shared.errors import DataError
from components.shared.storage.location import AnyPath

# Of a kind of image of which there are 2 in 100, a sample of 200 misses all once in 57 times.
SAMPLE = 200
# The size in which colors are looked for, and by how much the channels of a grey pixel differ at most: a grey picture
# that was saved as a color JPEG by 2.
_LOOKED_AT, _GREY = (64, 64, 3), 8

Look = tuple[tuple[int, int], bool]  # width and height of an image, upright, and whether it shows a color


@dataclass(frozen=True)
class Survey:
    """What data hold.

    Attributes:
        layout: How they are laid out, such as "a folder per class".
        classes: Names, in the order of their labels.
        counts: Images of each class, by split that the data bring; train always.
        sizes: Width and height of each image of the sample, upright.
        colored: How many images of the sample show a color.
        unreadable: How many images that were tried cannot be read.
    """

    layout: str
    classes: tuple[str, ...]
    counts: dict[SplitName, list[int]]
    sizes: list[tuple[int, int]]
    colored: int
    unreadable: int = 0


def survey(data: AnyPath, *, layout: str = AUTO, follow_links: bool = False) -> Survey:
    """Look at data: all names, and the pixels of some 200 training images that are spread evenly over them.

    Raises:
        DataError: As data prep, or the data have one class alone, too few images of one, or none of the sample can be
            read.
    """
    with open_source(data, layout=layout, follow_links=follow_links) as source:
        names = len(source.classes)
        counts = {name: np.bincount(of.labels, minlength=names).tolist() for name, of in source.splits.items()}
        _check_classes(source, counts["train"])
        looks, reasons = _looks(source.splits["train"])
        if not looks:
            raise DataError(f"{source.where}: none of {len(reasons)} images can be read; the first is {reasons[0]}")
        sizes, colored = zip(*looks, strict=True)
        return Survey(source.name, source.classes, counts, list(sizes), sum(colored), len(reasons))


def _check_classes(source: Source, counts: list[int]) -> None:
    classes = source.classes
    if len(classes) < 2:
        found = f"{len(classes)} class(es) ({listed(classes)})"
        raise DataError(f"{source.where}: holds {found}, and a run needs 2 or more; add the other classes")
    needed = ["train"] if "test" in source.splits else ["train", "test"]
    check_enough_images(source.where, classes, counts, needed, "training images")


def _looks(split: SourceSplit) -> tuple[list[Look], list[str]]:
    """What is seen of each image of the sample, and why others cannot be read, both by position."""
    count = len(split.labels)
    wanted = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int)).tolist()
    reasons = {position: split.unreadable[position].reason for position in wanted if position in split.unreadable}
    looks: dict[int, Look] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is read, or counted
        for each in split.read([position for position in wanted if position not in reasons]):
            if isinstance(each, Block):
                looks |= _looks_at_block(each, set(wanted))
                continue
            try:
                looks[each.position] = _look(each)
            except UnreadableImageError as error:
                reasons[each.position] = str(error)
            if each.release:
                each.release()
    return (
        [look for _, look in sorted(looks.items())],
        [f"{split.names[position]}: {reason}" for position, reason in sorted(reasons.items())],
    )


def _looks_at_block(block: Block, wanted: Collection[int]) -> dict[int, Look]:
    size = (block.images.shape[2], block.images.shape[1])
    numbered = enumerate(block.images, block.start)
    return {position: (size, _is_colored(image)) for position, image in numbered if position in wanted}


def _look(image: Encoded) -> Look:
    if image.problem:
        raise UnreadableImageError(image.problem)
    rendered = render(image.content, Rendering(_LOOKED_AT))
    return (rendered.width, rendered.height), _is_colored(rendered.pixels)


def _is_colored(pixels: Images) -> bool:
    return int(np.ptp(pixels, axis=-1).max()) > _GREY
