"""Trainings that are interrupted between two steps and go on, in this process."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from components.classifier.check import check
from components.shared.events.data import EventData, Progress
from components.shared.files import sha256_of
from components.shared.params.params import Params
from components.shared.signals import Terminated, sigterm_raises
from components.shared.train_result import TrainResult
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest, write_checkpoint
from components.train.checkpoints.resume import find_checkpoint
from components.train.group import Group
from components.train.start import TrainingInputs, check_inputs, start_trainer
from components.train.state import manifest_of, state_of
from components.train.train import train
from components.train.trainer import Trainer

LOG = logging.getLogger("shutterline.train")


class Interrupted(Exception):  # noqa: N818 - no fault: the test wants it
    """Raised between two steps."""


def inputs_of(dataset: Path, params: Params) -> TrainingInputs:
    return check_inputs(check(params), dataset)


def resumed_trainer(inputs: TrainingInputs, checkpoints: Path) -> Trainer:
    """The trainer of a run, as it goes on from the newest of its checkpoints, if there is one."""
    found = find_checkpoint(checkpoints, inputs.params, inputs.dataset_sha256, LOG)
    return start_trainer(inputs, Group(), found, None, is_trial=True)


def trained_through(inputs: TrainingInputs) -> dict[str, Any]:
    trainer = start_trainer(inputs, Group(), None, None, is_trial=True)
    while not trainer.is_finished:
        trainer.train_epoch(lambda: None)
        trainer.end_epoch()
    return timeless(state_of(trainer))


def trained_step_by_step(inputs: TrainingInputs, checkpoints: Path) -> dict[str, Any]:
    def leave() -> None:
        raise Interrupted

    while True:
        trainer = resumed_trainer(inputs, checkpoints)
        if trainer.is_finished:
            return timeless(state_of(trainer))
        try:
            trainer.train_epoch(leave)
            trainer.end_epoch()
        except Interrupted:
            pass
        write_checkpoint(checkpoints, manifest_of(trainer, inputs.dataset_sha256), state_of(trainer))


def timeless(state: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in state.items() if key != "seconds"}
    kept["epoch"] = {key: value for key, value in state["epoch"].items() if key != "seconds"}
    kept["history"] = [
        {key: value for key, value in record.items() if key != "images_per_second"} for record in state["history"]
    ]
    return kept


def differing(one: Any, other: Any, path: str = "") -> list[str]:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differing(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for index, pair in pairs for found in differing(*pair, f"{path}[{index}]")]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]


def trained(dataset: Path, folder: Path, params: Params, **changes: Any) -> TrainResult[Path]:
    options: dict[str, Any] = {"checkpoints": folder / "checkpoints", **changes}
    return train(dataset=dataset, model=folder / "model", params=params, **options)


def ended(
    dataset: Path,
    folder: Path,
    params: Params,
    when: Callable[[EventData], bool],
    number: int = signal.SIGTERM,
    **changes: Any,
) -> None:
    def emit(data: EventData) -> None:
        if when(data):
            os.kill(os.getpid(), number)

    try:
        with sigterm_raises():
            trained(dataset, folder, params, emit=emit, **changes)
    except Terminated:
        return
    raise AssertionError("it got a signal and went on to its end")


def at_step(step: int) -> Callable[[EventData], bool]:
    return lambda data: isinstance(data, Progress) and data.step == step


def steps_kept(folder: Path) -> list[int]:
    return [read_checkpoint_manifest(path).step for path in list_checkpoints(folder / "checkpoints")]


def weights_in(folder: Path) -> tuple[str, str]:
    return sha256_of(folder / "model" / "model.safetensors"), sha256_of(folder / "model" / "model.onnx")
