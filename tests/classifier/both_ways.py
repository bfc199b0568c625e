"""Transforms run both ways, batched and image by image, and whether what comes out is alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from components.classifier.augmentation import batched

CPU = torch.device("cpu")

# Below it two samples would differ so much by chance once in a thousand tests; seeds are fixed, so none does by chance.
LIKELY = 1e-3


def pictures(count: int, height: int = 9, width: int = 7, channels: int = 3, seed: int = 0) -> Tensor:
    """Noise, uint8 (count, channels, height, width), with black, white and grey pixels among it."""
    made = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, height, width, channels), generator=made, dtype=torch.uint8)
    images[:, 0, 0], images[:, 0, 1], images[:, 1, 0] = 0, 255, 100
    return images.permute(0, 3, 1, 2)


def as_batch(transform: Any, images: Tensor, seed: int = 0) -> Tensor:
    """The batched equivalent's work; the images must be left as they were."""
    part = batched(transform, CPU)
    assert part is not None
    before = images.clone()
    done = part(images, torch.Generator().manual_seed(seed))
    assert torch.equal(images, before)
    return done


def one_by_one(transform: Any, images: Tensor, seed: int = 0) -> Tensor:
    """Torchvision's own work, image by image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([transform(tv_tensors.Image(image)).as_subclass(Tensor) for image in images])


def furthest(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two batches of the same shape and dtype."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return float((found.double() - expected.double()).abs().max())


def outcomes(images: Tensor) -> list[Hashable]:
    """Each image as something that can be counted."""
    return [image.numpy().tobytes() for image in images.contiguous()]


def equally_often(found: Sequence[Hashable], expected: Sequence[Hashable]) -> bool:
    """Whether the same things come, as often: a chi-squared test of both counts."""
    from scipy.stats import chi2_contingency  # a second, and not for whoever only collects tests

    first, second = Counter(found), Counter(expected)
    kinds = list(first.keys() | second.keys())
    table = np.array([[counts[kind] for kind in kinds] for counts in (first, second)])
    return len(kinds) == 1 or bool(chi2_contingency(table).pvalue > LIKELY)


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two samples of numbers may come from one distribution: a Kolmogorov–Smirnov test."""
    from scipy.stats import ks_2samp

    # The exact p-value of thousands, with ties, cannot always be computed, and SciPy warns.
    return bool(ks_2samp(found.double().numpy(), expected.double().numpy(), method="asymp").pvalue > LIKELY)
