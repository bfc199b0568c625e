"""The smoke test of a run: a network that learns at all can learn one batch by heart, and within seconds.

One fixed batch is trained on until its loss is next to nothing. What is meant to make that hard is left out:
augmentation, mixing, label smoothing and dropout. A run that fails here has a defect that no number of epochs mends.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from components.shared.errors import NotLearningError
from components.shared.events.data import Succeeded
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.train.memory import explaining_out_of_memory
from components.train.start import trial_trainer
from components.train.trainer import Trainer

_log = step_logger("train")

STEPS = 500
# Of the loss at the start, or of that of a network that knows nothing, whichever is less.
SHARE = 0.05
# The outputs of a dead network differ from image to image by no more than rounding does.
_ROUNDING = 1e-5
# Of its start: a loss that stays above this has not moved.
_MOVED = 0.98
# Times its start: few images can be learnt at a rate that is too high for all of them.
_RISEN = 3.0


@dataclass(frozen=True)
class Smoke:
    """A batch was learnt by heart: its loss before each step."""

    images: int
    steps: int
    losses: tuple[float, ...]
    learning_rate: float
    seconds: float

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        losses = list(self.losses)
        return {"images": self.images, "steps": self.steps, "learning_rate": self.learning_rate, "losses": losses}

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        metrics: dict[str, float | None] = {"smoke_steps": self.steps, "train_loss": self.losses[-1]}
        return Succeeded(seconds=seconds, metrics=metrics)


def smoke(dataset: Path, params: Params) -> Smoke:
    """See whether the network of `params` can learn one batch of a dataset by heart; nothing is written."""
    begun = time.perf_counter()
    trainer = trial_trainer(dataset, _without_hindrance(params))
    batch = trainer.epoch_order()[trainer.slices[0]]
    losses, goal = explaining_out_of_memory(trainer, lambda: _learn(trainer, batch))
    images = trainer.slices[0].stop
    if not losses[-1] <= goal:
        raise NotLearningError(
            f"{images} images were not learnt by heart in {len(losses) - 1} steps at learning_rate "
            f"{params.learning_rate:g}: {describe_losses(losses)}, and it should be below {goal:.3g}; "
            f"{_diagnosis(trainer, losses)}"
        )
    result = Smoke(images, len(losses) - 1, tuple(losses), params.learning_rate, time.perf_counter() - begun)
    learnt = f"{images} images were learnt by heart in {result.steps} steps at learning_rate {params.learning_rate:g}"
    _log.info("%s: %s", learnt, describe_losses(losses))
    if max(losses) > _RISEN * losses[0]:
        rose = f"on the way the loss rose to {max(losses):.4g}: learning_rate {params.learning_rate:g}"
        _log.warning("%s may be too high for whole epochs; --find-learning-rate tells", rose)
    return result


def _without_hindrance(params: Params) -> Params:
    loss = params.loss.model_copy(
        update={"kwargs": {key: value for key, value in params.loss.kwargs.items() if key != "label_smoothing"}}
    )
    return params.model_copy(
        update={
            "shuffle_dataset": True,  # once: stored images are often sorted by class
            "flip_images": False,
            "additional_transforms": None,
            "mixup_alpha": 0.0,
            "cutmix_alpha": 0.0,
            "ema_decay": 0.0,
            "learning_rate_schedule": [],
            "milestones": [],
            "warmup_epochs": 0.0,
            "loss": loss,
        }
    )


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
    return trainer.prepare(trainer.training.images.take(indices), len(indices))


def describe_losses(losses: list[float]) -> str:
    """A curve in a line: the loss at the start, and at ever longer distances."""
    wanted = {0, *(2**power for power in range(2, 20, 2)), len(losses) - 1}
    return "loss " + ", ".join(f"{loss:.4g} at step {step}" for step, loss in enumerate(losses) if step in wanted)


def _diagnosis(trainer: Trainer, losses: list[float]) -> str:
    """What usually is wrong where a loss behaves like this."""
    rate, last = f"learning_rate: {trainer.params.learning_rate:g}", losses[-1]
    normalised = "" if trainer.params.normalise_images else ", or normalise_images: true is missing"
    if not math.isfinite(last):
        return f"the loss left the numbers: {rate} is too high{normalised}"
    if _is_dead(trainer):
        return (
            "the network says the same of every image: it is dead; either a layer lets nothing through, as a ReLU does "
            f"whose inputs are all negative, or {rate} is so high that the first steps have killed it{normalised}"
        )
    if min(losses) > _MOVED * losses[0] and losses[0] >= last:
        return f"the loss has hardly moved: {rate} is too low; --find-learning-rate finds a better one"
    tail = sum(losses[-50:]) / len(losses[-50:])
    before = sum(losses[-100:-50]) / max(1, len(losses[-100:-50]))
    if tail > losses[0] or tail > 2 * min(losses):
        return f"the loss goes up and down: {rate} is too high; --find-learning-rate finds a better one"
    if tail < 0.999 * before:
        return f"the loss still falls: {rate} is too low, or the network needs more steps; --find-learning-rate tells"
    return (
        "the loss stays where it is: the network is too small, or held back (weight_decay in optim_kwargs, "
        "max_grad_norm), or equal images have different labels"
    )


def _is_dead(trainer: Trainer) -> bool:
    """Whether the network tells no image from another."""
    with torch.no_grad():
        logits = trainer.network(_network_input(trainer, torch.arange(min(64, len(trainer.training.images)))))
    return bool((logits.std(dim=0) <= _ROUNDING * (1 + logits.abs().mean())).all())
