"""train(): from a dataset directory to a model directory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.classifier.check import Checked, check
from components.classifier.device import describe_device
from components.shared.artifacts.artifact import ArtifactWriter, sha256_of
from components.shared.artifacts.dataset import DATASET, Dataset, open_dataset, training_splits
from components.shared.artifacts.model import MODEL, Selection
from components.shared.errors import ArtifactError, CheckpointError, InputError, ParamsError, Problem
from components.shared.events.data import Emit, Succeeded, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.process_group import end_together, in_group
from components.shared.signals import Terminated, ends_deferred
from components.train.attempt import Attempt
from components.train.checkpoints.directory import Checkpoints, held
from components.train.checkpoints.resume import Found, find_checkpoint, saved_text, telling_what_is_saved
from components.train.curves import Curves
from components.train.group import ALONE, joined, loss_before_signal, own_device
from components.train.model_files import (
    count_parameters,
    manifest_for,
    selection_of,
    with_learning_curves,
    write_weights,
)
from components.train.trainer import Trainer

_log = step_logger("train")


@dataclass(frozen=True)
class TrainResult:
    """What a training run made.

    Attributes:
        model: The model directory.
        selection: The epoch whose weights the model has, and its figures.
        train_loss: Mean training loss of the last epoch.
        epochs: Epochs trained.
        parameters: Trainable parameters of the network.
        images_per_second: Training images per second of training time.
        seconds: Wall time of training and evaluation, of all attempts together.
        device: Where it ran.
        checkpoints: Directory of the run's checkpoints.
        resumed_from: Where in the run this attempt went on, for people; None: it began anew.
    """

    model: Path
    selection: Selection
    train_loss: float
    epochs: int
    parameters: int
    images_per_second: float
    seconds: float
    device: str
    checkpoints: Path
    resumed_from: str | None = None

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "model": str(self.model),
            "checkpoints": str(self.checkpoints),
            "resumed_from": self.resumed_from,
            "best_epoch": self.selection.epoch,
            "selected_on": self.selection.split,
            "metrics": {"loss": self.selection.loss, "accuracy": self.selection.accuracy},
            "train_loss": self.train_loss,
            "epochs": self.epochs,
            "parameters": self.parameters,
            "images_per_second": self.images_per_second,
            "device": self.device,
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        metrics: dict[str, float | None] = {"loss": self.selection.loss, "accuracy": self.selection.accuracy}
        return Succeeded(
            seconds=seconds,
            metrics=metrics | {"train_loss": self.train_loss, "images_per_second": self.images_per_second},
            artifacts={"model": str(self.model), "checkpoints": str(self.checkpoints)},
        )


def train(
    *,
    dataset: Path,
    model: Path,
    params: Params,
    checkpoints: Path | Checkpoints | None = None,
    initial_weights: Path | None = None,
    checked: Checked | None = None,
    emit: Emit = ignore_events,
) -> TrainResult:
    """Train the network of `params` on a dataset directory and write a model directory.

    A run that was interrupted goes on from its newest checkpoint, to the same weights bit by bit. In a group of
    processes that torchrun has started, every process calls this; the first writes.

    Args:
        dataset: A complete dataset directory.
        model: Where the model directory is made; new, empty, or an earlier model that is replaced.
        params: The run's options.
        checkpoints: Where checkpoints are kept; by default beside `model`.
        initial_weights: What ``initial_weights`` of the params names, fetched; by default the path that it is.
        checked: The params as checked before; by default they are checked here.
        emit: Gets the status of the step.

    Raises:
        ParamsError: The network, optimiser, schedules, loss or transforms cannot be built, or do not fit the data.
        ArtifactError: The dataset is incomplete or damaged, or the model directory holds something else.
        CheckpointError: Checkpoints of another run lie where this one is to keep its own.
        DeviceError: The device or precision asked for is not there.
        DivergedError: A loss or a weight became NaN or infinite; the last checkpoint is of before.
        GroupLostError: Another process of the group ended.
    """
    if not isinstance(checkpoints, Checkpoints):
        checkpoints = Checkpoints(checkpoints)
    kept = checkpoints.beside(model)
    with joined() as group, ExitStack() as stack:
        if group.is_first:
            named, is_there = checkpoints.named or str(kept), checkpoints.is_there
            images = dataset / DATASET.manifest_file
            stack.enter_context(
                telling_what_is_saved(lambda: saved_text(kept, named, params, sha256_of(images), is_there))
            )
        checked, device, data, dataset_sha256 = group.together(lambda: _opened(checked or check(params), dataset))
        ending = stack.enter_context(ends_deferred())
        stack.enter_context(loss_before_signal(ending))
        group.together(lambda: stack.enter_context(held(kept, _log)) if group.is_first else None)
        # Before the earlier model makes room for another, which checkpoints of another run would hinder.
        found, is_to_clear = group.on_first(lambda: _checkpoint(checkpoints, kept, model, params, dataset_sha256))
        writer = group.together(lambda: stack.enter_context(ArtifactWriter(model, MODEL)) if group.is_first else None)
        run = Attempt(data, dataset_sha256, checked, device, group)
        group.together(lambda: run.begin(found, initial_weights))
        if is_to_clear:
            group.together(lambda: checkpoints.clear(kept) if group.is_first else None)
        curves = stack.enter_context(Curves(model / "tensorboard")) if group.is_first else None
        if not run.train(kept, checkpoints, curves, emit, ending):
            # If it was this process that was told, its own handler of the signal says so when this block is left.
            end_together()
            raise Terminated
        trainer = run.trainer
        if writer is not None:
            files = write_weights(writer, trainer, data, run.normalisation, _log)
        if run.is_told(ending):
            raise Terminated
        speed = run.speed()
        if writer is not None and curves is not None:
            curves.speed(speed, len(trainer.history))
            manifest = manifest_for(trainer, data, run.normalisation, files, run.dataset_sha256, speed)
            writer.commit(with_learning_curves(writer, manifest))
    return TrainResult(
        model=model,
        selection=selection_of(trainer, data),
        train_loss=trainer.history[-1].train_loss,
        epochs=len(trainer.history),
        parameters=count_parameters(trainer.network),
        images_per_second=trainer.images_per_second,
        seconds=sum(trainer.timing.seconds.values()),
        device=describe_device(device),
        checkpoints=kept,
        resumed_from=found.manifest.place if found is not None else None,
    )


def trial_trainer(dataset: Path, params: Params) -> Trainer:
    """The trainer of a run as it begins, for trials: nothing is saved, and nothing is compiled.

    Args:
        dataset: A complete dataset directory.
        params: The run's options.

    Raises:
        ParamsError: As :func:`train`.
        ArtifactError: The dataset is incomplete or damaged.
        DeviceError: The device or precision asked for is not there.
        InputError: Several processes were started.
    """
    if in_group():
        raise InputError("a trial runs in one process; start it without torchrun")
    checked, device, data, dataset_sha256 = _opened(check(params), dataset)
    run = Attempt(data, dataset_sha256, checked, device, ALONE, is_trial=True)
    run.begin(None, None)
    return run.trainer


def _checkpoint(
    checkpoints: Checkpoints, directory: Path, model: Path, params: Params, dataset_sha256: str
) -> tuple[Found | None, bool]:
    """The checkpoint to go on from, if there is one; and whether what is there is to be removed.

    Raises:
        CheckpointError: What is there is of another run, and may not go.
    """
    if checkpoints.start_over:
        return None, True
    try:
        return find_checkpoint(directory, params, dataset_sha256, _log), False
    except CheckpointError as error:
        if not checkpoints.may_go(model):
            raise
        _log.warning(
            "%s: the checkpoints of another run, which is finished, are removed, as its model beside them is replaced; "
            "what differs:%s",
            directory,
            error.differences,
        )
        return None, True


def _opened(checked: Checked, dataset: Path) -> tuple[Checked, torch.device, Dataset, str]:
    """What a training needs, all that can be refused early refused."""
    device = own_device(checked.params.device)
    data = open_dataset(dataset, training_splits)
    _fits(data, checked.params)
    return checked, device, data, sha256_of(dataset / DATASET.manifest_file)


def _fits(data: Dataset, params: Params) -> None:
    """Refuse a dataset that other params were prepared for."""
    shape = data.manifest.image.as_tuple()
    problems = []
    for key, wanted, got in (
        ("image_height", params.image_height, shape[0]),
        ("image_width", params.image_width, shape[1]),
        ("is_image_color", params.channels, shape[2]),
        ("n_classes", params.n_classes, len(data.manifest.classes)),
    ):
        if wanted != got:
            what = f"{wanted} channel(s)" if key == "is_image_color" else str(wanted)
            problems.append(Problem(key, f"is {what}, and the dataset {data.path} has {got}; prepare the data again"))
    if problems:
        raise ParamsError(problems)
    for split in ("train", data.selection_split):
        if split not in data.splits:
            raise ArtifactError(f"{data.path}: has no {split} split")
