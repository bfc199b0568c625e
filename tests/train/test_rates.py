"""Warm-up and schedules by batch: the learning rate of each step, against torch's own schedules."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from components.shared.artifacts.model import open_model
from components.train.train import train
from tests.configs import Entry, schedule
from tests.examples import small
from tests.train.trials import PLAIN_ARCH, rates, trainer_of

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
    accumulated = trainer_of(dataset, **RUN, learning_rate_schedule=[entry], gradient_accumulation_steps=3)
    assert rates(accumulated, 3) == pytest.approx(_torchs(OneCycleLR, 9, max_lr=0.2, total_steps=9))


def test_the_lowest_and_the_highest_rate_of_each_epoch_are_kept(
    dataset: Path, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    entries = [by_batch("OneCycleLR", max_lr=0.2), schedule("StepLR", step_size=1)]
    train(
        dataset=dataset,
        model=tmp_path / "model",
        params=small(**RUN, learning_rate_schedule=entries, milestones=[2]),
    )

    steps = _torchs(OneCycleLR, 14, max_lr=0.2, total_steps=14)
    expected = [(min(epoch), max(epoch)) for epoch in (steps[:7], steps[7:], [0.1])]
    history = open_model(tmp_path / "model").manifest.history
    assert [(record.lowest_learning_rate, record.highest_learning_rate) for record in history] == [
        pytest.approx(pair) for pair in expected
    ]
    lines = [line for line in heard.messages if line.startswith("epoch ")]
    shown = [f"{low:.3g} to {high:.3g}" if low < high else f"{low:.3g}" for low, high in expected]
    assert [line.rpartition("lr ")[2].partition("  ")[0] for line in lines] == shown
    assert shown[2] == "0.1"
    events = EventAccumulator(str(tmp_path / "model" / "tensorboard"))
    events.Reload()
    for tag, position in (("learning_rate/lowest", 0), ("learning_rate/highest", 1)):
        values = [event.value for event in events.Scalars(tag)]
        assert values == pytest.approx([pair[position] for pair in expected[:2]])


def test_training_logs_what_has_no_effect(dataset: Path, tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    entry = by_batch("StepLR", step_size=21)
    train(dataset=dataset, model=tmp_path / "model", params=small(**RUN, learning_rate_schedule=[entry]))
    warnings = [record.getMessage() for record in heard.records if record.levelno == logging.WARNING]
    assert "learning_rate_schedule[0] (StepLR): has no effect in its 21 steps: the rate stays 0.1" in warnings
