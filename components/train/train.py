"""train(): from a dataset directory to a model directory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.classifier.batch_log import log_batches
from components.classifier.batches import Normaliser
from components.classifier.check import network_problems
from components.classifier.device import describe_device, make_repeatable
from components.classifier.device_memory import free_bytes
from components.classifier.inference import Predictions
from components.classifier.initial_weights import start_network, told
from components.classifier.network import LayerTable, network_of
from components.classifier.placement import store_images
from components.shared.artifacts import ArtifactWriter, Normalisation, sha256_of
from components.shared.dataset import DATASET, Dataset, open_dataset, training_splits
from components.shared.errors import ArtifactError, DivergedError, InputError, ParamsError, Problem
from components.shared.events.data import Emit, Succeeded, unheard
from components.shared.logs import step_logger
from components.shared.member import end_together, in_group
from components.shared.model import MODEL, EpochRecord, Selection, Speed
from components.shared.params import Params
from components.shared.seeds import derived_seed
from components.shared.signals import Deferred, Terminated, ends_deferred
from components.train.acceleration import FORWARD_AND_BACKWARD, choose_compiling, choose_precision
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest
from components.train.checkpoints.keeper import CheckpointKeeper
from components.train.checkpoints.resume import Found, find_checkpoint, start_over
from components.train.curves import Curves
from components.train.group import ALONE, Group, joined, loss_before_signal, own_device
from components.train.loop import TrainingLoop
from components.train.progress import Progress
from components.train.speed import measure_speed
from components.train.speed_text import speed_lines
from components.train.state import restore
from components.train.status import TrainingStatus
from components.train.trainer import Labelled, Trainer
from components.train.writing import (
    count_parameters,
    manifest_for,
    selection_of,
    with_learning_curves,
    write_weights,
)

_log = step_logger("train")

# Weights, gradients and the optimiser's two moments, float32 each: what an Adam-like optimiser needs at least.
_BYTES_PER_PARAMETER = 16


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


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and what becomes of those of another.

    Attributes:
        directory: The same for every attempt of a run; None: beside the model, where checkpoints of another run go,
            as the model itself does.
        start_over: Remove what is there and begin anew.
        on_saved: Called on a thread of its own with each checkpoint's manifest file, once it is whole;
            whether it may be told of.
    """

    directory: Path | None = None
    start_over: bool = False
    on_saved: Callable[[Path], bool] | None = None

    def beside(self, model: Path) -> Path:
        """The directory."""
        return self.directory if self.directory is not None else model.with_name(f"{model.name}-checkpoints")


def train(
    *,
    dataset: Path,
    model: Path,
    params: Params,
    checkpoints: Path | Checkpoints | None = None,
    initial_weights: Path | None = None,
    emit: Emit = unheard,
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
        table, device, data, dataset_sha256 = group.together(lambda: _checked(params, dataset))
        ending = stack.enter_context(ends_deferred())
        stack.enter_context(loss_before_signal(ending))
        found = None
        if not checkpoints.start_over:
            # Before the earlier model makes room for another, which checkpoints of another run would hinder.
            may_go = checkpoints.directory is None
            found = group.on_first(lambda: find_checkpoint(kept, params, dataset_sha256, _log, foreign_may_go=may_go))
        writer = group.together(lambda: stack.enter_context(ArtifactWriter(model, MODEL)) if group.is_first else None)
        if checkpoints.start_over and group.is_first:
            start_over(kept)
        run = _Run(data, dataset_sha256, params, device, group, table)
        group.together(lambda: run.begin(found, initial_weights))
        curves = stack.enter_context(Curves(model / "tensorboard")) if group.is_first else None
        if not run.train(kept, checkpoints, curves, emit, ending):
            # If it was this process that was told, its own handler of the signal says so when this block is left.
            end_together()
            raise Terminated
        trainer = run.trainer
        if writer is not None:
            files = write_weights(writer, trainer, data, run.normalisation, _log)
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
        seconds=sum(trainer.stopwatch.seconds.values()),
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
    params = params.model_copy(update={"compile": "never"})  # which would take longer than the trial
    table, device, data, dataset_sha256 = _checked(params, dataset)
    run = _Run(data, dataset_sha256, params, device, ALONE, table)
    run.begin(None, None)
    return run.trainer


def _checked(params: Params, dataset: Path) -> tuple[LayerTable, torch.device, Dataset, str]:
    """What a training needs, all that can be refused early refused."""
    table = network_problems(params)
    device = own_device(params.device)
    data = open_dataset(dataset, training_splits)
    _fits(data, params)
    return table, device, data, sha256_of(dataset / DATASET.manifest_file)


class _Run:
    """One attempt at a training: the trainer, and what is around it."""

    def __init__(
        self,
        data: Dataset,
        dataset_sha256: str,
        params: Params,
        device: torch.device,
        group: Group,
        table: LayerTable,
    ) -> None:
        make_repeatable(params.manual_seed)
        self.data = data
        self.dataset_sha256 = dataset_sha256
        self.params = params
        self.normalisation = _normalisation(params, data)
        # Of one training image; a backward pass costs about twice its forward pass.
        self.flops_per_image = 2 * table.multiply_adds * FORWARD_AND_BACKWARD
        _has_room(table.parameters, device)
        self._device = device
        self._group = group

    def begin(self, found: Found | None, initial_weights: Path | None) -> None:
        """Make the trainer: of a checkpoint, or anew.

        Raises:
            ParamsError: It cannot be built.
        """
        # Initialised on the CPU, so that every device starts from the same weights.
        network = network_of(self.params)
        started_from = start_network(network, self.params, initial_weights) if found is None else None
        if started_from is not None:
            _log.info("%s", told(started_from))
        self.trainer = self._trainer(network)
        self.trainer.started_from = started_from
        if found is not None:
            restore(self.trainer, found, _log)
            _log.info("going on from a checkpoint of %s", found.manifest.place)

    def _trainer(self, network: Any) -> Trainer:
        params, data, device, group = self.params, self.data, self._device, self._group
        network.to(device, memory_format=torch.channels_last)
        if params.sync_batch_norm and group.size > 1:
            network = _synchronised(network, device)
        if not group.is_first:  # each process drops its own
            torch.manual_seed(derived_seed(params.manual_seed, f"torch/{group.rank}"))

        def labelled(name: Any) -> Labelled:
            split = data.splits[name]
            placed = store_images(split, device, params.data_placement)
            _log.info("%s: %s", name, placed.reason)
            return Labelled(placed.store, torch.tensor(split.labels, device=device))

        training, held_out = labelled("train"), labelled(data.selection_split)
        precision = choose_precision(params, device)
        flops = self.flops_per_image * len(training.images) * params.num_epochs / group.size
        compiling = choose_compiling(params, device, flops)
        self.compiled = compiling.is_on
        trainer = Trainer(
            network,
            training,
            held_out,
            params,
            Normaliser(self.normalisation, device),
            device,
            group,
            precision=precision,
            compiled=compiling.is_on,
        )
        _log.info(
            "%s on %s: %d images in batches of %d; %s (%s), %s (%s)",
            f"{count_parameters(network):,} parameters",
            describe_device(device),
            len(training.images),
            params.batch_size,
            precision.name,
            precision.reason,
            "compiled" if compiling.is_on else "not compiled",
            compiling.reason,
        )
        for line in trainer.transforms.lines(len(training.images)) if trainer.transforms is not None else ():
            _log.info("%s", line)
        return trainer

    def train(
        self, directory: Path, checkpoints: Checkpoints, curves: Curves | None, emit: Emit, ending: Deferred
    ) -> bool:
        """All that is left to train; whether that was all, and the process was not told to end."""
        trainer, params, split = self.trainer, self.params, self.data.selection_split
        is_first = trainer.group.is_first
        batches = len(trainer.slices)
        done = (trainer.position.epoch - 1) * batches + trainer.position.batch
        status = TrainingStatus(
            emit, params.num_epochs, batches, len(trainer.training.images), split, str(trainer.device), done
        )
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(params.mode, params.num_epochs, batches, _log, done))
            keeper = None
            if is_first:
                keeper = stack.enter_context(CheckpointKeeper(directory, params.keep_checkpoints, checkpoints.on_saved))
            for record in trainer.history:
                if curves is not None:
                    curves.epoch(record, split)
            loop = TrainingLoop(trainer, keeper, ending, self.dataset_sha256, status, progress)

            def on_epoch(record: EpochRecord, predictions: Predictions | None) -> None:
                progress.epoch(record, trainer.images_per_second)
                if curves is not None:
                    curves.epoch(record, split)
                if predictions is not None and params.eval_metric_compute_freq == "batch":
                    log_batches(_log, predictions, params.eval_batch_size)

            with warnings.catch_warnings():
                # A schedule whose step() takes the epoch's metric makes torch suspect a wrong order of calls.
                warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
                try:
                    is_done = loop.run(on_epoch)
                except DivergedError as error:
                    if keeper is not None:
                        with suppress(OSError):  # what is told of is the loss
                            keeper.wait()  # the last good state may still be on its way
                    raise DivergedError(f"{error}; {_last_good(directory)}") from error
            if is_done:
                predictions = trainer.predict_with_best()
                if curves is not None:
                    curves.precision_recall(predictions, self.data.manifest.classes, trainer.best.epoch)
                if keeper is not None:
                    keeper.wait()
                loop.close()
            return is_done

    def speed(self) -> Speed:
        """How near training came to what is possible; the weights are no longer those of the training after it."""
        found = measure_speed(self.trainer, self.flops_per_image, compiled=self.compiled)
        for line in speed_lines(found):
            _log.info("%s", line)
        return found


def _last_good(directory: Path) -> str:
    """What is left of a run that left the numbers, for people."""
    if not (found := list_checkpoints(directory)):
        return "there is no checkpoint of before"
    return f"the last good state, {read_checkpoint_manifest(found[-1]).place}, is kept in {directory}"


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


def _normalisation(params: Params, data: Dataset) -> Normalisation | None:
    """The normalisation of a run, "auto" resolved to the training images' own."""
    if not params.normalise_images:
        return None
    own = data.manifest.normalisation
    return Normalisation(
        mean=own.mean if isinstance(params.normalise_mean, str) else params.normalise_mean,
        std=own.std if isinstance(params.normalise_std, str) else params.normalise_std,
    )


def _synchronised(network: Any, device: torch.device) -> Any:
    """The network with batch statistics over all GPUs."""
    if device.type != "cuda":
        raise ParamsError([Problem("sync_batch_norm", "needs GPUs: torch's SyncBatchNorm does not run on the CPU")])
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]


def _has_room(parameters: int, device: torch.device) -> None:
    """Refuse a network whose weights alone cannot fit, before memory is asked for."""
    needed, free = parameters * _BYTES_PER_PARAMETER, free_bytes(device)
    if needed > free:
        message = (
            f"has {parameters:,} parameters, which take at least {needed / 1e9:,.1f} GB; {free / 1e9:,.1f} GB are free"
        )
        raise ParamsError([Problem("net_arch", message)])
