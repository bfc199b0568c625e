"""Evaluation while training: by one process, or by a group in which each takes a part."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from components.classifier.images import Normaliser, StoredImages
from components.classifier.inference import Predictions, chunk_size, predict
from components.classifier.network import Network
from components.train.group import Group


@dataclass(frozen=True)
class _Part:
    """Some of a store's images, one after the other, with a call between two chunks."""

    images: StoredImages
    start: int
    stop: int
    poll: Callable[[], None]

    def __len__(self) -> int:
        return self.stop - self.start

    def spans(self, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        moved = [slice(part.start + self.start, part.stop + self.start) for part in slices]
        with closing(self.images.spans(moved)) as spans:
            for images in spans:
                self.poll()
                yield images


def evaluated(
    network: Network,
    images: StoredImages,
    labels: Tensor,
    normalise: Normaliser,
    group: Group,
    *,
    every_class: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> Predictions:
    """As :func:`~components.classifier.inference.predict`, shared out among the processes of a group.

    The images are cut into the same chunks as for one process, and each process takes some chunks whole, so the
    figures are one process's to the last digit, and no image is counted twice. `poll` is called between chunks and may
    end the evaluation: in every process equally often, and before it waits for the others, so that it may ask them.
    """
    step = chunk_size(network)
    chunks = -(-len(images) // step)
    start, stop = (min(len(images), chunks * rank // group.size * step) for rank in (group.rank, group.rank + 1))
    own = None
    if start < stop:
        part = _Part(images, start, stop, poll)
        own = predict(network, part, labels[start:stop], normalise, every_class=every_class)
    for _ in range(-(-(stop - start) // step), -(-chunks // group.size)):  # one at most
        poll()
    if group.size == 1 and own is not None:
        return own
    parts = [part for part in group.gathered(own) if part is not None]
    columns = {
        each.name: np.concatenate([getattr(part, each.name) for part in parts])
        for each in fields(Predictions)
        if each.name != "n_classes" and (every_class or each.name != "probabilities")
    }
    return Predictions(n_classes=network.n_classes, **columns)
