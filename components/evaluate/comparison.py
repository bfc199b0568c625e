"""A model against a baseline on the same images: better, worse or not distinguishable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Difference:
    """A figure of the model minus that of the baseline, with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How a model does beside a baseline on the same images.

    Attributes:
        baseline: Where the baseline is.
        onnx_sha256: Of the baseline's model.onnx.
        metrics: The baseline's figures by name.
        differences: Of accuracy and log_loss, by paired bootstrap.
        only_model: Images that the model alone has right.
        only_baseline: Images that the baseline alone has right.
        p_value: McNemar's: of so uneven counts, were both right equally often.
        verdict: On accuracy: not distinguishable unless p_value is below 0.05.
    """

    baseline: str
    onnx_sha256: str
    metrics: dict[str, float]
    differences: dict[str, Difference]
    only_model: int
    only_baseline: int
    p_value: float
    verdict: Verdict
