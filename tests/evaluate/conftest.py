from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node

from components.evaluate.evaluate import EvaluateResult, evaluate
from components.shared.artifacts.dataset import DATASET, DatasetManifest, SplitName
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.model import EpochRecord, ModelManifest, Provenance, Selection
from components.shared.artifacts.names import ImageName
from components.shared.files import sha256_of
from components.shared.params.params import Params
from tests.onnx_models import metadata_of, onnx_model, write_onnx_directory

CLASSES = ["cat", "dog", "eel"]
RAW_PARAMS: dict[str, Any] = {
    "batch_size": 8,
    "image_height": 8,
    "image_width": 8,
    "is_image_color": False,
    "net_arch": [
        {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 4, "kernel_size": 3}},
        {"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": 4}},
        {"class": "torch.nn.ReLU"},
    ],
    "n_classes": 3,
    "num_epochs": 3,
    "device": "cpu",
}


def params_of(**changes: Any) -> Params:
    return Params.from_dict({**RAW_PARAMS, **changes})


def write_dataset(
    path: Path,
    *,
    classes: list[str] | None = None,
    shape: tuple[int, int, int] = (8, 8, 1),
    splits: tuple[SplitName, ...] = ("train", "test"),
    count: int = 50,
    seed: int = 0,
    named: bool = True,
    **rendered: Any,
) -> DatasetManifest:
    names = CLASSES if classes is None else classes
    random = np.random.default_rng(seed)
    with DatasetWriter(path, names, shape) as writer:
        for split in splits:
            images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
            files = [ImageName.of(f"{split}/=1+{index}.png", 640, 480 + index) for index in range(count)]
            writer.add(split, images, random.integers(0, len(names), count), files if named else None)
        return writer.commit(source="noise", test_split="given", manual_seed=seed, unreadable=[], **rendered)


def linear_model(
    classes: Sequence[str],
    shape: tuple[int, int, int],
    seed: int,
    *,
    nan: bool = False,
    stored: tuple[int, int, int] | None = None,
    **more: str,
) -> bytes:
    """A model.onnx that is linear in the pixels; or one that gives values that are not finite; with more metadata."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(len(classes), math.prod(shape))).astype(np.float32) / 4
    offsets = np.full(len(classes), np.nan if nan else 0, dtype=np.float32)
    nodes = [
        make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        make_node("Mul", ["floats", "scale"], ["scaled"]),
        make_node("Flatten", ["scaled"], ["flat"]),
        make_node("Gemm", ["flat", "weights", "offsets"], ["logits"], transB=1),
        make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    initialisers = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(offsets, "offsets")]
    return bytes(
        onnx_model(
            classes,
            shape,
            nodes=nodes,
            initialisers=initialisers,
            metadata=metadata_of(classes, shape, stored=stored, more=more),
        ).SerializeToString(deterministic=True)
    )


def write_model(
    path: Path,
    params: Params,
    *,
    dataset: Path | None = None,
    classes: list[str] | None = None,
    seed: int = 1,
    nan: bool = False,
    **changes: Any,
) -> ModelManifest:
    names = CLASSES if classes is None else classes
    fields: dict[str, Any] = {
        "selection": Selection(epoch=2, split="test", loss=0.9, accuracy=0.5),
        "history": [
            EpochRecord(
                epoch=epoch,
                learning_rate=0.001,
                train_loss=1 / epoch,
                train_accuracy=1 - 0.5 / epoch,
                loss=None if epoch == 1 else 1.2 / epoch,
                accuracy=None if epoch == 1 else 1 - 0.6 / epoch,
            )
            for epoch in (1, 2, 3)
        ],
        "provenance": Provenance(
            params=params.to_dict(),
            params_sha256=params.digest(),
            dataset_sha256=sha256_of(dataset / DATASET.manifest_file) if dataset else "0" * 64,
            device="cpu (2 threads)",
            versions={"torch": "2"},
            seconds=1.5,
            images_per_second=100.0,
        ),
    }
    shape = params.image_shape
    stored = params.stored_shape if params.stored_shape != shape else None
    rendered: dict[str, Any] = {"image_fit": params.image_fit, "image_interpolation": params.image_interpolation}
    more = {**rendered, "alpha_background": json.dumps(params.background)}
    content = linear_model(names, shape, seed, nan=nan, stored=stored, **more)
    fields |= {"classes": names, "shape": shape, "stored": stored, **rendered}
    return write_onnx_directory(path, content, **fields | changes).manifest


@dataclass(frozen=True)
class Parts:
    model: Path
    dataset: Path
    evaluation: Path
    params: Params

    def arguments(self, **changes: Any) -> dict[str, Any]:
        given = {"model": self.model, "dataset": self.dataset, "evaluation": self.evaluation, "params": self.params}
        return {**given, **changes}

    def command(self, *more: str) -> list[str]:
        places = {"--model": self.model, "--dataset": self.dataset, "--evaluation": self.evaluation}
        return [
            *(text for option, path in places.items() for text in (option, str(path))),
            "--params",
            self.params.to_json(),
            *more,
        ]


def parts_in(folder: Path, **changes: Any) -> Parts:
    params = params_of(**changes)
    write_dataset(
        folder / "dataset",
        shape=params.stored_shape,
        image_fit=params.image_fit,
        image_interpolation=params.image_interpolation,
    )
    write_model(folder / "model", params, dataset=folder / "dataset")
    return Parts(folder / "model", folder / "dataset", folder / "evaluation", params)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, EvaluateResult]:
    """A model, a dataset and their evaluation, to be read alone."""
    parts = parts_in(tmp_path_factory.mktemp("evaluated"))
    return parts, evaluate(**parts.arguments())


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return parts_in(tmp_path)
