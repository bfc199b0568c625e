"""The learning-rate finder: trains for a moment at rates that rise from step to step, and looks at the loss.

Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3, the range test; with rates
that rise exponentially instead of linearly, since good ones lie anywhere within decades.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.errors import NotLearningError
from components.shared.events.data import Succeeded
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.train.memory import explaining_out_of_memory
from components.train.start import trial_trainer
from components.train.trainer import Trainer

_log = step_logger("train")

LOWEST, HIGHEST = 1e-7, 10.0
# Twelve to 25 a decade: fewer are too coarse to tell a slope, more only take longer.
_STEPS = (100, 200)
# Of the bell by which the loss is smoothed, as a share of the steps: a quarter of a decade.
_SMOOTHING = 0.03
# The loss has diverged when the mean of the last few is so many times the best such mean.
_LAST_FEW, _DIVERGED = 5, 4.0
# The loss must fall by this share of its start for its slope to mean anything.
_LEAST_FALL = 0.05


@dataclass(frozen=True)
class TriedRate:
    """One step of the test: its learning rate, the training loss of its images, and the loss without its noise."""

    rate: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class FoundRate:
    """What a range test found: where the loss falls most steeply, and a tenth of the rate of its lowest."""

    steepest: float
    below_lowest: float
    configured: float
    curve: tuple[TriedRate, ...]
    seconds: float

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "learning_rate": self.steepest,
            "second_opinion": self.below_lowest,
            "configured": self.configured,
            "steps": len(self.curve),
            "curve": [asdict(one) for one in self.curve],
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        metrics: dict[str, float | None] = {"learning_rate": self.steepest, "second_opinion": self.below_lowest}
        return Succeeded(seconds=seconds, metrics=metrics)


class _Enough(Exception):  # noqa: N818 - no fault, and never seen outside
    """The rate is as high as it is to be, or the loss has diverged."""


def find_learning_rate(dataset: Path, params: Params) -> FoundRate:
    """Find a learning rate for a run that has not begun, its schedules and warm-up left out; nothing is written."""
    begun = time.perf_counter()
    without = {"learning_rate_schedule": [], "milestones": [], "warmup_epochs": 0.0, "ema_decay": 0.0}
    trainer = trial_trainer(dataset, params.model_copy(update={**without, "learning_rate": LOWEST}))
    fewest, most = _STEPS
    rates = np.geomspace(LOWEST, HIGHEST, min(most, max(fewest, 2 * len(trainer.steps)))).tolist()
    losses = _range_test(trainer, rates)
    if not losses:
        raise NotLearningError(
            "the loss is no number at the first step, whatever the learning rate; normalisation, class_weights or a "
            "layer's arguments make values that float32 cannot hold"
        )
    found = suggestions(rates[: len(losses)], losses)
    curve = tuple(map(TriedRate, rates, losses, smoothed(losses, len(rates) * _SMOOTHING)))
    if found is None:
        raise NotLearningError(
            f"the loss falls at no learning rate from {LOWEST:g} to {curve[-1].rate:g}, it begins at {losses[0]:.4g}; "
            "--smoke tries to learn a single batch, and says what may be wrong"
        )
    result = FoundRate(*found, params.learning_rate, curve, time.perf_counter() - begun)
    _log.info(
        "learning_rate %g: there the loss falls most steeply; the params have %g", result.steepest, result.configured
    )
    _log.info("second opinion %g: a tenth of the rate at which the loss is lowest", result.below_lowest)
    return result


def _range_test(trainer: Trainer, rates: list[float]) -> list[float]:
    """The loss of a step at each rate, up to where it diverges; of as many epochs as that takes."""
    losses: list[float] = []
    before = (0.0, 0.0)

    def after_step() -> None:
        nonlocal before
        sums = float(trainer.loss_sum), float(trainer.weight_sum)
        loss, before = (sums[0] - before[0]) / (sums[1] - before[1]), sums
        if not math.isfinite(loss):
            raise _Enough
        losses.append(loss)
        if len(losses) == len(rates) or has_diverged(losses):
            raise _Enough
        set_rate(trainer, rates[len(losses)])

    set_rate(trainer, rates[0])
    try:
        while True:
            explaining_out_of_memory(trainer, lambda: trainer.train_epoch(after_step))
            trainer.position.batch = 0
            trainer.begin_epoch()
            before = (0.0, 0.0)
    except _Enough:
        return losses


def set_rate(trainer: Trainer, rate: float) -> None:
    """Have the coming steps made at a learning rate."""
    for group in trainer.optimiser.param_groups:
        group["lr"] = rate


def has_diverged(losses: list[float]) -> bool:
    """Whether the last few losses are far above both the best few and the first."""
    if len(losses) < 2 * _LAST_FEW:
        return False
    means = np.convolve(losses, np.full(_LAST_FEW, 1 / _LAST_FEW), "valid")
    return bool(means[-1] > max(_DIVERGED * means.min(), means[0]))


def smoothed(losses: list[float], width: float) -> list[float]:
    """Losses without their noise: each a mean of its neighbours, weighted by a bell `width` steps wide.

    Neighbours of both sides, so that the curve is not shifted to higher rates, as a running mean would.
    """
    steps = np.arange(len(losses))
    bell = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / width) ** 2)
    mean: list[float] = (bell @ np.asarray(losses) / bell.sum(axis=1)).tolist()
    return mean


def suggestions(rates: list[float], losses: list[float]) -> tuple[float, float] | None:
    """The rate of the steepest descent, and a tenth of the rate of the lowest loss, in two digits.

    None where the loss does not fall.
    """
    if len(losses) < 2:
        return None
    # Of the decades that were to be tried, however many were.
    width = _SMOOTHING * math.log(HIGHEST / LOWEST) / math.log(rates[1] / rates[0])
    curve = np.asarray(smoothed(losses, width))
    lowest = int(curve.argmin())
    if lowest == 0 or curve[lowest] > (1 - _LEAST_FALL) * curve[0]:
        return None
    steepest = int(np.gradient(curve)[: lowest + 1].argmin())
    return float(f"{rates[steepest]:.1e}"), float(f"{rates[lowest] / 10:.1e}")
