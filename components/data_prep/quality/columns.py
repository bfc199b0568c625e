"""What is known of all images of a dataset, in columns: split after split, the training images first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, get_args

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.assemble import Assembled
from components.data_prep.engine.equal_values import Indices
from components.data_prep.engine.perceptual import Hashes
from components.data_prep.quality.model import Example, Finding, FindingKind, ImageRef
from components.shared.artifacts.dataset import Images, SplitName
from components.shared.events.data import Severity
from components.shared.text import shown


@dataclass(frozen=True)
class Columns:
    """The n images of a dataset; an index counts through its splits."""

    assembled: Assembled
    starts: dict[SplitName, int]  # index of each split's first image
    labels: Indices  # of shape (n,)
    sizes: npt.NDArray[np.int32]  # of shape (n, 2): width and height before the image was resized
    digests: npt.NDArray[np.uint8]  # of shape (n, bytes): of the encoded image
    hashes: Hashes  # of shape (n,)
    constant: npt.NDArray[np.bool_]  # of shape (n,)
    kinds: Counter[str]

    @classmethod
    def of(cls, assembled: Assembled) -> Self:
        """The columns of a dataset."""
        starts: dict[SplitName, int] = {}
        start, parts, kinds = 0, [], Counter[str]()
        for split in get_args(SplitName):
            if (placed := assembled.placed.get(split)) is None:
                continue
            starts[split] = start
            at, facts = placed.positions, assembled.facts[placed.source]
            start += len(at)
            labels = assembled.source.splits[placed.source].labels[at]
            parts.append((labels, facts.sizes[at], facts.digests[at], facts.hashes[at], facts.constant[at]))
            for kind, count in enumerate(np.bincount(facts.kinds[at]).tolist()):
                if count:
                    kinds[facts.kind_names[kind]] += count
        labels, sizes, digests, hashes, constant = (np.concatenate(each) for each in zip(*parts, strict=True))
        return cls(assembled, starts, labels, sizes, digests, hashes, constant, kinds)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def splits(self) -> dict[SplitName, slice]:
        """The indices of each split."""
        stops = [*list(self.starts.values())[1:], len(self)]
        return {name: slice(start, stop) for (name, start), stop in zip(self.starts.items(), stops, strict=True)}

    def by_split(self, mask: npt.NDArray[np.bool_]) -> dict[SplitName, int]:
        """How many images of each split a mask of all has, where there are any."""
        counts = {name: int(np.count_nonzero(mask[part])) for name, part in self.splits.items()}
        return {name: count for name, count in counts.items() if count}

    def finding(
        self,
        kind: FindingKind,
        severity: Severity,
        mask: npt.NDArray[np.bool_],
        text: str,
        advice: str,
        examples: list[Example],
        *,
        at_least: bool = False,
    ) -> Iterator[Finding]:
        """The finding about the images of a mask, of shape (n,); none where it has none."""
        if mask.any():
            yield Finding(
                kind=kind, severity=severity, count=int(mask.sum()), of="images", at_least=at_least,
                splits=self.by_split(mask), text=text, advice=advice, examples=examples,
            )  # fmt: skip

    def split_of(self, index: int) -> SplitName:
        """The split of an image."""
        return next(name for name, part in self.splits.items() if index < part.stop)

    def ref(self, index: int) -> ImageRef:
        """An image as a report names it."""
        split, source = self.split_of(index), self.assembled.source
        placed, at = self.assembled.placed[split], index - self.starts[split]
        file = shown(source.splits[placed.source].names[int(placed.positions[at])])
        return ImageRef(split=split, index=at, file=file, label=source.classes[self.labels[index]])

    def rows(self, indices: Indices) -> Images:
        """The stored images at some indices, which ascend."""
        parts = []
        for name, part in self.splits.items():
            start, stop = np.searchsorted(indices, [part.start, part.stop])
            if start < stop:
                parts.append(self.assembled.read(name, indices[start:stop] - part.start))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
