"""Training that leaves the numbers: noticed, and reported with what usually helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from components.shared.errors import DivergedError

if TYPE_CHECKING:
    from components.train.trainer import Trainer


def require_finite_loss(trainer: Trainer) -> None:
    """See that the loss is a number; else raise `DivergedError`."""
    losses = trainer.group.gathered(trainer.loss_so_far) if trainer.position.batch else []
    if wrong := [loss for loss in losses if not math.isfinite(loss)]:
        raise diverged(trainer, f"the training loss became {wrong[0]}")


def require_finite_weights(trainer: Trainer) -> None:
    """See that what a checkpoint would keep is worth keeping; else raise `DivergedError`."""
    require_finite_loss(trainer)
    norms = torch.stack(torch._foreach_norm(list(trainer.network.parameters())))
    if not all(trainer.group.gathered(bool(norms.isfinite().all()))):
        raise diverged(trainer, "a weight became NaN or infinite")


def diverged(trainer: Trainer, what: str) -> DivergedError:
    """The error of a run that has left the numbers, and what usually helps."""
    trainer.group.ends_together = True  # what it follows from is the same in every process
    position, params = trainer.position, trainer.params
    where = f"epoch {position.epoch} of {params.num_epochs}, batch {position.batch} of {len(trainer.slices)}"
    advice = [f"a lower learning_rate (now {trainer.rate:g})"]
    advice += [] if params.normalise_images else ["normalise_images: true"]
    advice += [] if params.max_grad_norm else ["max_grad_norm: 1.0"]
    advice += [] if params.warmup_epochs else ["warmup_epochs: 1"]
    return DivergedError(f"{what} in {where}; {' or '.join(advice)} usually helps")
