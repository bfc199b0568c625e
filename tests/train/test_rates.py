"""Warm-up and schedules by batch: the learning rate of each step, against torch's own schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from tests.configs import Entry, schedule
from tests.train.trials import PLAIN_ARCH, rates, trainer_of

# 200 images in batches of 32 are 7 steps an epoch.
RUN: dict[str, Any] = {
    "net_arch": PLAIN_ARCH,
    "optim_class": "torch.optim.SGD",
    "optim_kwargs": {"momentum": 0.9},
    "learning_rate": 0.1,
    "num_epochs": 3,
}


def _torchs(kind: type[LRScheduler], steps: int, **kwargs: Any) -> list[float]:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = kind(optimiser, **kwargs)
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(found) < steps:
            scheduler.step()
    return found


def by_batch(name: str, **kwargs: Any) -> Entry:
    return {**schedule(name, **kwargs), "interval": "batch"}


def test_a_warm_up_rises_step_by_step_to_the_learning_rate(dataset: Path) -> None:
    found = rates(trainer_of(dataset, **RUN, warmup_epochs=1.5), 3)
    rising = [0.1 * (0.01 + 0.99 * min(1.0, step / 10)) for step in range(21)]  # 1.5 epochs are 10 steps
    assert found == pytest.approx(rising)


def test_a_warm_up_goes_with_a_schedule(dataset: Path) -> None:
    entry = schedule("StepLR", step_size=1, gamma=0.5)
    found = rates(trainer_of(dataset, **RUN, warmup_epochs=1, learning_rate_schedule=[entry]), 3)
    rising = [0.1 * (0.01 + 0.99 * step / 7) for step in range(7)]
    assert found == pytest.approx([*rising, *[0.05] * 7, *[0.025] * 7])


def test_a_cosine_by_batch_is_torchs(dataset: Path) -> None:
    found = rates(trainer_of(dataset, **RUN, learning_rate_schedule=[by_batch("CosineAnnealingLR")]), 3)
    assert found == pytest.approx(_torchs(CosineAnnealingLR, 21, T_max=21))
    assert found[-1] < 0.001


def test_one_cycle_by_batch_is_torchs_and_counts_steps_of_the_optimiser(dataset: Path) -> None:
    entry = by_batch("OneCycleLR", max_lr=0.2)
    found = rates(trainer_of(dataset, **RUN, learning_rate_schedule=[entry]), 3)
    assert found == pytest.approx(_torchs(OneCycleLR, 21, max_lr=0.2, total_steps=21))
    # In threes, 7 batches are 3 steps.
    accumulated = trainer_of(dataset, **RUN, learning_rate_schedule=[entry], gradient_accumulation_steps=3)
    assert rates(accumulated, 3) == pytest.approx(_torchs(OneCycleLR, 9, max_lr=0.2, total_steps=9))


def test_a_cosine_by_epoch_is_as_long_as_the_run(dataset: Path) -> None:
    found = rates(trainer_of(dataset, **RUN, learning_rate_schedule=[schedule("CosineAnnealingLR")]), 3)
    assert found[::7] == pytest.approx(_torchs(CosineAnnealingLR, 3, T_max=3))
    assert len(set(found)) == 3
