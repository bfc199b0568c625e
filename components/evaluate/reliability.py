"""Whether a model is as often right as it is confident: reliability curve and expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.shared.metrics import Integers, Reals

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Images by the probability of their predicted class, in bins of equal width over 0..1; arrays of shape (bins,).

    Attributes:
        edges: Of the bins, shape (bins + 1,); a bin has its upper edge, the first both.
        counts: Images in each bin.
        confidence: Mean confidence of a bin's images; NaN in an empty one.
        accuracy: Share of a bin's images that are right; NaN in an empty one.
    """

    edges: Reals
    counts: Integers
    confidence: Reals
    accuracy: Reals

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the bins, each weighted by its images."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.average(gaps, weights=self.counts[filled]))


def reliability_of(right: npt.NDArray[np.bool_], confidences: Reals) -> Reliability:
    """The reliability of predictions that are right or not, with their confidences, each of shape (images,)."""
    edges = np.linspace(0, 1, BINS + 1)
    # Upper edges belong to their bin, as Guo et al. 2017 have it.
    of = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, BINS - 1)
    counts = np.bincount(of, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=edges,
            counts=counts,
            confidence=np.bincount(of, weights=confidences, minlength=BINS) / counts,
            accuracy=np.bincount(of, weights=right, minlength=BINS) / counts,
        )
