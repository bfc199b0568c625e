"""Splits: the folder names that mean one, and which images are held out, drawn within each class from the seed."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from components.shared.artifacts.dataset import Labels, SplitName

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# The order in which splits are read.
SPLITS: tuple[SplitName, ...] = ("train", "test", "validation")

# A folder's name means a split if it is one of these, in any case, alone or with a companion before or after it: train,
# Testing, VAL, training_set, Test Data, images-train. Anything else may be a class, such as "bullet train".
SPLIT_NAMES: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),
}
_COMPANION = "set|data|dataset|split|image|images|img|imgs"
_FOLDER = re.compile(rf"(?:(?:{_COMPANION})[-_. ]?)?({'|'.join(SPLIT_NAMES)})(?:[-_. ]?(?:{_COMPANION}))?")

# Each held-out split draws from a stream of its own, so that holding out validation images leaves test as it is.
_STREAM: dict[SplitName, int] = {"test": 1, "validation": 2}


def split_of(name: str) -> SplitName | None:
    """The split that a folder's name means, if it means one."""
    match = _FOLDER.fullmatch(name.casefold())
    return SPLIT_NAMES[match[1]] if match else None


def split_in(name: str) -> SplitName | None:
    """The split that one part of a name means, as in ``seg_train`` or ``val2017``; None if none or several do."""
    found = {SPLIT_NAMES[part] for part in re.findall(r"[^\W\d_]+", name.casefold()) if part in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def assign_splits(
    labels: Labels,
    readable: Mask,
    n_classes: int,
    fractions: dict[SplitName, float],
    seed: int,
    same: Indices | None = None,
) -> dict[SplitName, Mask]:
    """Assign every readable training image to one split.

    From each class of n images, ``round(n * fraction)`` are held out, but at least one, and at least one is left for
    every split that follows and for training. With an image all its copies are held out, and so up to twice as many,
    unless a class has too few different images.

    Args:
        labels: Classes of the n images that the source has for training; each has an image for every split.
        readable: bool of shape (n,): False for images that were set aside.
        n_classes: Labels are below it.
        fractions: Share of what is left to hold out, by split in the order of drawing: ``test``, ``validation``.
        seed: Below 2^64; all of it matters.
        same: Of shape (n,), the lowest position of a copy of each image; None: there are no copies.
    """
    counts = np.bincount(labels[readable], minlength=n_classes)
    positions = np.flatnonzero(readable)
    grouped = positions[np.argsort(labels[positions], kind="stable")]
    by_class = np.split(grouped, np.cumsum(counts)[:-1])
    masks: dict[SplitName, Mask] = {"train": readable.copy()}
    for to_follow, (split, fraction) in zip(range(len(fractions), 0, -1), fractions.items(), strict=True):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAM[split]])))
        masks[split] = np.zeros(len(labels), dtype=np.bool_)
        for label, members in enumerate(by_class):
            count = min(max(1, round(len(members) * fraction)), len(members) - to_follow)
            order = generator.permutation(len(members))
            drawn = order[:count] if same is None else _with_copies(order, same[members], count, to_follow)
            masks[split][members[drawn]] = True
            by_class[label] = np.delete(members, drawn)
        masks["train"] &= ~masks[split]
    return masks


def _with_copies(order: Indices, same: Indices, count: int, to_follow: int) -> Indices:
    """The first `count` of an order, with all copies of each; where there are more copies than that, as the last."""
    numbers = same[order]
    _, first, inverse, copies = np.unique(numbers, return_index=True, return_inverse=True, return_counts=True)
    together = np.lexsort((first[inverse], copies[inverse] > count))
    ends = np.flatnonzero(np.diff(numbers[together], append=-1)) + 1
    if len(ends) <= to_follow:
        return order[:count]
    last = min(int(np.searchsorted(ends, count)), len(ends) - to_follow - 1)
    return order[together[: ends[last]]]
