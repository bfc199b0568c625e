"""A training that is interrupted goes on as if nothing had been, to the bit, whatever has a state."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.shared.artifacts.model import open_model
from components.shared.errors import CheckpointError
from components.shared.params.allowed_classes import OPTIMIZERS, SCHEDULERS
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest, write_checkpoint
from components.train.state import manifest_of, state_of
from tests.configs import schedule, transform
from tests.examples import SMALL, small
from tests.train.interrupting import (
    at_step,
    differing,
    ended,
    inputs_of,
    resumed_trainer,
    steps_kept,
    trained,
    trained_step_by_step,
    trained_through,
    weights_in,
)

DROPOUT = {"net_arch": [*SMALL["net_arch"], {"class": "torch.nn.Dropout", "kwargs": {"p": 0.3}}]}
SGD = {"optim_class": "torch.optim.SGD", "optim_kwargs": {"momentum": 0.9}, "learning_rate": 0.05}


@pytest.mark.usefixtures("every_step_reports")
def test_a_run_told_to_end_at_every_step_makes_the_same_files(few: Path, tmp_path: Path) -> None:
    params = small(flip_images=True, save_freq=5)
    trained(few, tmp_path / "whole", params)

    for step in range(1, 2 * 2 + 1):
        ended(few, tmp_path / "broken", params, at_step(step))
        assert steps_kept(tmp_path / "broken")[-1] == step
    result = trained(few, tmp_path / "broken", params)

    assert result.resumed_from == "its end, after epoch 2"
    assert weights_in(tmp_path / "broken") == weights_in(tmp_path / "whole")


LR = "learning_rate_schedule"
SCHEDULE_KWARGS: dict[str, dict[str, Any]] = {
    "ConstantLR": {"factor": 0.5, "total_iters": 2},
    "CosineAnnealingLR": {"eta_min": 0.001},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "mode": "triangular2"},
    "ExponentialLR": {"gamma": 0.5},
    "LinearLR": {"start_factor": 0.5, "total_iters": 3},
    "MultiStepLR": {"milestones": [1, 3], "gamma": 0.1},
    "OneCycleLR": {"max_lr": 0.1},
    "PolynomialLR": {"total_iters": 5, "power": 2},
    "ReduceLROnPlateau": {"mode": "min", "patience": 0, "threshold": 0.5},
    "StepLR": {"step_size": 2, "gamma": 0.1},
}
FACTORS = ["ConstantLR", "ExponentialLR", "LinearLR", "MultiStepLR", "PolynomialLR", "StepLR"]  # may go together
STATES: dict[str, dict[str, Any]] = {
    "factors by epoch": SGD | {LR: [schedule(name, **SCHEDULE_KWARGS[name]) for name in FACTORS]},
    **{
        f"{name} by epoch": SGD | {LR: [schedule(name, **kwargs)]}
        for name, kwargs in SCHEDULE_KWARGS.items()
        if name not in FACTORS
    },
    **{
        f"{name} by batch": SGD | {LR: [schedule(name, **kwargs) | {"interval": "batch"}]}
        for name, kwargs in SCHEDULE_KWARGS.items()
        if name in ("CyclicLR", "OneCycleLR", "StepLR")
    },
    **{f"optimiser {name}": {"optim_class": f"torch.optim.{name}"} for name in sorted(OPTIMIZERS.allowed)},
    "Adam with amsgrad": {"optim_class": "torch.optim.Adam", "optim_kwargs": {"amsgrad": True}},
    "RMSprop with all": {
        "optim_class": "torch.optim.RMSprop",
        "optim_kwargs": {"centered": True, "momentum": 0.5, "weight_decay": 0.01},
    },
    "dropout, averaged weights": DROPOUT | {"ema_decay": 0.9},
    "no shuffling": {"shuffle_dataset": False},
    "mixup and cutmix": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
    "early stopping": {"early_stopping_patience": 1, "learning_rate": 1.0, "num_epochs": 8},
    "warm-up": {"warmup_epochs": 1.5},
    "two rates, biases and norms undecayed": {
        "backbone_learning_rate": 0.001,
        "decay_biases_and_norms": False,
        LR: [schedule("OneCycleLR", max_lr=0.1) | {"interval": "batch"}],
    },
    "milestones": SGD
    | {
        LR: [
            schedule("LinearLR", total_iters=2) | {"interval": "batch"},
            schedule("OneCycleLR", max_lr=0.1) | {"interval": "batch"},
            schedule("ReduceLROnPlateau", patience=0, threshold=0.5),
        ],
        "milestones": [1, 3],
        "num_epochs": 5,
        "warmup_epochs": 0.5,
    },
    "accumulation, clipping, balanced classes": {
        "gradient_accumulation_steps": 2,
        "batch_size": 16,
        "max_grad_norm": 0.1,
        "class_weights": "balanced",
    },
    "rare evaluation": {"eval_freq": 2},
    "a frozen layer": {"frozen_layers": 2},
    "bfloat16": {"precision": "bf16"},
    "transforms of the whole batch": {
        "additional_transforms": [
            transform("RandomAffine", degrees=10, translate=[0.1, 0.1]),
            transform("RandomErasing", p=0.5),
            transform("GaussianBlur", kernel_size=3),
        ]
    },
    "parts of stored images": {"image_height": 6, "image_width": 6, "stored_height": 8, "stored_width": 8},
    "transforms also image by image": {
        "additional_transforms": [
            transform("RandAugment", num_ops=2),
            transform("RandomResizedCrop", size=8, scale=[0.5, 1.0]),
            transform("ElasticTransform", alpha=5.0, sigma=0.5, fill={"others": 0}),
        ]
    },
}


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize("name", STATES)
def test_every_step_may_be_an_attempt_of_its_own(few: Path, finished: Path, tmp_path: Path, name: str) -> None:
    weights = {"initial_weights": str(finished / "model")} if "frozen_layers" in STATES[name] else {}
    inputs = inputs_of(few, small(**{"num_epochs": 3, "flip_images": True, **weights, **STATES[name]}))

    whole = trained_through(inputs)
    broken = trained_step_by_step(inputs, tmp_path)

    assert len(list_checkpoints(tmp_path)) > 4
    assert differing(whole, broken) == []
    assert broken["position"]["stopped"] == (name == "early stopping")


def test_every_schedule_is_among_them() -> None:
    assert sorted(SCHEDULE_KWARGS) == sorted(SCHEDULERS.allowed)


def test_the_generators_that_all_share_go_on(few: Path, tmp_path: Path) -> None:
    def drawn() -> list[float]:
        normal = float(np.random.normal())
        return [random.random(), random.gauss(0, 1), normal, torch.rand(()).item()]  # noqa: S311 - no secrets

    inputs = inputs_of(few, small())
    trainer = resumed_trainer(inputs, tmp_path)
    random.gauss(0, 1)
    np.random.normal()
    write_checkpoint(tmp_path, manifest_of(trainer, inputs.dataset_sha256), state_of(trainer))
    coming = drawn()

    resumed_trainer(inputs, tmp_path)

    assert drawn() == coming


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_finished_run_started_again_trains_nothing_and_writes_the_same_model(
    dataset: Path, finished: Path, finished_copy: Path, heard: pytest.LogCaptureFixture, is_gone: bool
) -> None:
    if is_gone:
        shutil.rmtree(finished_copy / "model")

    result = trained(dataset, finished_copy, small())

    assert result.resumed_from == "its end, after epoch 2"
    assert "epoch 1/2" not in heard.text
    assert [record for record in heard.records if record.levelno >= logging.WARNING] == []
    assert weights_in(finished_copy) == weights_in(finished)
    again, manifest = (open_model(folder / "model").manifest for folder in (finished_copy, finished))
    assert (again.history, again.selection) == (manifest.history, manifest.selection)


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"processes": 4}, "4 process"),
        ({"device": "cuda:0 (NVIDIA L4)"}, "NVIDIA L4"),
        ({"torch": "2.0.1"}, "2.0.1"),
    ],
    ids=["processes", "device", "torch"],
)
def test_what_cannot_be_bit_exact_is_warned_of_and_goes_on(
    few: Path, tmp_path: Path, heard: pytest.LogCaptureFixture, changes: dict[str, Any], warned: str
) -> None:
    inputs = inputs_of(few, small(flip_images=True))
    trainer = resumed_trainer(inputs, tmp_path)
    trainer.train_epoch(lambda: None)
    state = state_of(trainer)
    if "processes" in changes:  # as four of them would have summed up
        state["epoch"]["sums"] = [(0.25, 1)] * 4
        state["generators"]["processes"] *= 4
    manifest = manifest_of(trainer, inputs.dataset_sha256)
    write_checkpoint(tmp_path, manifest.model_copy(update=changes), state)

    resumed = resumed_trainer(inputs, tmp_path)

    (record,) = [record for record in heard.records if record.levelno >= logging.WARNING]
    assert warned in record.getMessage()
    assert differing(resumed.network.state_dict(), trainer.network.state_dict()) == []
    if "processes" in changes:
        assert (resumed.loss_sum.item(), resumed.right.item()) == (1.0, 4)
    resumed.end_epoch()
    resumed.train_epoch(lambda: None)
    resumed.end_epoch()
    assert resumed.is_finished


def test_a_checkpoint_loads_as_data_alone_and_holds_no_secret(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.json"
    key.write_text('{"private_key": "hidden-words"}')
    monkeypatch.setenv("SHUTTERLINE_KAFKA_PASSWORD", "hidden-words")
    trained(dataset, tmp_path, small(ema_decay=0.9, GOOGLE_APPLICATION_CREDENTIALS=str(key)))

    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    manifest = read_checkpoint_manifest(path)
    state = torch.load(path.with_suffix(".pt"), weights_only=True)

    assert (manifest.finished, manifest.step, manifest.position) == (True, 14, "its end, after epoch 2")
    assert state["position"] == {"epoch": 3, "batch": 0, "step": 14, "stale": 0, "stopped": False}
    for file in (tmp_path / "checkpoints").iterdir():
        assert b"hidden-words" not in file.read_bytes()


def test_a_checkpoint_of_a_version_with_fewer_options_goes_on(few: Path, tmp_path: Path) -> None:
    inputs = inputs_of(few, small())
    trainer = resumed_trainer(inputs, tmp_path)
    trainer.train_epoch(lambda: None)
    manifest = manifest_of(trainer, inputs.dataset_sha256)
    fewer = {name: value for name, value in manifest.params.items() if name != "milestones"}
    write_checkpoint(tmp_path, manifest.model_copy(update={"params": fewer}), state_of(trainer))

    assert resumed_trainer(inputs, tmp_path).position.batch == 2
    with pytest.raises(CheckpointError, match="holds checkpoints of another run"):
        resumed_trainer(inputs_of(few, small(**STATES["milestones"])), tmp_path)
