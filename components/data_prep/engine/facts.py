"""What is known of each image once it was decoded, in columns by its position in a split of the source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from components.shared.artifacts.dataset import UnreadableImage
from components.shared.decoding.content import DIGEST_BYTES
from components.shared.decoding.pixels import Note


@dataclass
class Facts:
    """Facts of the n positions of one split; of a position that was not decoded, the arrays hold zeros."""

    sizes: npt.NDArray[np.int32]  # of shape (n, 2): width and height of the upright image before it was resized
    # BLAKE2b of the encoded bytes, or what `pixel_digests` gives of raw blocks: uint8 of shape (n, 16).
    digests: npt.NDArray[np.uint8]
    kinds: npt.NDArray[np.uint16]  # of shape (n,): index into kind_names
    hashes: npt.NDArray[np.uint64]  # of shape (n,): perceptual, from the stored pixels
    constant: npt.NDArray[np.bool_]  # of shape (n,): all stored pixels are equal
    kind_names: list[str] = field(default_factory=list)  # such as "PNG RGBA"; in the order in which they came
    notes: dict[int, list[Note]] = field(default_factory=dict)  # by position, where there are any
    unreadable: dict[int, UnreadableImage] = field(default_factory=dict)  # by position

    @classmethod
    def of(cls, count: int) -> Self:
        """Facts of so many positions, of which nothing is known yet."""
        return cls(
            sizes=np.zeros((count, 2), dtype=np.int32),
            digests=np.zeros((count, DIGEST_BYTES), dtype=np.uint8),
            kinds=np.zeros(count, dtype=np.uint16),
            hashes=np.zeros(count, dtype=np.uint64),
            constant=np.zeros(count, dtype=np.bool_),
        )

    def kind(self, name: str) -> int:
        """The index of a kind, which is added where it is new."""
        if name not in self.kind_names:
            self.kind_names.append(name)
        return self.kind_names.index(name)

    def sort_kinds(self) -> None:
        """Number the kinds by their names, whichever came first; what was not decoded keeps none."""
        names = sorted(self.kind_names)
        numbers = np.array([names.index(name) for name in self.kind_names] or [0], dtype=np.uint16)
        self.kinds = np.where(self.sizes[:, 0] > 0, numbers[self.kinds], np.uint16(0))
        self.kind_names = names

    def noted(self, positions: npt.NDArray[np.int64]) -> Counter[Note]:
        """Of how many of the images at some positions there is something to report."""
        chosen = set(positions.tolist()) if self.notes else ()
        return Counter(note for position, notes in self.notes.items() if position in chosen for note in notes)
