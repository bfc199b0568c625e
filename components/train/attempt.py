"""One attempt at a training: the trainer, and what is around it."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from components.classifier.check import Checked
from components.classifier.device import describe_device, free_bytes, make_repeatable
from components.classifier.images import Normaliser, store_images
from components.classifier.inference import Predictions, log_batches
from components.classifier.initial_weights import describe_start, start_network
from components.classifier.network import LayerTable, network_of
from components.shared.artifacts.artifact import Normalisation
from components.shared.artifacts.dataset import Dataset
from components.shared.artifacts.model import EpochRecord, Speed
from components.shared.errors import DivergedError, ParamsError, Problem
from components.shared.events.data import Emit
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.seeds import derived_seed
from components.shared.signals import Deferred
from components.train.checkpoints.directory import Checkpoints
from components.train.checkpoints.identity import epochs_of
from components.train.checkpoints.resume import Found, last_good
from components.train.checkpoints.writer import CheckpointWriter
from components.train.curves import Curves
from components.train.group import Group
from components.train.loop import TrainingLoop
from components.train.model_files import count_parameters
from components.train.precision import Compiling, choose_compiling, flops_of_training
from components.train.progress import Progress
from components.train.speed import measure_speed
from components.train.speed_text import speed_lines
from components.train.state import restore
from components.train.status import TrainingStatus
from components.train.trainer import Labelled, Trainer

_log = step_logger("train")

# Weights, and of what is trained gradients and the optimiser's two moments, float32 each: what an Adam-like optimiser
# needs at least.
_BYTES_PER_PARAMETER, _BYTES_MORE_TO_TRAIN = 4, 12


class Attempt:
    """One attempt at a training: the trainer, and what is around it; of a trial, nothing is compiled."""

    def __init__(
        self,
        data: Dataset,
        dataset_sha256: str,
        checked: Checked,
        device: torch.device,
        group: Group,
        *,
        is_trial: bool = False,
    ) -> None:
        params = checked.params
        make_repeatable(params.manual_seed)
        self.data = data
        self.dataset_sha256 = dataset_sha256
        self.params = params
        self.normalisation = _normalisation(params, data)
        self.flops_per_image = flops_of_training(checked.table)
        _has_room(checked.table, device)
        self._device = device
        self._group = group
        self._is_trial = is_trial
        self._notes = checked.notes

    def begin(self, found: Found | None, initial_weights: Path | None) -> None:
        """Make the trainer: of a checkpoint, or anew.

        Raises:
            ParamsError: It cannot be built.
        """
        # Initialised on the CPU, so that every device starts from the same weights.
        network = network_of(self.params)
        started_from = start_network(network, self.params, initial_weights) if found is None else None
        if started_from is not None:
            _log.info("%s", describe_start(started_from))
        self.trainer = self._trainer(network)
        self.trainer.started_from = started_from
        if found is not None:
            restore(self.trainer, found, _log)
            _log.info("going on from a checkpoint of %s", found.manifest.place)
            self._tell_of_other_length(found)

    def _tell_of_other_length(self, found: Found) -> None:
        """Warn of what a run that was to have another number of epochs does otherwise."""
        there, here = epochs_of(found.manifest), self.params.num_epochs
        if there == here or not self._group.is_first:
            return
        if self.trainer.position.stopped:
            epoch = self.trainer.position.epoch - 1
            _log.warning("num_epochs is %d, and early stopping had ended the run after epoch %d", here, epoch)
        elif self._compiling(there).is_on != self.trainer.compiled:
            _log.warning(
                "num_epochs was %d and is %d, so that the network is %s from here on, and its sums may be rounded "
                "otherwise; compile decides it",
                there,
                here,
                "compiled" if self.trainer.compiled else "not compiled",
            )

    def _compiling(self, epochs: int) -> Compiling:
        """Whether the network of a run of so many epochs is compiled."""
        flops = self.flops_per_image * self.data.manifest.splits["train"].count * epochs / self._group.size
        return choose_compiling(self.params, self._device, flops)

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
        if self._is_trial:
            compiling = Compiling(False, "which would take longer than the trial")
        else:
            compiling = self._compiling(params.num_epochs)
        trainer = Trainer(
            network,
            training,
            held_out,
            params,
            Normaliser(self.normalisation, device),
            device,
            group,
            compiled=compiling.is_on,
        )
        _log.info(
            "%s on %s: %d images in batches of %d; %s (%s), %s (%s)",
            f"{count_parameters(network):,} parameters",
            describe_device(device),
            len(training.images),
            params.batch_size,
            trainer.precision.name,
            trainer.precision.reason,
            "compiled" if compiling.is_on else "not compiled",
            compiling.reason,
        )
        for note in dict.fromkeys((*self._notes, *trainer.notes)):
            _log.warning("%s", note)
        if trainer.transforms is not None:
            for line in trainer.transforms.describe_cost(len(training.images)):
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
                keeper = stack.enter_context(CheckpointWriter(directory, params.keep_checkpoints, checkpoints.on_saved))
            for record in trainer.history:
                if curves is not None:
                    curves.epoch(record, split)
            loop = TrainingLoop(trainer, keeper, ending, self.dataset_sha256, status, progress)

            def on_epoch(record: EpochRecord, predictions: Predictions | None) -> None:
                progress.epoch(record)
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
                    if keeper is None:  # of a process that has no place, and is not the one that speaks
                        raise
                    with suppress(OSError):  # what is told of is the loss
                        keeper.wait()  # the last good state may still be on its way
                    raise DivergedError(f"{error}; {_last_good(directory)}") from error
            if is_done and not self.is_told(ending):
                predictions = trainer.predict_with_best()
                if curves is not None:
                    curves.precision_recall(predictions, self.data.manifest.classes, trainer.best.epoch)
                if keeper is not None:
                    keeper.wait()
                loop.close()
            return is_done and not self.is_told(ending)

    def is_told(self, ending: Deferred) -> bool:
        """Whether the process was told to end: what is left to do is done again from the last checkpoint."""
        return ending.signal is not None and self.trainer.group.size == 1

    def speed(self) -> Speed:
        """How near training came to what is possible; the weights are no longer those of the training after it."""
        found = measure_speed(self.trainer, self.flops_per_image)
        for line in speed_lines(found):
            _log.info("%s", line)
        return found


def _last_good(directory: Path) -> str:
    """What is left of a run that left the numbers, for people."""
    if (found := last_good(directory)) is None:
        return "there is no checkpoint of before"
    return f"the last good state, {found.place}, is kept in {directory}"


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


def _has_room(table: LayerTable, device: torch.device) -> None:
    """Refuse a network whose weights alone cannot fit, before memory is asked for."""
    needed = table.parameters * _BYTES_PER_PARAMETER + table.trainable * _BYTES_MORE_TO_TRAIN
    if needed > (free := free_bytes(device)):
        message = f"has {table.parameters:,} parameters, which take at least {needed / 1e9:,.1f} GB"
        raise ParamsError([Problem("net_arch", f"{message}; {free / 1e9:,.1f} GB are free")])
