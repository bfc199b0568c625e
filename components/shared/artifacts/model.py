"""The model directory: weights, what rebuilds the network around them, and where they came from.

Layout::

    model.json           the manifest, written last
    model.safetensors    the weights of the best evaluated epoch: what the model is
    model.onnx           the model to run anywhere: uint8 NHWC images in, class probabilities out
    learning-curves.html loss, accuracy, learning rate and throughput of every epoch for people, one file
    tensorboard/…        training curves; not part of the contract
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from components.shared.artifacts.artifact import (
    ArtifactKind,
    ClassNames,
    FileRecord,
    ImageShape,
    Manifest,
    Normalisation,
    Record,
    open_artifact,
)
from components.shared.cropping import can_hold
from components.shared.errors import ArtifactError
from components.shared.params.types import ColorOfBackground, Fit, Interpolation, background_of
from components.shared.text import first_line

ONNX_FILE = "model.onnx"
# A protobuf message, which the whole file is, can have no more.
MAX_ONNX_BYTES = 2**31 - 1
LEARNING_CURVES = "learning-curves.html"
# Keys of manifests of 0.8 and earlier: last.safetensors, model.pt2 and network.pt2.
_EARLIER_FILES = ("last_weights", "export", "program")
# What training's wall time goes to, in the order of a step.
TIME_SHARES = (
    *("data", "forward_backward", "optimiser", "captured_step", "compiling"),
    *("evaluation", "checkpoints", "status", "other"),
)


class Selection(Record):
    """How the model's weights were chosen among the evaluated epochs."""

    epoch: int = Field(ge=1)
    split: Literal["validation", "test"]
    loss: float
    accuracy: float


class EpochRecord(Record):
    """One epoch as training saw it; evaluation figures are None in epochs that were not evaluated."""

    epoch: int = Field(ge=1)
    learning_rate: float = Field(description="At the epoch's first step.")
    lowest_learning_rate: float | None = Field(default=None, description="Of the epoch's steps; None: not recorded.")
    highest_learning_rate: float | None = Field(default=None, description="Of the epoch's steps; None: not recorded.")
    train_loss: float
    train_accuracy: float
    loss: float | None = None
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    images_per_second: float | None = Field(
        default=None, description="Training images a second in this epoch, evaluation not counted; None: not measured."
    )


class Speed(Record):
    """How fast training was, and how near to its bound: its own step, fed one batch that is on the device.

    The bound is measured after training, in rounds by turns with training's own steps; a part is the median of the
    rounds' ratios. Figures are None where they were not measured or could not be. Versions up to 0.8 wrote more.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    samples_per_second: float = Field(description="Training images a second, evaluation not counted.")
    constant_tensor_samples_per_second: float | None = Field(
        default=None,
        description="Images a second of the same step fed one random batch that is on the device: what remains if data "
        "costs nothing. Up to version 0.6 a batch of training images.",
    )
    of_constant_tensor: float | None = Field(
        default=None, description="Rate of training's own steps as a part of that, measured by turns; 1 is the bound."
    )
    of_constant_tensor_range: list[float] | None = Field(
        default=None, description="Lowest and highest of the rounds' ratios."
    )
    rounds: int = Field(default=0, ge=0, description="Rounds that were measured; 0: none, or once, up to version 0.6.")
    why_not: dict[str, str] = Field(default={}, description="Why `of_constant_tensor` is None, by that name.")
    precision: str = Field(description="Of the network's arithmetic: fp32, tf32 or bf16.")
    compiled: bool = Field(description="Whether torch.compile made the step.")
    captured: bool = Field(default=False, description="Whether steps were replayed from a CUDA graph.")
    data: str = Field(description='Where images were kept: "resident" on the device, "mapped" from the host\'s disk.')
    shares: dict[str, float] = Field(description="Parts of the wall time by `TIME_SHARES`; their sum is 1.")
    processes: int = Field(ge=1, description="Processes that trained together; rates are those of all of them.")


class StartedFrom(Record):
    """The weights that training started from."""

    name: str = Field(description="Last part of the place that initial_weights names.")
    sha256: str = Field(description="Of the file the weights were read from.")
    tensors: int = Field(ge=1, description="Weights and buffers taken over, the classifying layer's included.")
    initialised: int = Field(ge=0, description="Weights and buffers that stayed as they were initialised.")
    classifier: bool = Field(description="Whether the classifying layer was taken over.")
    key: str = Field("", description="Where in the file they were, such as state_dict; empty: the file itself.")
    prefix: str = Field("", description="What was before each of their names, such as module.")
    by_position: bool = Field(False, description="Whether weights were matched by their order, having other names.")
    unused: list[str] = Field(default_factory=list, description="What else the file holds.")


class Provenance(Record):
    """Where a model came from: everything needed to make it again."""

    params: dict[str, Any]
    params_sha256: str
    dataset_sha256: str = Field(description="Of the dataset's manifest, and so of every file of the dataset.")
    device: str
    versions: dict[str, str]
    seconds: float = Field(description="Wall time of the training loop.")
    images_per_second: float
    speed: Speed | None = Field(default=None, description="None: not measured.")
    started_from: StartedFrom | None = Field(None, description="None: from random weights by manual_seed.")


class ModelManifest(Manifest):
    """``model.json``."""

    kind: Literal["shutterline.model"] = "shutterline.model"
    classes: ClassNames
    image: ImageShape = Field(description="What the network takes.")
    stored_image: ImageShape | None = Field(
        None, description="What images are resized to, and the middle taken of; None: as `image`, taken whole."
    )
    image_fit: Fit = Field("stretch", description="How images of other proportions became `image`, or `stored_image`.")
    image_interpolation: Interpolation = Field("bilinear", description="How images were resized.")
    normalisation: Normalisation | None
    net_arch: list[dict[str, Any]] = Field(description="The feature layers; Flatten and Linear follow them.")
    parameters: int = Field(ge=1, description="Number of trainable parameters.")
    weights: FileRecord
    onnx: FileRecord | None = Field(None, description="model.onnx, what evaluation runs; None: of 0.8 or earlier.")
    learning_curves: FileRecord | None = Field(
        default=None, description="The learning curves as HTML; None in models of versions that wrote none."
    )
    earlier_files: list[FileRecord] = Field(
        default=[], exclude=True, description="What 0.8 and earlier wrote besides; it is only ever removed."
    )
    selection: Selection
    history: list[EpochRecord]
    provenance: Provenance

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, document: Any) -> Any:
        if isinstance(document, dict) and not document.keys().isdisjoint(_EARLIER_FILES):
            files = [document[name] for name in _EARLIER_FILES if document.get(name) is not None]
            document = {name: value for name, value in document.items() if name not in _EARLIER_FILES}
            document["earlier_files"] = files
        return document

    @model_validator(mode="after")
    def _follows(self) -> Self:
        epochs = [record.epoch for record in self.history]
        if any(later <= epoch for epoch, later in pairwise(epochs)):
            raise ValueError("the epochs of its history do not follow each other")
        if not can_hold(self.resized.as_tuple(), self.image.as_tuple()):
            raise ValueError("its stored_image is smaller than its image, or of other channels")
        return self

    @property
    def resized(self) -> ImageShape:
        """What images are resized to before the network takes their middle, or all of them."""
        return self.stored_image or self.image

    def background(self, where: object) -> tuple[int, int, int]:
        """What data prep composited transparent parts on; white for models of versions that had no choice.

        ArtifactError: the params of the model, which is at `where`, have no such color.
        """
        color = self.provenance.params.get("alpha_background", "white")
        try:
            return background_of(TypeAdapter(ColorOfBackground).validate_python(color))
        except ValidationError as error:
            message = f"{where}: provenance.params.alpha_background: {first_line(error)}; the file is damaged"
            raise ArtifactError(message) from error


MODEL = ArtifactKind("model", "model.json", ModelManifest)


@dataclass(frozen=True)
class Model:
    """An opened model directory; its model.onnx is run by ``components.shared.inference``."""

    path: Path
    manifest: ModelManifest


def onnx_file(manifest: ModelManifest) -> Iterable[FileRecord]:
    """What evaluation and prediction read; nothing of a model of 0.8 or earlier."""
    return () if manifest.onnx is None else (manifest.onnx,)


def onnx_of(manifest: ModelManifest, where: object) -> FileRecord:
    """The model.onnx of the model at `where`; ArtifactError: it has none."""
    if manifest.onnx is None:
        raise ArtifactError(
            f"{where}: has no {ONNX_FILE}, being of version 0.8 or earlier; train it again, or start a training "
            "from it by initial_weights"
        )
    return manifest.onnx


def starting_weights(manifest: ModelManifest) -> Iterable[FileRecord]:
    """What another training reads to start from."""
    return (manifest.weights,)


def model_directory(path: Path) -> Path:
    """The model directory that a path names: itself, or the one in the directory of a run."""
    inner = path / MODEL.name
    is_run = not (path / MODEL.manifest_file).exists() and (inner / MODEL.manifest_file).exists()
    return inner if is_run else path


def open_model(path: Path, chosen: Callable[..., Iterable[FileRecord]] = Manifest.files) -> Model:
    """Open the directory of a model or a run, every chosen file checked; ArtifactError: no complete one, or damaged."""
    return Model(*open_artifact(model_directory(path), MODEL, chosen))
