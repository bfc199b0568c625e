"""Training that leaves the numbers: noticed, and told with what usually helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from components.shared.errors import DivergedError
from components.shared.process_group import end_together

if TYPE_CHECKING:
    from components.train.trainer import Trainer


def require_numbers(trainer: Trainer) -> None:
    """See that the loss is a number.

    Raises:
        DivergedError: It is not.
    """
    losses = trainer.group.gathered(trainer.loss_so_far) if trainer.position.batch else []
    if wrong := [loss for loss in losses if not math.isfinite(loss)]:
        raise diverged(trainer, f"the training loss became {wrong[0]}")


def require_finite_weights(trainer: Trainer) -> None:
    """See that what a checkpoint would keep is worth keeping.

    Raises:
        DivergedError: A weight is NaN or infinite.
    """
    require_numbers(trainer)
    norms = torch.stack(torch._foreach_norm(list(trainer.network.parameters())))
    if not all(trainer.group.gathered(bool(norms.isfinite().all()))):
        raise diverged(trainer, "a weight became NaN or infinite")


def diverged(trainer: Trainer, what: str) -> DivergedError:
    """The error of a run that has left the numbers, and what usually helps."""
    end_together()  # what it follows from is the same in every process
    position = trainer.position
    where = f"epoch {position.epoch} of {trainer.params.num_epochs}, batch {position.batch} of {len(trainer.slices)}"
    rate = float(trainer.optimiser.param_groups[0]["lr"])
    advice = [f"a lower learning_rate (now {rate:g})"]
    advice += [] if trainer.params.normalise_images else ["normalise_images: true"]
    advice += [] if trainer.params.max_grad_norm else ["max_grad_norm: 1.0"]
    advice += [] if trainer.params.warmup_epochs else ["warmup_epochs: 1"]
    return DivergedError(f"{what} in {where}; {' or '.join(advice)} usually helps")
