"""The beginning of a training: what can be refused early is refused, then the trainer is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from components.classifier.check import Checked, check
from components.classifier.device import describe_device, free_bytes, make_repeatable
from components.classifier.graphs import CudaGraphs, Graphs
from components.classifier.images import (
    CentralParts,
    ImageStore,
    LabelledImages,
    Normaliser,
    StoredImages,
    store_images,
)
from components.classifier.initial_weights import describe_start, start_network
from components.classifier.network import LayerTable, Network, network_of
from components.classifier.parameter_groups import describe_groups
from components.shared.artifacts.artifact import ImageShape, Normalisation
from components.shared.artifacts.dataset import DATASET, Dataset, open_dataset, training_splits
from components.shared.artifacts.model import StartedFrom
from components.shared.errors import ArtifactError, InputError, ParamsError, Problem
from components.shared.files import sha256_of
from components.shared.logs import step_logger
from components.shared.params.gate import check_gate
from components.shared.params.params import Params
from components.shared.params.recipes import describe_recipe, rate_of_recipe
from components.shared.params.training_id import RESUMED
from components.shared.process_group import in_group
from components.shared.seeds import derived_seed
from components.shared.version import __version__
from components.train.batch_size import ChosenBatchSize, largest_batch, on_cpu, on_gpu
from components.train.checkpoints.resume import Found
from components.train.compiling import Compiling, choose_compiling
from components.train.group import Group, own_device
from components.train.measured_precision import precision_of_run
from components.train.precision import choose_precision
from components.train.state import restore
from components.train.trainer import Trainer

_log = step_logger("train")

# Weights, and of what is trained gradients and the optimiser's two moments, float32 each: what an Adam-like optimiser
# needs at least.
_BYTES_PER_PARAMETER, _BYTES_MORE_TO_TRAIN = 4, 12


@dataclass(frozen=True)
class TrainingInputs:
    """What a training is of, checked; `notes` say what of the params has no effect."""

    params: Params
    table: LayerTable
    notes: tuple[str, ...]
    device: torch.device
    data: Dataset
    dataset_sha256: str

    @property
    def same_in_all(self) -> dict[str, Any]:
        """What has to be the same in all processes of a group; weights to start from are rank 0's."""
        params = {name: value for name, value in self.params.to_dict().items() if name != "initial_weights"}
        versions = {"Shutterline's version": __version__, "torch's version": str(torch.__version__)}
        return {"the dataset": self.dataset_sha256, **versions, **params}

    @cached_property
    def normalisation(self) -> Normalisation | None:
        """That of the images, "auto" resolved to the training images' own."""
        params, own = self.params, self.data.manifest.normalisation
        if not params.normalise_images:
            return None
        return Normalisation(
            mean=own.mean if isinstance(params.normalise_mean, str) else params.normalise_mean,
            std=own.std if isinstance(params.normalise_std, str) else params.normalise_std,
        )

    @property
    def image_shapes(self) -> tuple[ImageShape, ImageShape | None]:
        """What the network takes of an image, and what is stored of it, where that is more."""
        stored, (height, width, _) = self.data.manifest.image, self.params.image_shape
        taken = stored.model_copy(update={"height": height, "width": width})
        return taken, stored if stored != taken else None


def check_inputs(checked: Checked, dataset: Path) -> TrainingInputs:
    """Refuse early a dataset and a device that params cannot be used with."""
    params = checked.params
    device = own_device(params.device)
    data = open_dataset(dataset, training_splits, names=False)
    height, width, channels = data.manifest.image.as_tuple()
    wanted_height, wanted_width, _ = params.stored_shape
    stored = "stored" if params.stored_height is not None else "image"
    color = list(params.background)
    problems = [
        Problem(key, f"is {wanted}{unit}, and the dataset {data.path} has {got}; prepare the data again")
        for key, wanted, got, unit in (
            (f"{stored}_height", wanted_height, height, ""),
            (f"{stored}_width", wanted_width, width, ""),
            ("is_image_color", params.channels, channels, " channel(s)"),
            ("n_classes", params.n_classes, len(data.manifest.classes), ""),
            ("image_fit", params.image_fit, data.manifest.image_fit, ""),
            ("image_interpolation", params.image_interpolation, data.manifest.image_interpolation, ""),
            ("alpha_background", color, data.manifest.alpha_background or color, ""),
        )
        if wanted != got
    ]
    if problems:
        raise ParamsError(problems)
    check_gate(params.gate, data.manifest.classes)  # evaluation would refuse it, when the training is paid for
    for split in ("train", data.selection_split):
        if split not in data.splits:
            raise ArtifactError(f"{data.path}: has no {split} split")
    return TrainingInputs(*checked, device, data, sha256_of(dataset / DATASET.manifest_file))


def start_trainer(
    inputs: TrainingInputs,
    group: Group,
    found: Found | None,
    weights: Path | None,
    *,
    is_trial: bool = False,
    graphs: Graphs | None = None,
) -> Trainer:
    """The trainer of a run: restored from the checkpoint `found`, or new, from `weights` that the params name.

    Its params say how many images a batch has, where those of `inputs` leave that to be chosen. Every process of a
    group calls this. `graphs` makes graphs of its steps, by default the GPU that it runs on; a trial has none.
    """
    parts = group.together(lambda: _parts_of(inputs, group, found, weights))
    size, reason = min(group.gathered(parts.batch_size))
    if inputs.params.batch_size == "auto" and group.is_first:
        advice = " (a larger batch often wants a higher one, which --find-learning-rate suggests)" if size > 256 else ""
        if (wanted := rate_of_recipe(inputs.params.to_dict(), size)) is not None:
            advice = f" (recipe {inputs.params.recipe} has {wanted:g} for {size} images a batch)"
        rate = "" if is_trial else f"; learning_rate stays {inputs.params.learning_rate:g}{advice}"
        _log.info("batch_size auto: %d, %s%s", size, reason, rate)
    recipe = describe_recipe(inputs.params.to_dict())
    params = inputs.params.model_copy(update={"batch_size": size})
    inputs = replace(inputs, params=params)
    if graphs is None and inputs.device.type == "cuda" and not is_trial:
        graphs = CudaGraphs(inputs.device)
    images = len(parts.training.images) * params.num_epochs / group.size
    compiling = Compiling(False, "which would take longer than the trial")
    if not is_trial:
        compiling = group.together(lambda: choose_compiling(params, inputs.device, inputs.table, images))
    # One process alone would wait for the others as it compiles.
    compiling = next((each for each in group.gathered(compiling) if not each.is_on), compiling)
    trainer = group.together(lambda: _built(inputs, parts, group, found, compiled=compiling.is_on, graphs=graphs))
    if found is None and not is_trial:
        trainer.training_step.precision = precision_of_run(trainer)
    trainer.precision.set_flags()
    _describe(inputs, trainer, compiling, recipe, is_trial=is_trial)
    if found is not None:
        _log.info("%s%s", RESUMED, found.manifest.position)
        if found.manifest.num_epochs != params.num_epochs and group.is_first and trainer.position.stopped:
            epoch = trainer.position.epoch - 1
            message = "num_epochs is %d, and early stopping had ended the run after epoch %d"
            _log.warning(message, params.num_epochs, epoch)
    return trainer


@dataclass(frozen=True)
class _Parts:
    """What a trainer is made of, once it is known how many images a batch has."""

    network: Network
    training: LabelledImages[ImageStore]
    held_out: LabelledImages[StoredImages]
    normalise: Normaliser
    started_from: StartedFrom | None
    batch_size: ChosenBatchSize


def _parts_of(inputs: TrainingInputs, group: Group, found: Found | None, weights: Path | None) -> _Parts:
    params, table, free = inputs.params, inputs.table, free_bytes(inputs.device)
    make_repeatable(params.manual_seed)
    # Before memory is asked for.
    if (needed := table.parameters * _BYTES_PER_PARAMETER + table.trainable * _BYTES_MORE_TO_TRAIN) > free:
        message = f"has {table.parameters:,} parameters, which take at least {needed / 1e9:,.1f} GB"
        raise ParamsError([Problem("net_arch", f"{message}; {free / 1e9:,.1f} GB are free")])
    # Initialised on the CPU, so that every device starts from the same weights.
    network = network_of(params, table)
    started_from = start_network(network, params, weights) if found is None else None
    if started_from is not None:
        _log.info("%s", describe_start(started_from))
    data, device = inputs.data, inputs.device
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def labelled(name: Any) -> LabelledImages[ImageStore]:
        split = data.splits[name]
        placed = store_images(split, device, params.data_placement)
        _log.info("%s: %s", name, placed.reason)
        return LabelledImages(placed.store, torch.tensor(split.labels, device=device))

    training, evaluated = labelled("train"), labelled(data.selection_split)
    held_out: LabelledImages[StoredImages] = evaluated
    if params.stored_shape != params.image_shape:
        held_out = LabelledImages(CentralParts(evaluated.images, params.image_shape), evaluated.labels)
    normalise = Normaliser(inputs.normalisation, device)
    batch_size = _batch_size(inputs, network, training, normalise, group, found)
    if params.sync_batch_norm and group.size > 1:
        if device.type != "cuda":
            raise ParamsError([Problem("sync_batch_norm", "needs GPUs: torch's SyncBatchNorm does not run on the CPU")])
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    if not group.is_first:  # each process drops its own
        torch.manual_seed(derived_seed(params.manual_seed, f"torch/{group.rank}"))
    return _Parts(network, training, held_out, normalise, started_from, batch_size)


def _batch_size(
    inputs: TrainingInputs,
    network: Network,
    training: LabelledImages[ImageStore],
    normalise: Normaliser,
    group: Group,
    found: Found | None,
) -> ChosenBatchSize:
    """What the params say, a checkpoint was made with, or suits the device; each process of a group for itself."""
    params, device = inputs.params, inputs.device
    if not isinstance(params.batch_size, str):
        return ChosenBatchSize(params.batch_size, "as batch_size says")
    if found is not None:
        return ChosenBatchSize(int(found.manifest.params["batch_size"]), "as the run has begun")
    largest = largest_batch(len(training.images), params, group.size)
    if device.type == "cpu":
        return on_cpu(inputs.table, largest, free_bytes(device))
    choose_precision(params, device).set_flags()
    return on_gpu(network, training, normalise, params, device, largest, group)


def trial_trainer(dataset: Path, params: Params) -> Trainer:
    """The trainer of a run as it begins, for trials: nothing is saved, and nothing is compiled."""
    if in_group():
        raise InputError("a trial runs in one process; start it without torchrun")
    return start_trainer(check_inputs(check(params), dataset), Group(), None, None, is_trial=True)


def _built(
    inputs: TrainingInputs, parts: _Parts, group: Group, found: Found | None, *, compiled: bool, graphs: Graphs | None
) -> Trainer:
    images, device = (parts.training, parts.held_out), inputs.device
    trainer = Trainer(
        parts.network, *images, inputs.params, parts.normalise, device, group, compiled=compiled, graphs=graphs
    )
    trainer.started_from = parts.started_from
    if found is not None:
        restore(trainer, found, _log)
    return trainer


def _describe(
    inputs: TrainingInputs, trainer: Trainer, compiling: Compiling, recipe: str | None, *, is_trial: bool
) -> None:
    """Log what a run is of, what was chosen for it and why, and what has no effect."""
    params, network, training = inputs.params, trainer.network, trainer.training
    _log.info(
        "%s parameters on %s: %d images in batches of %d; %s (%s), %s (%s)",
        f"{count_parameters(network):,}",
        describe_device(inputs.device),
        len(training.images),
        params.batch_size,
        *trainer.precision,
        "compiled" if compiling.is_on else "not compiled",
        compiling.reason,
    )
    warnings: list[str] = []
    if not is_trial:  # whose steps are never captured, and which has rates, schedules and transforms of its own
        if recipe is not None:
            _log.info("%s", recipe)
        is_captured, reason = trainer.step_mode
        step = f"step: {'captured' if is_captured else 'eager'} ({reason})"
        if params.step == "graph" and not is_captured:
            warnings.append(step)
        else:
            _log.info("%s", step)
        if len(groups := trainer.optimiser.param_groups) > 1:
            _log.info("%s: %s", type(trainer.optimiser).__name__, describe_groups(groups, params))
    if params.stored_shape != params.image_shape:
        is_random = (transforms := trainer.training_step.transforms) is None or transforms.crops
        _log.info(
            "images are stored as %d×%d: held-out ones are cropped to their middle %d×%d, training ones %s",
            *params.stored_shape[:2],
            *params.image_shape[:2],
            "anywhere, each by itself" if is_random else "by additional_transforms",
        )
    if (recomputing := trainer.training_step.recomputing) is not None and recomputing.parts:
        message = "gradient_checkpointing: %d parts of the network are computed again in the backward pass"
        _log.info(message, recomputing.parts)
    warnings += [*inputs.notes, *trainer.notes]
    known = trainer.group.from_first(warnings)  # another process warns of what is so in it alone
    for warning in dict.fromkeys(warnings):
        if trainer.group.is_first or warning not in known:
            _log.warning("%s", warning)
    if (transforms := trainer.training_step.transforms) is not None:
        _log.info("%s", transforms.describe())


def count_parameters(network: torch.nn.Module) -> int:
    """Trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
