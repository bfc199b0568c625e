"""The model directory: weights, export and manifest of a finished training."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from components.classifier.backbones import has_backbone
from components.classifier.device import describe_device
from components.classifier.export import export_for_serving
from components.classifier.network import network_of
from components.classifier.program import write_program
from components.shared.artifacts.artifact import ArtifactWriter, FileRecord
from components.shared.artifacts.model import LEARNING_CURVES, ModelManifest, Provenance, Selection, Speed
from components.shared.files import writing
from components.shared.html.page import write_page
from components.shared.version import __version__
from components.train.curves import render_learning_curves
from components.train.start import TrainingInputs, count_parameters
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
    writer: ArtifactWriter, trainer: Trainer, inputs: TrainingInputs, log: logging.Logger
) -> WrittenFiles:
    """Write what a training has made, all but the manifest."""

    def written(name: str, state: Mapping[str, Tensor]) -> FileRecord:
        file = writer.new_file(name)
        # Not save_file: its file has the mode 0600, and a kill leaves one of a name that nobody knows.
        with writing(file) as output:
            output.write(save(dict(state)))
        return writer.record(file)

    # On the CPU in torch's usual memory order, so that equal weights are equal files.
    best, last = (
        {name: value.detach().cpu().contiguous() for name, value in state.items()}
        for state in (trainer.best.weights, trainer.evaluated_network.state_dict())
    )
    weights, last_weights = written("model.safetensors", best), written("last.safetensors", last)
    image = inputs.data.manifest.image
    network = network_of(trainer.params)
    network.load_state_dict(best)
    exported = writer.new_file("model.pt2")
    reason = export_for_serving(network, image, inputs.normalisation, exported)
    if reason:
        log.warning("this network has no serving export: %s", reason)
    program = None
    if has_backbone(trainer.params.net_arch):
        file = writer.new_file("network.pt2")
        if why := write_program(network, image, file):
            log.warning("evaluating this model needs torchvision: its network has no program: %s", why)
        else:
            program = writer.record(file)
    return WrittenFiles(weights, last_weights, None if reason else writer.record(exported), program)


def selection_of(trainer: Trainer, inputs: TrainingInputs) -> Selection:
    """Which epoch's weights the model has."""
    best = trainer.best
    return Selection(epoch=best.epoch, split=inputs.data.selection_split, loss=best.loss, accuracy=best.accuracy)


def manifest_for(trainer: Trainer, inputs: TrainingInputs, files: WrittenFiles, speed: Speed) -> ModelManifest:
    """The manifest of what was written."""
    params, data = trainer.params, inputs.data.manifest
    return ModelManifest(
        created_by=f"shutterline {__version__}",
        classes=data.classes,
        image=data.image,
        normalisation=inputs.normalisation,
        net_arch=[layer.model_dump(by_alias=True) for layer in params.net_arch],
        parameters=count_parameters(trainer.network),
        weights=files.weights,
        last_weights=files.last_weights,
        export=files.export,
        program=files.program,
        selection=selection_of(trainer, inputs),
        history=trainer.history,
        provenance=Provenance(
            params=params.to_dict(),
            params_sha256=params.digest(),
            dataset_sha256=inputs.dataset_sha256,
            device=describe_device(trainer.device),
            versions={"shutterline": __version__, "python": platform.python_version(), "torch": torch.__version__},
            seconds=sum(trainer.timing.seconds.values()),
            images_per_second=trainer.images_per_second,
            speed=speed,
            started_from=trainer.started_from,
        ),
    )


def with_learning_curves(writer: ArtifactWriter, manifest: ModelManifest) -> ModelManifest:
    """Write the learning curves, and name them in the manifest."""
    file = writer.new_file(LEARNING_CURVES)
    write_page(file, render_learning_curves(manifest))
    return manifest.model_copy(update={"learning_curves": writer.record(file)})
