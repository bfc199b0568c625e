"""train(): from a dataset directory to a model directory."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from components.classifier.batch_log import log_batches
from components.classifier.batches import Normaliser
from components.classifier.check import network_problems
from components.classifier.checkpoint import checkpoint_directory, save_checkpoint
from components.classifier.device import choose_device, describe_device, make_repeatable
from components.classifier.device_memory import free_bytes
from components.classifier.export import export_for_serving
from components.classifier.network import Network, network_of
from components.classifier.placement import store_images
from components.shared.artifacts import ArtifactWriter, FileRecord, Normalisation, sha256_of
from components.shared.dataset import DATASET, Dataset, open_dataset, training_splits
from components.shared.errors import ArtifactError, ParamsError, Problem
from components.shared.events.data import Emit, Succeeded, unheard
from components.shared.logs import step_logger
from components.shared.model import MODEL, ModelManifest, Provenance, Selection
from components.shared.params import Params
from components.shared.version import __version__
from components.train.curves import Curves
from components.train.loop import Labelled, State, Trainer
from components.train.progress import Progress
from components.train.status import TrainingStatus

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
        seconds: Wall time of training and evaluation.
        device: Where it ran.
        checkpoints: Directory of the run's checkpoints.
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

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "model": str(self.model),
            "checkpoints": str(self.checkpoints),
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
    checkpoints: Path | None = None,
    emit: Emit = unheard,
    on_checkpoint: Callable[[Path], None] | None = None,
) -> TrainResult:
    """Train the network of `params` on a dataset directory and write a model directory.

    Args:
        dataset: A complete dataset directory.
        model: Where the model directory is made; new, empty, or an earlier model that is replaced.
        params: The run's options.
        checkpoints: Where checkpoints are kept, in a directory of this run's own below it; by default beside `model`.
        emit: Gets the status of the step.
        on_checkpoint: Called with every checkpoint once it is written whole.

    Raises:
        ParamsError: The network, optimiser, schedules or transforms cannot be built, or do not fit the data.
        ArtifactError: The dataset is incomplete or damaged, or the model directory holds something else.
        DeviceError: The device asked for is not there.
        DivergedError: The loss became NaN or infinite.
    """
    network_problems(params)
    device = choose_device(params.device)
    data = open_dataset(dataset, training_splits)
    _fits(data, params)
    with ArtifactWriter(model, MODEL) as writer:
        make_repeatable(params.manual_seed)
        normalisation = _normalisation(params, data)
        trainer = _trainer(data, params, normalisation, device)
        dataset_sha256 = sha256_of(dataset / DATASET.manifest_file)
        root = checkpoints if checkpoints is not None else model.with_name(f"{model.name}-checkpoints")
        kept = checkpoint_directory(root, params.digest(), dataset_sha256)
        _log.info(
            "%s on %s: %d images in batches of %d",
            f"{_count(trainer.network):,} parameters",
            describe_device(device),
            len(trainer.training.images),
            params.batch_size,
        )
        start = time.perf_counter()
        _run(trainer, data, kept, model / "tensorboard", emit, on_checkpoint)
        seconds = time.perf_counter() - start
        files = _write_weights(writer, trainer, data, normalisation)
        manifest = _manifest(trainer, data, normalisation, files, seconds, dataset_sha256)
        writer.commit(manifest)
    return TrainResult(
        model=model,
        selection=manifest.selection,
        train_loss=trainer.history[-1].train_loss,
        epochs=len(trainer.history),
        parameters=manifest.parameters,
        images_per_second=trainer.images_per_second,
        seconds=seconds,
        device=manifest.provenance.device,
        checkpoints=kept,
    )


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


def _trainer(data: Dataset, params: Params, normalisation: Normalisation | None, device: torch.device) -> Trainer:
    with torch.device("meta"):
        parameters = _count(network_of(params))
    _has_room(parameters, device)
    # Initialised on the CPU, so that every device starts from the same weights.
    network = network_of(params).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def labelled(name: Any) -> Labelled:
        split = data.splits[name]
        labels = torch.tensor(split.labels, device=device)
        return Labelled(store_images(split, device).store, labels)

    held_out = labelled(data.selection_split)
    return Trainer(network, labelled("train"), held_out, params, Normaliser(normalisation, device), device)


def _count(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _has_room(parameters: int, device: torch.device) -> None:
    """Refuse a network whose weights alone cannot fit, before memory is asked for."""
    needed, free = parameters * _BYTES_PER_PARAMETER, free_bytes(device)
    if needed > free:
        message = (
            f"has {parameters:,} parameters, which take at least {needed / 1e9:,.1f} GB; {free / 1e9:,.1f} GB are free"
        )
        raise ParamsError([Problem("net_arch", message)])


def _run(
    trainer: Trainer,
    data: Dataset,
    checkpoints: Path,
    tensorboard: Path,
    emit: Emit,
    on_checkpoint: Callable[[Path], None] | None,
) -> None:
    """All epochs, with everything that happens between them."""
    params, split = trainer.params, data.selection_split
    images = len(trainer.training.images)
    status = TrainingStatus(emit, params.num_epochs, len(trainer.slices), images, split, str(trainer.device))
    with (
        Curves(tensorboard) as curves,
        Progress(params.mode, params.num_epochs, len(trainer.slices), _log, status.batch) as progress,
    ):
        for epoch in range(1, params.num_epochs + 1):
            with warnings.catch_warnings():
                # A schedule whose step() takes the epoch's metric makes torch suspect a wrong order of calls.
                warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
                record, predictions = trainer.run_epoch(epoch, progress)
            progress.epoch(record, trainer.images_per_second)
            status.epoch(record)
            curves.epoch(record, split, trainer.images_per_second)
            if predictions is not None and params.eval_metric_compute_freq == "batch":
                log_batches(_log, predictions, params.eval_batch_size)
            if epoch % params.save_freq == 0 or epoch == params.num_epochs:
                saved = save_checkpoint(checkpoints, epoch, trainer.state(epoch), params.keep_checkpoints)
                status.checkpoint(epoch, saved)
                if on_checkpoint is not None:
                    on_checkpoint(saved)
        curves.precision_recall(trainer.predict_with_best(), data.manifest.classes, trainer.best.epoch)


@dataclass(frozen=True)
class _Files:
    weights: FileRecord
    last_weights: FileRecord
    export: FileRecord | None


def _write_weights(
    writer: ArtifactWriter, trainer: Trainer, data: Dataset, normalisation: Normalisation | None
) -> _Files:
    last = _portable(trainer.network.state_dict())
    best = _portable(trainer.best.weights)
    written = {}
    for name, state in (("model.safetensors", best), ("last.safetensors", last)):
        written[name] = writer.new_file(name)
        save_file(state, written[name])
    network = network_of(trainer.params)
    network.load_state_dict(best)
    exported = writer.new_file("model.pt2")
    reason = export_for_serving(network, data.manifest.image, normalisation, exported)
    if reason:
        _log.warning("this network has no serving export: %s", reason)
    return _Files(
        weights=writer.record(written["model.safetensors"]),
        last_weights=writer.record(written["last.safetensors"]),
        export=None if reason else writer.record(exported),
    )


def _portable(state: State) -> State:
    """Weights on the CPU in torch's usual memory order, so that equal weights are equal files."""
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _manifest(
    trainer: Trainer,
    data: Dataset,
    normalisation: Normalisation | None,
    files: _Files,
    seconds: float,
    dataset_sha256: str,
) -> ModelManifest:
    params, best = trainer.params, trainer.best
    return ModelManifest(
        created_by=f"shutterline {__version__}",
        classes=data.manifest.classes,
        image=data.manifest.image,
        normalisation=normalisation,
        net_arch=[layer.model_dump(by_alias=True) for layer in params.net_arch],
        parameters=_count(trainer.network),
        weights=files.weights,
        last_weights=files.last_weights,
        export=files.export,
        selection=Selection(epoch=best.epoch, split=data.selection_split, loss=best.loss, accuracy=best.accuracy),
        history=trainer.history,
        provenance=Provenance(
            params=params.to_dict(),
            params_sha256=params.digest(),
            dataset_sha256=dataset_sha256,
            device=describe_device(trainer.device),
            versions={
                "shutterline": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            seconds=seconds,
            images_per_second=trainer.images_per_second,
        ),
    )
