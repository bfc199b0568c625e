"""The images that a report shows: which, and as pictures inside the page, within a budget of its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluate.confusion import ConfusedPair
from components.evaluate.findings import Findings
from components.shared.artifacts.dataset import Images
from components.shared.html.pictures import data_uri
from components.shared.metrics import Integers

MAX_ERRORS = 24
MAX_HITS = 16
MAX_PER_PAIR = 6
# Bytes of all pictures and their captions: with 2,000 classes and names of any length the page stays below 5 MB.
BUDGET = 1_600_000
# Of a file's name, this much is shown: in a caption, and for those who do not see the image.
MAX_FILE_NAME = 120
# Pixels of the longer side. 40 pictures of noise, the worst case, are 0.6 MB of the budget.
_SIDE, _SIDE_OF_PAIR = 128, 96

ImageOf = Callable[[int], Images]


@dataclass(frozen=True)
class Picture:
    """One image of the split, what the model made of it, and its pixels as an address."""

    file: str
    label: int
    predicted: int
    confidence: float
    source: str

    @property
    def size(self) -> int:
        """At most as many bytes of the page: a character is up to 5, and a line may end after each."""
        return len(self.source) + 15 * min(len(self.file), MAX_FILE_NAME) + 500


@dataclass(frozen=True)
class Pictures:
    """The most confident errors, the least confident hits, and images of confused pairs by label and prediction."""

    errors: list[Picture]
    hits: list[Picture]
    of_pairs: dict[tuple[int, int], list[Picture]]


def pictures_of(findings: Findings, image_of: ImageOf, pairs: Sequence[ConfusedPair]) -> Pictures:
    """The pictures of a report: errors, hits, then one image of each pair after another while the budget lasts."""

    def picture(index: int, side: int = _SIDE) -> Picture:
        label, predicted = int(findings.labels[index]), int(findings.predicted[index])
        source = data_uri(image_of(index), side)
        return Picture(findings.name_of(index), label, predicted, float(findings.confidences[index]), source)

    errors = [picture(index) for index in findings.most_confident_errors(MAX_ERRORS).tolist()]
    hits = [picture(index) for index in _least_confident_hits(findings).tolist()]
    left = BUDGET - sum(one.size for one in (*errors, *hits))
    of_pairs: dict[tuple[int, int], list[Picture]] = {}
    indices = _by_pair(findings, pairs)
    for turn in range(MAX_PER_PAIR):
        for pair, of_pair in zip(pairs, indices, strict=True):
            if turn < len(of_pair):
                one = picture(int(of_pair[turn]), _SIDE_OF_PAIR)
                left -= one.size
                if left < 0:
                    return Pictures(errors, hits, of_pairs)
                of_pairs.setdefault((pair.label, pair.predicted), []).append(one)
    return Pictures(errors, hits, of_pairs)


def _least_confident_hits(findings: Findings) -> Integers:
    right = np.flatnonzero(findings.labels == findings.predicted)
    return right[np.argsort(findings.confidences[right], kind="stable")[:MAX_HITS]]


def _by_pair(findings: Findings, pairs: Sequence[ConfusedPair]) -> list[Integers]:
    """The wrongly predicted images of each pair, the most confident first."""
    wrong = findings.most_confident_errors(findings.images)
    codes = findings.labels[wrong] * len(findings.classes) + findings.predicted[wrong]
    order = np.argsort(codes, kind="stable")
    wanted = np.array([pair.label * len(findings.classes) + pair.predicted for pair in pairs], dtype=np.int64)
    starts, stops = (np.searchsorted(codes[order], wanted, side=side) for side in ("left", "right"))
    return [wrong[order[start:stop]] for start, stop in zip(starts, stops, strict=True)]
