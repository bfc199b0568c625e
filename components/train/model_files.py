"""The model directory: weights, export and manifest of a finished training."""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass

import torch
from safetensors.torch import save

from components.classifier.backbones import has_backbone
from components.classifier.device import describe_device
from components.classifier.export import export_for_serving
from components.classifier.network import Network, network_of
from components.classifier.program import write_program
from components.shared.artifacts.artifact import ArtifactWriter, FileRecord, Normalisation
from components.shared.artifacts.dataset import Dataset
from components.shared.artifacts.model import LEARNING_CURVES, ModelManifest, Provenance, Selection, Speed
from components.shared.files import writing
from components.shared.version import __version__
from components.train.learning_curves import write_learning_curves
from components.train.position import State
from components.train.trainer import Trainer


@dataclass(frozen=True)
class WrittenFiles:
    """The files of a model directory beside its manifest.

    Attributes:
        weights: Of the best evaluated epoch.
        last_weights: After the last epoch.
        export: The serving program, where the network has one.
        program: The network's graph, where building it needs torchvision.
    """

    weights: FileRecord
    last_weights: FileRecord
    export: FileRecord | None
    program: FileRecord | None


def write_weights(
    writer: ArtifactWriter,
    trainer: Trainer,
    data: Dataset,
    normalisation: Normalisation | None,
    log: logging.Logger,
) -> WrittenFiles:
    """Write what a training has made, all but the manifest."""
    last = _portable(trainer.evaluated_network.state_dict())
    best = _portable(trainer.best.weights)
    written = {}
    for name, state in (("model.safetensors", best), ("last.safetensors", last)):
        written[name] = writer.new_file(name)
        # Not save_file: its file has the mode 0600, and a kill leaves one of a name that nobody knows.
        with writing(written[name]) as output:
            output.write(save(state))
    network = network_of(trainer.params)
    network.load_state_dict(best)
    exported = writer.new_file("model.pt2")
    reason = export_for_serving(network, data.manifest.image, normalisation, exported)
    if reason:
        log.warning("this network has no serving export: %s", reason)
    program = None
    if has_backbone(trainer.params.net_arch):
        file = writer.new_file("network.pt2")
        if why := write_program(network, data.manifest.image, file):
            log.warning("evaluating this model needs torchvision: its network has no program: %s", why)
        else:
            program = writer.record(file)
    return WrittenFiles(
        weights=writer.record(written["model.safetensors"]),
        last_weights=writer.record(written["last.safetensors"]),
        export=None if reason else writer.record(exported),
        program=program,
    )


def _portable(state: State) -> State:
    """Weights on the CPU in torch's usual memory order, so that equal weights are equal files."""
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def selection_of(trainer: Trainer, data: Dataset) -> Selection:
    """Which epoch's weights the model has."""
    best = trainer.best
    return Selection(epoch=best.epoch, split=data.selection_split, loss=best.loss, accuracy=best.accuracy)


def manifest_for(
    trainer: Trainer,
    data: Dataset,
    normalisation: Normalisation | None,
    files: WrittenFiles,
    dataset_sha256: str,
    speed: Speed,
) -> ModelManifest:
    """The manifest of what was written."""
    params = trainer.params
    return ModelManifest(
        created_by=f"shutterline {__version__}",
        classes=data.manifest.classes,
        image=data.manifest.image,
        normalisation=normalisation,
        net_arch=[layer.model_dump(by_alias=True) for layer in params.net_arch],
        parameters=count_parameters(trainer.network),
        weights=files.weights,
        last_weights=files.last_weights,
        export=files.export,
        program=files.program,
        selection=selection_of(trainer, data),
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
            seconds=sum(trainer.timing.seconds.values()),
            images_per_second=trainer.images_per_second,
            speed=speed,
            started_from=trainer.started_from,
        ),
    )


def with_learning_curves(writer: ArtifactWriter, manifest: ModelManifest) -> ModelManifest:
    """Write the learning curves, and name them in the manifest."""
    file = writer.new_file(LEARNING_CURVES)
    write_learning_curves(file, manifest)
    return manifest.model_copy(update={"learning_curves": writer.record(file)})


def count_parameters(network: Network) -> int:
    """Trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
