"""More epochs than before: a run goes on as if it had had them from the start, to the bit, or is refused with why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.model import open_model
from components.shared.errors import CheckpointError
from components.shared.params.schedules import schedules_of_run_length
from components.shared.params.training_id import training_id
from tests.configs import schedule
from tests.examples import small
from tests.train.interrupting import at_step, ended, steps_kept, trained, weights_in

LR = "learning_rate_schedule"
SGD: dict[str, Any] = {"optim_class": "torch.optim.SGD", "optim_kwargs": {"momentum": 0.9}, "learning_rate": 0.05}
BEFORE, AFTER = 3, 5
STEPS = 2  # an epoch's


pytestmark = pytest.mark.usefixtures("every_step_reports")


def plateau(mode: str) -> dict[str, Any]:
    return {LR: [schedule("ReduceLROnPlateau", mode=mode, patience=0, threshold=0.5)]}


GOES_ON: dict[str, dict[str, Any]] = {
    "no schedule": {},
    "StepLR": SGD | {LR: [schedule("StepLR", step_size=2, gamma=0.5)]},
    "by batch": SGD | {LR: [schedule("ExponentialLR", gamma=0.95) | {"interval": "batch"}]},
    "OneCycleLR with total_steps": SGD | {LR: [schedule("OneCycleLR", max_lr=0.1, total_steps=6)]},
    "ReduceLROnPlateau": plateau("min"),
    "warm-up, averaged weights, mixup": {"warmup_epochs": 1.5, "ema_decay": 0.9, "mixup_alpha": 0.4},
    "early stopping": {"early_stopping_patience": 2, "learning_rate": 1.0},
    "rare evaluation, early stopping and ReduceLROnPlateau": plateau("max")
    | {"eval_freq": 2, "early_stopping_patience": 2, "ema_decay": 0.9},
    "evaluation after the last epoch alone": {"eval_freq": 100},
    "milestones": SGD | {LR: [schedule("CosineAnnealingLR"), schedule("ExponentialLR", gamma=0.5)], "milestones": [2]},
}


def history_of(folder: Path) -> list[dict[str, Any]]:
    records = open_model(folder / "model").manifest.history
    return [record.model_dump(exclude={"images_per_second"}) for record in records]


@pytest.mark.parametrize("name", GOES_ON)
def test_more_epochs_go_on_to_the_weights_of_a_run_that_had_them_from_the_start(
    few: Path, tmp_path: Path, name: str
) -> None:
    def params(epochs: int) -> Any:
        return small(num_epochs=epochs, save_freq=100, **GOES_ON[name])

    trained(few, tmp_path / "whole", params(AFTER))
    trained(few, tmp_path / "longer", params(BEFORE))
    ended(few, tmp_path / "broken", params(BEFORE), at_step(STEPS + 1))
    for folder in ("longer", "broken"):
        result = trained(few, tmp_path / folder, params(AFTER))

        assert result.resumed_from is not None
        assert weights_in(tmp_path / folder) == weights_in(tmp_path / "whole")
        assert history_of(tmp_path / folder) == history_of(tmp_path / "whole")
        selection = open_model(tmp_path / folder / "model").manifest.selection
        assert selection == open_model(tmp_path / "whole" / "model").manifest.selection


def test_fewer_epochs_than_were_planned_and_more_than_are_trained_go_on(few: Path, tmp_path: Path) -> None:
    trained(few, tmp_path / "whole", small(num_epochs=2))
    ended(few, tmp_path / "broken", small(num_epochs=4), at_step(STEPS + 1))

    trained(few, tmp_path / "broken", small(num_epochs=2))

    assert weights_in(tmp_path / "broken") == weights_in(tmp_path / "whole")


def test_more_epochs_of_a_run_in_the_default_directory_replace_its_model(few: Path, tmp_path: Path) -> None:
    trained(few, tmp_path, small(num_epochs=1), checkpoints=None)
    result = trained(few, tmp_path, small(num_epochs=2), checkpoints=None)
    assert result.resumed_from == "its end, after epoch 1"
    assert len(open_model(tmp_path / "model").manifest.history) == 2


def as_long(name: str, **kwargs: Any) -> dict[str, Any]:
    return SGD | {LR: [schedule("StepLR", step_size=100), schedule(name, **kwargs)]}


@pytest.mark.parametrize(
    ("options", "schedules"),
    [
        (as_long("CosineAnnealingLR"), "CosineAnnealingLR without T_max"),
        (as_long("PolynomialLR"), "PolynomialLR without total_iters"),
        (SGD | {LR: [schedule("OneCycleLR", max_lr=0.1)]}, "OneCycleLR without total_steps"),
        (
            SGD | {LR: [schedule("ConstantLR", factor=0.5), schedule("CosineAnnealingLR")], "milestones": [1]},
            "CosineAnnealingLR without T_max",
        ),
    ],
)
def test_schedules_as_long_as_the_run_are_named(
    few: Path, tmp_path: Path, options: dict[str, Any], schedules: str
) -> None:
    trained(few, tmp_path, small(num_epochs=2, **options))
    before = (steps_kept(tmp_path), weights_in(tmp_path))
    index = len(options[LR]) - 1

    with pytest.raises(CheckpointError) as refused:
        trained(few, tmp_path, small(num_epochs=3, **options))

    told = f"num_epochs: 2 there, 3 here, and learning_rate_schedule[{index}] ({schedules}) lasts as long as the run"
    assert told in str(refused.value)
    assert (steps_kept(tmp_path), weights_in(tmp_path)) == before


def test_fewer_epochs_than_are_trained_are_refused_with_what_to_do(few: Path, tmp_path: Path) -> None:
    trained(few, tmp_path, small(num_epochs=3, save_freq=1))

    with pytest.raises(CheckpointError, match="num_epochs: 2 here, and epoch 3 is trained there; ask for at least 3"):
        trained(few, tmp_path, small(num_epochs=2, save_freq=1))


def test_an_evaluation_that_the_longer_run_would_not_have_made_is_told(few: Path, tmp_path: Path) -> None:
    trained(few, tmp_path, small(num_epochs=3, eval_freq=2, keep_checkpoints=1))

    with pytest.raises(CheckpointError) as refused:
        trained(few, tmp_path, small(num_epochs=5, eval_freq=2, keep_checkpoints=1))

    told = "num_epochs: 3 there, 5 here, and epoch 3 was evaluated as that run's last (eval_freq 2)"
    assert f"{told}; no checkpoint of before is kept" in str(refused.value)


def test_early_stopping_that_has_ended_a_run_is_told(
    few: Path, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    options = {"early_stopping_patience": 1, "learning_rate": 10.0}
    trained(few, tmp_path, small(num_epochs=20, **options))
    before = weights_in(tmp_path)
    epochs = len(history_of(tmp_path))
    assert epochs < 20
    trained(few, tmp_path, small(num_epochs=30, **options))

    assert f"num_epochs is 30, and early stopping had ended the run after epoch {epochs}" in heard.text
    assert weights_in(tmp_path) == before


def test_a_training_has_one_name_whatever_its_epochs_unless_a_schedule_depends_on_them() -> None:
    fixed, lasting = {LR: [schedule("CosineAnnealingLR", T_max=3)]}, {LR: [schedule("CosineAnnealingLR")]}
    ids = [
        training_id(small(num_epochs=epochs, **options), "0" * 64) for options in (fixed, lasting) for epochs in (3, 4)
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert schedules_of_run_length(small(**fixed)) == []
