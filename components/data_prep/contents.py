"""What is to be decoded, as sources hand it out: encoded images one by one, in any order, or blocks of raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from components.shared.decoding.content import FilePart as FilePart  # what it reads is decoded in prediction, too
from components.shared.decoding.pixels import Images


@dataclass(slots=True)  # frozen, it would take three times as long to be made
class Encoded:
    """One encoded image of a split."""

    position: int  # in the split
    content: FilePart | bytes
    release: Callable[[], None] | None = None  # to be called when it has been decoded, such as to remove a fetched copy
    problem: str = ""  # why it cannot be read, found on the way to it; it is set aside with this reason
    fetched: int = 0  # bytes on the disk that `release` gives back


@dataclass(frozen=True, slots=True)
class Block:
    """Raw images of consecutive positions of a split, of one size."""

    start: int
    images: Images  # uint8 of shape (n, height, width, channels), channels 1 or 3
    format: str = "IDX"  # what they are stored in


# Hands out the images at the wanted positions, each once, in the order that is fastest for the source.
Read = Callable[[Collection[int]], Iterator[Encoded | Block]]
