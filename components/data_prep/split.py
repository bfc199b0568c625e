"""Which images are held out: drawn within each class, from the seed alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.shared.artifacts.dataset import Labels, SplitName

Mask = npt.NDArray[np.bool_]

# Each held-out split draws from a stream of its own, so that holding out validation images leaves test as it is.
_STREAM: dict[SplitName, int] = {"test": 1, "validation": 2}


def assign_splits(
    labels: Labels, readable: Mask, n_classes: int, fractions: dict[SplitName, float], seed: int
) -> dict[SplitName, Mask]:
    """Assign every readable training image to one split.

    From each class of n images, ``round(n * fraction)`` are held out, but at least one, and at least one is left for
    every split that follows and for training.

    Args:
        labels: int64 of shape (n,): classes of the images that the source has for training.
        readable: bool of shape (n,): False for images that were set aside.
        n_classes: Labels are below it; each has an image for every split.
        fractions: Share of what is left to hold out, by split in the order of drawing: ``test``, ``validation``.
        seed: Below 2^64; all of it matters.

    Returns:
        By split, bool of shape (n,): which images belong to it.

    Raises:
        ValueError: A class has too few readable images.
    """
    counts = np.bincount(labels[readable], minlength=n_classes)
    if counts.min() <= len(fractions):
        raise ValueError(f"a class has {counts.min()} images, and there are {1 + len(fractions)} splits")
    positions = np.flatnonzero(readable)
    grouped = positions[np.argsort(labels[positions], kind="stable")]
    by_class = np.split(grouped, np.cumsum(counts)[:-1])
    masks: dict[SplitName, Mask] = {"train": readable.copy()}
    to_follow = len(fractions)
    for split, fraction in fractions.items():
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAM[split]])))
        masks[split] = np.zeros(len(labels), dtype=np.bool_)
        for label, members in enumerate(by_class):
            count = min(max(1, round(len(members) * fraction)), len(members) - to_follow)
            drawn = generator.permutation(len(members))[:count]
            masks[split][members[drawn]] = True
            by_class[label] = np.delete(members, drawn)
        masks["train"] &= ~masks[split]
        to_follow -= 1
    return masks
