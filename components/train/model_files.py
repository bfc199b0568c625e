"""The model directory: weights, export, learning curves and manifest of a finished training."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from components.classifier.building import has_backbone
from components.classifier.device import describe_device
from components.classifier.export import export_for_serving
from components.classifier.network import network_of
from components.classifier.onnx_export import export_onnx, onnx_bytes
from components.classifier.program import write_program
from components.shared.artifacts.artifact import ArtifactWriter, FileRecord
from components.shared.artifacts.model import LEARNING_CURVES, ONNX_FILE, ModelManifest, Provenance, Selection, Speed
from components.shared.files import writing
from components.shared.html.page import write_page
from components.shared.version import __version__
from components.train.curves import render_learning_curves
from components.train.start import TrainingInputs, count_parameters
from components.train.trainer import Trainer


def write_weights(
    writer: ArtifactWriter, trainer: Trainer, inputs: TrainingInputs, log: logging.Logger
) -> dict[str, FileRecord | None]:
    """Write what a training has made but the manifest; returns the files by the manifest's names for them.

    The weights are of the best evaluated epoch, the last weights of the end. The export is for serving, where the
    network has one; the program is its graph, where building it needs torchvision.
    """

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
    weights = written("model.safetensors", best)
    files: dict[str, FileRecord | None] = {
        "weights": weights,
        "last_weights": written("last.safetensors", last),
        "export": None,
    }
    image, network = inputs.data.manifest.image, network_of(trainer.params)
    network.load_state_dict(best)
    exported = export_onnx(network, image, inputs.normalisation)
    file = writer.new_file(ONNX_FILE)
    with writing(file) as output:
        output.write(onnx_bytes(exported, inputs.data.manifest.classes, image, weights.sha256))
    files["onnx"] = writer.record(file)
    file = writer.new_file("model.pt2")
    if reason := export_for_serving(network, image, inputs.normalisation, file):
        log.warning("this network has no serving export: %s", reason)
    else:
        files["export"] = writer.record(file)
    if has_backbone(trainer.params.net_arch):
        file = writer.new_file("network.pt2")
        if reason := write_program(network, image, file):
            log.warning("evaluating this model needs torchvision: its network has no program: %s", reason)
        else:
            files["program"] = writer.record(file)
    return files


def selection_of(trainer: Trainer, inputs: TrainingInputs) -> Selection:
    """Which epoch's weights the model has."""
    best = trainer.best
    return Selection(epoch=best.epoch, split=inputs.data.selection_split, loss=best.loss, accuracy=best.accuracy)


def commit_model(
    writer: ArtifactWriter,
    trainer: Trainer,
    inputs: TrainingInputs,
    files: Mapping[str, FileRecord | None],
    speed: Speed,
) -> None:
    """Write the learning curves and, last, the manifest."""
    params, data = trainer.params, inputs.data.manifest
    manifest = ModelManifest(
        created_by=f"shutterline {__version__}",
        classes=data.classes,
        image=data.image,
        normalisation=inputs.normalisation,
        net_arch=[layer.model_dump(by_alias=True) for layer in params.net_arch],
        parameters=count_parameters(trainer.network),
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
        **files,
    )
    file = writer.new_file(LEARNING_CURVES)
    write_page(file, render_learning_curves(manifest))
    writer.commit(manifest.model_copy(update={"learning_curves": writer.record(file)}))
