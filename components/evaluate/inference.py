"""Putting a split through a model: the probabilities and scores of all its images, in bounded memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from components.evaluate.metrics import Probabilities, Scores, joined, scores_of
from components.shared.artifacts.dataset import Images, Split
from components.shared.errors import ArtifactError
from components.shared.files import naming
from components.shared.inference.classifier import OnnxClassifier

# Probabilities of more bytes are kept in a file that is mapped into memory.
MAX_BYTES_IN_MEMORY = 2**28
_REPORT_SECONDS = 5.0

Part = tuple[Probabilities, Scores]


def parts_of(
    classifier: OnnxClassifier, split: Split, model: Path, report: Callable[[int], None] = lambda done: None
) -> Iterator[Part]:
    """The probabilities and scores of a split, chunk by chunk in stored order.

    Args:
        classifier: The model, for images of the split's shape.
        split: Its images are read as they are needed.
        model: The model's directory, for messages.
        report: Gets the number of images done, every few seconds.

    Raises:
        ArtifactError: The model cannot run, or gives values that are not finite.
    """
    done, broken, reported = 0, 0, time.monotonic()
    for images in _chunks(split, classifier.batch_size):
        probabilities = classifier(images)
        labels = split.labels[done : done + len(images)]
        done += len(images)
        broken += int(np.count_nonzero(~np.isfinite(probabilities).all(axis=1)))
        if not broken:
            yield probabilities, scores_of(labels, probabilities)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            report(done)
    if broken:
        raise ArtifactError(
            f"{model}: the network gives values that are not finite for {broken:,} of {done:,} images; train it again, "
            "with a smaller learning_rate"
        )


def _chunks(split: Split, size: int) -> Iterator[Images]:
    for shard in split.shards:
        for start in range(0, len(shard), size):
            yield shard[start : start + size]


def collect(parts: Iterable[Part], shape: tuple[int, int], folder: Path) -> Part:
    """All probabilities, of shape (images, classes), and all scores.

    Large ones are in a file without a name in `folder`, which goes with the last reference to them.
    """
    scores = []
    if np.dtype(np.float32).itemsize * shape[0] * shape[1] <= MAX_BYTES_IN_MEMORY:
        found, done = np.empty(shape, dtype=np.float32), 0
        for probabilities, of in parts:
            found[done : done + len(probabilities)] = probabilities
            done += len(probabilities)
            scores.append(of)
        return found, joined(scores)
    with tempfile.TemporaryFile(dir=folder) as file:
        for probabilities, of in parts:
            with naming(folder):
                file.write(probabilities.data)
            scores.append(of)
        with naming(folder):
            file.flush()
        return np.memmap(file, dtype=np.float32, mode="r", shape=shape), joined(scores)
