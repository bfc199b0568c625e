"""A training killed with SIGKILL at random moments and started again leaves what the uninterrupted one leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kill.draws import draws_of, runs
from tests.kill.lives import KILLED, Setting, Uninterrupted, settled, survives

pytestmark = pytest.mark.kill

EVERYTHING: dict[str, Any] = {
    "ema_decay": 0.99,
    "mixup_alpha": 0.3,
    "cutmix_alpha": 1.0,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 1.0,
    "warmup_epochs": 1.5,
    "learning_rate_schedule": [
        {"name": "plateau", "class": "torch.optim.lr_scheduler.ReduceLROnPlateau", "kwargs": {"patience": 2}},
        {"name": "steps", "class": "torch.optim.lr_scheduler.StepLR", "kwargs": {"step_size": 5}},
        {"name": "decay", "class": "torch.optim.lr_scheduler.ExponentialLR", "kwargs": {"gamma": 0.999}},
    ],
}
EVERYTHING["learning_rate_schedule"][2]["interval"] = "batch"


@pytest.fixture(scope="module")
def plain(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Uninterrupted]:
    folder = tmp_path_factory.mktemp("plain")
    setting = settled(folder, dataset)
    return setting, setting.uninterrupted(folder)


@pytest.fixture(scope="module")
def everything(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Uninterrupted]:
    folder = tmp_path_factory.mktemp("everything")
    setting = settled(folder, dataset, **EVERYTHING)
    return setting, setting.uninterrupted(folder)


@pytest.mark.parametrize("number", runs(50))
def test_a_killed_training(
    plain: tuple[Setting, Uninterrupted], number: int, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    hit = survives(*plain, tmp_path / "run", draws_of("plain", number))
    record_property(KILLED, ("one process", hit))


@pytest.mark.parametrize("number", runs(10))
def test_a_killed_training_with_everything_on(
    everything: tuple[Setting, Uninterrupted], number: int, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    hit = survives(*everything, tmp_path / "run", draws_of("everything", number))
    record_property(KILLED, ("with averaging, mixing, schedules, warm-up and accumulation", hit))
