from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from components.classifier.network import Network, network_of
from components.evaluate.evaluate import EvaluateResult, evaluate
from components.shared.artifacts.artifact import ArtifactWriter, ImageShape, Normalisation
from components.shared.artifacts.dataset import DATASET, DatasetManifest, DatasetWriter, SplitName
from components.shared.artifacts.model import MODEL, EpochRecord, ModelManifest, Provenance, Selection
from components.shared.files import sha256_of
from components.shared.params.params import Params

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
) -> DatasetManifest:
    names = CLASSES if classes is None else classes
    random = np.random.default_rng(seed)
    with DatasetWriter(path, names, shape) as writer:
        for split in splits:
            images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
            writer.add(split, images, random.integers(0, len(names), count))
        return writer.commit(source="noise", test_split="given", manual_seed=seed, unreadable=[])


def network_with(params: Params, seed: int) -> Network:
    torch.manual_seed(seed)
    network = network_of(params)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that differ from those of any batch
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return network


def write_model(
    path: Path,
    params: Params,
    *,
    dataset: Path | None = None,
    classes: list[str] | None = None,
    selected: Network | None = None,
    last: Network | None = None,
    **changes: Any,
) -> ModelManifest:
    networks = {
        "model.safetensors": selected or network_with(params, 1),
        "last.safetensors": last or network_with(params, 2),
    }
    height, width, _ = params.image_shape
    with ArtifactWriter(path, MODEL) as writer:
        records = {}
        for name, network in networks.items():
            file = writer.new_file(name)
            save_file(network.state_dict(), file)
            records[name] = writer.record(file)
        fields: dict[str, Any] = {
            "created_by": "tests",
            "classes": CLASSES if classes is None else classes,
            "image": ImageShape(height=height, width=width, channels=3 if params.is_image_color else 1),
            "normalisation": Normalisation(mean=[0.5] * params.channels, std=[0.25] * params.channels),
            "net_arch": [layer.model_dump(by_alias=True) for layer in params.net_arch],
            "parameters": 1,
            "weights": records["model.safetensors"],
            "last_weights": records["last.safetensors"],
            "export": None,
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
        manifest = ModelManifest(**{**fields, **changes})
        writer.commit(manifest)
        return manifest


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


def parts_in(folder: Path) -> Parts:
    params = params_of()
    write_dataset(folder / "dataset")
    write_model(folder / "model", params, dataset=folder / "dataset")
    return Parts(folder / "model", folder / "dataset", folder / "evaluation", params)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Parts, EvaluateResult]]:
    """A model, a dataset and their evaluation, to be read alone."""
    parts = parts_in(tmp_path_factory.mktemp("evaluated"))
    yield parts, evaluate(**parts.arguments())
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    yield parts_in(tmp_path)
    torch.use_deterministic_algorithms(False)
