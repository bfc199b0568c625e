"""The model directory: weights, ONNX, learning curves and manifest of a finished training."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from components.classifier.device import describe_device
from components.classifier.onnx_file import onnx_bytes
from components.shared.artifacts.artifact import ArtifactWriter, FileRecord
from components.shared.artifacts.model import LEARNING_CURVES, ONNX_FILE, ModelManifest, Provenance, Selection, Speed
from components.shared.files import writing
from components.shared.html.page import write_page
from components.shared.version import __version__
from components.train.curves import render_learning_curves
from components.train.graph_export import GraphExport
from components.train.onnx_check import require_same_predictions
from components.train.start import TrainingInputs, count_parameters
from components.train.trainer import Trainer


def write_weights(
    writer: ArtifactWriter,
    trainer: Trainer,
    inputs: TrainingInputs,
    graph: GraphExport,
    poll: Callable[[], None],
    log: logging.Logger,
) -> dict[str, FileRecord]:
    """Write the weights of the best evaluated epoch, plain and as ONNX; returns the files by the manifest's names.

    `poll` is called between pieces of work, and may end it.

    Raises:
        ShutterlineError: The ONNX file does not give what the network gives.
    """
    # On the CPU in torch's usual memory order, so that equal weights are equal files.
    best = {name: value.detach().cpu().contiguous() for name, value in trainer.best.weights.items()}
    data, (image, stored_image) = inputs.data.manifest, inputs.image_shapes

    def written(name: str, content: bytes) -> Path:
        file = writer.new_file(name)
        # Not save_file: its file has the mode 0600, and a kill leaves one of a name that nobody knows.
        with writing(file) as output:
            output.write(content)
        return file

    weights = writer.record(written("model.safetensors", save(best)))

    def written_onnx() -> Path:
        content = onnx_bytes(
            graph.wait(poll),
            best,
            inputs.normalisation,
            classes=data.classes,
            image=image,
            weights_sha256=weights.sha256,
            stored_image=stored_image,
            image_fit=data.image_fit,
            image_interpolation=data.image_interpolation,
            alpha_background=inputs.params.background,
        )
        file = written(ONNX_FILE, content)
        require_same_predictions(file, trainer, poll, log)
        return file

    try:
        file = written_onnx()
    except Exception as error:  # whatever a file that is no graph of this network leads to
        if isinstance(error, OSError) or not graph.again(error):  # a full disk is no fault of the graph
            raise
        file = written_onnx()
    return {"weights": weights, "onnx": writer.record(file)}


def selection_of(trainer: Trainer, inputs: TrainingInputs) -> Selection:
    """Which epoch's weights the model has."""
    best = trainer.best
    return Selection(epoch=best.epoch, split=inputs.data.selection_split, loss=best.loss, accuracy=best.accuracy)


def commit_model(
    writer: ArtifactWriter,
    trainer: Trainer,
    inputs: TrainingInputs,
    files: Mapping[str, FileRecord],
    speed: Speed,
) -> None:
    """Write the learning curves and, last, the manifest."""
    params, data, (image, stored_image) = trainer.params, inputs.data.manifest, inputs.image_shapes
    manifest = ModelManifest(
        created_by=f"shutterline {__version__}",
        classes=data.classes,
        image=image,
        stored_image=stored_image,
        image_fit=data.image_fit,
        image_interpolation=data.image_interpolation,
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
