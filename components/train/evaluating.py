"""Evaluation while training: by one process, or by a group in which each takes a part."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
from torch import Tensor

from components.classifier.images import Normaliser, StoredImages
from components.classifier.inference import Predictions, chunk_size, predict
from components.classifier.network import Network
from components.train.group import Group


class _Part:
    """Some of a store's images, one after the other, with a call between two chunks."""

    def __init__(self, images: StoredImages, start: int, stop: int, poll: Callable[[], None]) -> None:
        self._images = images
        self._start = start
        self._stop = stop
        self._poll = poll

    def __len__(self) -> int:
        return self._stop - self._start

    def spans(self, slices: Sequence[slice]) -> Generator[Tensor, None, None]:
        moved = [slice(part.start + self._start, part.stop + self._start) for part in slices]
        with closing(self._images.spans(moved)) as spans:
            for images in spans:
                self._poll()
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
    figures are one process's to the last digit, and no image is counted twice.

    Args:
        network: On the device of the images, the same in every process.
        images: Where the images are.
        labels: True classes on the same device, int64, shape (images,).
        normalise: From stored images to network input.
        group: The processes.
        every_class: Keep the probability of every class.
        poll: Called between chunks; what it raises ends the evaluation. Every process calls it equally often and
            before it waits for the others, so that it may ask them.
    """
    step = chunk_size(network)
    chunks = -(-len(images) // step)
    start = min(len(images), chunks * group.rank // group.size * step)
    stop = min(len(images), chunks * (group.rank + 1) // group.size * step)
    own = None
    if start < stop:
        part = _Part(images, start, stop, poll)
        own = predict(network, part, labels[start:stop], normalise, every_class=every_class)
    for _ in range(-(-(stop - start) // step), -(-chunks // group.size)):  # one at most
        poll()
    if group.size == 1 and own is not None:
        return own
    parts = [part for part in group.gathered(own) if part is not None]
    return Predictions(
        labels=np.concatenate([part.labels for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        losses=np.concatenate([part.losses for part in parts]),
        confidences=np.concatenate([part.confidences for part in parts]),
        n_classes=network.n_classes,
        probabilities=np.concatenate([_asked(part) for part in parts]) if every_class else None,
    )


def _asked(part: Predictions) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if part.probabilities is None:
        raise ValueError("the probability of every class was not asked for")
    return part.probabilities
