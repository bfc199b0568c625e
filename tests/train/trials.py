"""What tests of training look at from inside: a trainer as a run begins with it, and its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.train.start import trial_trainer
from components.train.trainer import Trainer
from tests.examples import small

PLAIN_ARCH: list[dict[str, Any]] = [
    {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 8, "kernel_size": 3, "stride": 2}},
    {"class": "torch.nn.ReLU", "kwargs": {}},
]
ONE_STEP: dict[str, Any] = {
    "net_arch": PLAIN_ARCH,
    "batch_size": 200,
    "shuffle_dataset": False,
    "num_epochs": 1,
    "optim_class": "torch.optim.SGD",
    "learning_rate": 0.1,
}


def trainer_of(dataset: Path, **changes: Any) -> Trainer:
    return trial_trainer(dataset, small(**changes))


def whole_batch(trainer: Trainer) -> tuple[Tensor, Tensor]:
    images = trainer.training.images.take(torch.arange(len(trainer.training.images)))
    return trainer.normalise(images), trainer.training.labels


def network_input(trainer: Trainer, indices: Tensor) -> Tensor:
    return trainer.training_step.prepare(trainer.training.images.take(indices), len(indices))


def weights(trainer: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainer.network.parameters()]


def epochs(trainer: Trainer, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        trainer.train_epoch(lambda: None)
        losses.append(trainer.end_epoch()[0].train_loss)
    return losses


def rates(trainer: Trainer, count: int) -> list[float]:
    found: list[float] = []

    def of_the_next_step() -> None:
        found.append(trainer.optimiser.param_groups[0]["lr"])

    for _ in range(count):
        of_the_next_step()
        trainer.train_epoch(of_the_next_step)
        found.pop()
        trainer.end_epoch()
    return found
