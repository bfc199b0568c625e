"""A model against a baseline on the same images: better, worse or not distinguishable."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.intervals import resampled_means
from components.evaluate.metrics import Scores
from components.shared.artifacts.evaluation import ComparisonRecord, DifferenceRecord, Verdict
from components.shared.metrics import Integers, Reals

# Of p-values: the chance of a verdict where both models are right equally often.
SIGNIFICANCE = 0.05


def comparison_text(found: ComparisonRecord) -> str:
    """The verdict and what it rests on, as one sentence."""
    accuracy, loss = found.differences["accuracy"], found.differences["log_loss"]
    verdict = "not distinguishable from" if found.verdict == "not distinguishable" else f"{found.verdict} than"
    return (
        f"{verdict} the baseline: the model alone is right for {found.only_model:,} images, the baseline alone for "
        f"{found.only_baseline:,} (McNemar's p {found.p_value:.3g}); accuracy {accuracy.value:+.4f} "
        f"({accuracy.low:+.4f} to {accuracy.high:+.4f}), log loss {loss.value:+.4f} ({loss.low:+.4f} to "
        f"{loss.high:+.4f})"
    )


def compare(
    labels: Integers,
    model: Scores,
    baseline: Scores,
    metrics: dict[str, float],
    where: str,
    onnx_sha256: str,
    seed: int,
) -> ComparisonRecord:
    """Compare the scores of two models on the same images.

    Args:
        labels: True classes, shape (images,).
        model: Scores of the model.
        baseline: Scores of the baseline.
        metrics: The baseline's figures by name.
        where: Where the baseline is.
        onnx_sha256: Of the baseline's model.onnx.
        seed: Of the random weights.
    """
    ours, theirs = model.predicted == labels, baseline.predicted == labels
    only_model, only_baseline = int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))
    p_value = mcnemar(only_model, only_baseline)
    verdict: Verdict = "not distinguishable"
    if p_value < SIGNIFICANCE:
        verdict = "better" if only_model > only_baseline else "worse"
    return ComparisonRecord(
        baseline=where,
        onnx_sha256=onnx_sha256,
        metrics=metrics,
        differences=_differences(ours, theirs, model.losses - baseline.losses, seed),
        only_model=only_model,
        only_baseline=only_baseline,
        p_value=p_value,
        verdict=verdict,
    )


def mcnemar(first: int, second: int) -> float:
    """McNemar's exact two-sided p-value: of counts at least as uneven, where each is as likely as the other."""
    count, fewer = first + second, min(first, second)
    steps = np.arange(1, fewer + 1)
    # Logarithms of the binomial coefficients, for which a float is too small.
    logs = np.concatenate(([0.0], np.cumsum(np.log((count - steps + 1) / steps))))
    return min(1.0, 2 * float(np.exp(logs - count * np.log(2)).sum()))


def _differences(
    ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_], losses: Reals, seed: int
) -> dict[str, DifferenceRecord]:
    gains = ours.astype(np.float64) - theirs
    random = np.random.default_rng(seed)
    # Two images more, one that each model alone has right, as intervals_of has one right and one wrong.
    accuracy = resampled_means(gains[:, None], random, extra=[[1], [-1]])
    log_loss = resampled_means(losses[:, None], random)
    differences = {}
    for name, value, resampled in (
        ("accuracy", gains.mean(), accuracy),
        ("log_loss", losses.mean(), log_loss),
    ):
        low, high = np.percentile(resampled, [2.5, 97.5])
        interval = [min(float(low), float(value)), max(float(high), float(value))]
        differences[name] = DifferenceRecord(value=float(value), interval=interval)
    return differences
