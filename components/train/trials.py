"""Trials of a run that is not begun: whether its network can learn one batch by heart, and at which learning rate.

Nothing is written. The learning-rate finder trains for a moment at rates that rise from step to step, and follows the
loss: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3, the range test; with rates that
rise exponentially instead of linearly, since good ones lie anywhere within decades.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from components.shared.cropping import central_crop
from components.shared.errors import NotLearningError
from components.shared.events.data import Succeeded
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.train.memory import explaining_out_of_memory
from components.train.start import trial_trainer
from components.train.trainer import Trainer

_log = step_logger("train")

STEPS = 500
# A batch is learnt by heart below this share of the loss at the start, or of that of a network that knows nothing.
SHARE = 0.05
# The outputs of a dead network differ from image to image by no more than rounding does.
_ROUNDING = 1e-5
# Of its start: a loss that stays above this has not moved.
_MOVED = 0.98
# Times its start: few images can be learnt at a rate that is too high for all of them.
_RISEN = 3.0

LOWEST, HIGHEST = 1e-7, 10.0
# Twelve to 25 a decade: fewer are too coarse to tell a slope, more only take longer.
_FEWEST_RATES, _MOST_RATES = 100, 200
# Of the bell by which the loss is smoothed, as a share of the steps: a quarter of a decade.
_SMOOTHING = 0.03
# The loss has diverged when the mean of the last few is so many times the best such mean.
_LAST_FEW, _DIVERGED = 5, 4.0
# The loss must fall by this share of its start for its slope to mean anything.
_LEAST_FALL = 0.05

_CONSTANT_RATE: dict[str, Any] = {
    "learning_rate_schedule": [],
    "milestones": [],
    "warmup_epochs": 0.0,
    "ema_decay": 0.0,
}


@dataclass(frozen=True)
class Smoke:
    """A batch was learnt by heart: its loss before each step."""

    images: int
    losses: tuple[float, ...]
    learning_rate: float

    @property
    def steps(self) -> int:
        """Steps that it took; of the last one the loss was seen in the next."""
        return len(self.losses) - 1

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return asdict(self) | {"steps": self.steps, "losses": list(self.losses)}

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        metrics: dict[str, float | None] = {"smoke_steps": self.steps, "train_loss": self.losses[-1]}
        return Succeeded(seconds=seconds, metrics=metrics)


def smoke(dataset: Path, params: Params) -> Smoke:
    """See whether the network of `params` can learn one batch of a dataset by heart.

    What is meant to make that hard is left out: augmentation, mixup, label smoothing and dropout. A run that fails here
    has a defect that no number of epochs mends.

    Raises:
        NotLearningError: It cannot; with what usually is wrong where a loss behaves like this.
    """
    loss_kwargs = {key: value for key, value in params.loss.kwargs.items() if key != "label_smoothing"}
    without = _CONSTANT_RATE | {"flip_images": False, "additional_transforms": None, "mixup_alpha": 0.0}
    without |= {"cutmix_alpha": 0.0, "loss": params.loss.model_copy(update={"kwargs": loss_kwargs})}
    # Shuffled once: stored images are often sorted by class.
    trainer = trial_trainer(dataset, params.model_copy(update=without | {"shuffle_dataset": True}))
    batch = trainer.epoch_order()[trainer.slices[0]]
    losses, goal = explaining_out_of_memory(trainer, lambda: _learn(trainer, batch))
    result = Smoke(len(batch), tuple(losses), params.learning_rate)
    rate = f"learning_rate {params.learning_rate:g}"
    in_steps = f"by heart in {result.steps} steps at {rate}"
    if not losses[-1] <= goal:
        raise NotLearningError(
            f"{result.images} images were not learnt {in_steps}: {describe_losses(losses)}, and it should be below "
            f"{goal:.3g}; {_diagnosis(trainer, losses)}"
        )
    _log.info("%d images were learnt %s: %s", result.images, in_steps, describe_losses(losses))
    if left_out := [key for key in without if getattr(params, key) != getattr(trainer.params, key)]:
        _log.info("left out in this trial: %s", ", ".join(left_out))
    if max(losses) > _RISEN * losses[0]:
        message = "on the way the loss rose to %.4g: %s may be too high for whole epochs; --find-learning-rate tells"
        _log.warning(message, max(losses), rate)
    return result


def _learn(trainer: Trainer, indices: Tensor) -> tuple[list[float], float]:
    """The batch's loss before each step, and what it should get below."""
    trainer.network.train()
    for module in trainer.network.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    labels = trainer.training.labels[indices.to(trainer.device)]
    nothing = trainer.criterion(torch.zeros(len(labels), trainer.params.n_classes, device=trainer.device), labels)
    goal = SHARE * float(nothing.sum() / trainer.criterion.weight_of(labels))
    losses: list[float] = []
    # One more than steps: the loss of the last is seen in the next.
    while len(losses) <= STEPS:
        # Made anew, since a layer that works in place would change it.
        losses.append(float(trainer.step_alone(_network_input(trainer, indices), labels)))
        goal = min(goal, SHARE * losses[0])
        if not losses[-1] > goal:
            break
    return losses, goal


def _network_input(trainer: Trainer, indices: Tensor) -> Tensor:
    images = trainer.training.images.take(indices)
    return trainer.normalise(central_crop(images, trainer.params.image_shape))


def describe_losses(losses: list[float]) -> str:
    """A curve in a line: the loss at the start, and at ever longer distances."""
    wanted = {0, *(2**power for power in range(2, 20, 2)), len(losses) - 1}
    return "loss " + ", ".join(f"{loss:.4g} at step {step}" for step, loss in enumerate(losses) if step in wanted)


def _diagnosis(trainer: Trainer, losses: list[float]) -> str:
    rate, finder = f"learning_rate: {trainer.params.learning_rate:g}", "--find-learning-rate"
    normalised = "" if trainer.params.normalise_images else ", or normalise_images: true is missing"
    if not math.isfinite(losses[-1]):
        return f"the loss left the numbers: {rate} is too high{normalised}"
    with torch.no_grad():
        logits = trainer.network(_network_input(trainer, torch.arange(min(64, len(trainer.training.images)))))
    if (logits.std(dim=0) <= _ROUNDING * (1 + logits.abs().mean())).all():  # it tells no image from another
        return (
            "the network gives the same for every image: it is dead; either a layer lets nothing through, as a ReLU "
            f"does whose inputs are all negative, or {rate} is so high that the first steps have killed it{normalised}"
        )
    tail = sum(losses[-50:]) / len(losses[-50:])
    before = sum(losses[-100:-50]) / max(1, len(losses[-100:-50]))
    if tail > losses[0] or tail > 2 * min(losses):
        return f"the loss goes up and down: {rate} is too high; {finder} finds a better one"
    if tail < 0.999 * before or min(losses) > _MOVED * losses[0]:
        return f"the loss falls too slowly: {rate} is too low, or the network needs more steps; {finder} tells"
    return (
        "the loss stays where it is: the network is too small, or held back (weight_decay in optim_kwargs, "
        "max_grad_norm), or equal images have different labels"
    )


@dataclass(frozen=True)
class FoundRate:
    """What a range test found: where the loss falls most steeply, a tenth of the rate of its lowest, and each step."""

    steepest: float
    below_lowest: float
    configured: float
    curve: tuple[dict[str, float], ...]

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "learning_rate": self.steepest,
            "second_opinion": self.below_lowest,
            "configured": self.configured,
            "steps": len(self.curve),
            "curve": list(self.curve),
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        metrics: dict[str, float | None] = {"learning_rate": self.steepest, "second_opinion": self.below_lowest}
        return Succeeded(seconds=seconds, metrics=metrics)


def find_learning_rate(dataset: Path, params: Params) -> FoundRate:
    """Find a learning rate for a run, its schedules and warm-up left out.

    Raises:
        NotLearningError: The loss is no number from the start, or falls at no rate.
    """
    lowest = _CONSTANT_RATE | {"learning_rate": LOWEST}
    if (share := params.backbone_learning_rate) is not None:
        share /= params.learning_rate
        lowest["backbone_learning_rate"] = LOWEST * share
    trainer = trial_trainer(dataset, params.model_copy(update=lowest))
    count = min(_MOST_RATES, max(_FEWEST_RATES, 2 * len(trainer.steps)))
    rates: list[float] = np.geomspace(LOWEST, HIGHEST, count).tolist()
    losses = explaining_out_of_memory(trainer, lambda: _range_test(trainer, rates))
    if not losses:
        raise NotLearningError(
            "the loss is no number at the first step, whatever the learning rate; normalisation, class_weights or a "
            "layer's arguments make values that float32 cannot hold"
        )
    found = suggestions(rates[: len(losses)], losses)
    columns = zip(rates, losses, smoothed(losses, len(rates) * _SMOOTHING), strict=False)
    curve = tuple({"rate": rate, "loss": loss, "smoothed": mean} for rate, loss, mean in columns)
    if found is None:
        raise NotLearningError(
            f"the loss falls at no learning rate from {LOWEST:g} to {rates[len(losses) - 1]:g}, it begins at "
            f"{losses[0]:.4g}; --smoke tries to learn a single batch, and says what may be wrong"
        )
    steepest, below_lowest = found
    _log.info("learning_rate %g: there the loss falls most steeply; the params have %g", steepest, params.learning_rate)
    if share is not None:
        message = "backbone_learning_rate was %g times the rate in every step: %g beside learning_rate %g"
        _log.info(message, share, float(f"{share * steepest:.2g}"), steepest)
    _log.info("second opinion %g: a tenth of the rate at which the loss is lowest", below_lowest)
    return FoundRate(steepest, below_lowest, params.learning_rate, curve)


class _Enough(Exception):  # noqa: N818 - no fault, and never seen outside
    """The rate is as high as it is to be, or the loss has diverged."""


def _range_test(trainer: Trainer, rates: list[float]) -> list[float]:
    """The loss of a step at each rate, up to where it diverges; of as many epochs as that takes."""
    losses: list[float] = []
    before = (0.0, 0.0)

    first = [group["lr"] / LOWEST for group in trainer.optimiser.param_groups]

    def set_rate() -> None:
        for group, share in zip(trainer.optimiser.param_groups, first, strict=True):
            group["lr"] = share * rates[len(losses)]

    def after_step() -> None:
        nonlocal before
        sums = float(trainer.loss_sum), float(trainer.weight_sum)
        loss, before = (sums[0] - before[0]) / (sums[1] - before[1]), sums
        if not math.isfinite(loss):
            raise _Enough
        losses.append(loss)
        if len(losses) == len(rates) or has_diverged(losses):
            raise _Enough
        set_rate()

    set_rate()
    try:
        while True:
            trainer.train_epoch(after_step)
            trainer.position.batch = 0
            trainer.begin_epoch()
            before = (0.0, 0.0)
    except _Enough:
        return losses


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
    """The rate of the steepest descent, and a tenth of the rate of the lowest loss; None where it does not fall."""
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
