"""Recipes train: a ResNet-18 from random and from earlier weights, and a small network on small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models

from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.model import open_model
from components.shared.params.params import Params
from components.train.train import train
from tests.examples import SMALL

STORED = 73  # for a model of 64: by an eighth more
# Of the shape of those in test_fine_tuning.py: one export is enough.
RESNET: dict[str, Any] = {
    "image_height": 64,
    "image_width": 64,
    "is_image_color": True,
    "n_classes": 3,
    "num_epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "net_arch": [{"class": "torchvision.models.resnet18"}],
}


def photographs(path: Path) -> Path:
    random = np.random.default_rng(0)
    with DatasetWriter(path, ["dark", "dim", "bright"], (STORED, STORED, 3)) as writer:
        for split in ("train", "test"):
            labels = np.arange(16) % 3
            images = random.integers(0, 128, (16, STORED, STORED, 3), dtype=np.uint8)
            writer.add(split, images + (60 * labels.astype(np.uint8))[:, None, None, None], labels)
        writer.commit(source="noise", test_split="given", manual_seed=0, unreadable=[])
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "groups"),
    [
        ("imagenet", "SGD: weights: 11,168,448 values, rate 0.00390625, weight decay 2e-05; biases and norms: "),
        ("finetune", "AdamW: head, weights: 1,536 values, rate 0.003, weight decay 0.05; head, biases and norms: 3 "),
    ],
)
def test_a_recipe_trains_a_backbone(recipe: str, groups: str, tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    weights = str(tmp_path / "resnet18.pth") if recipe == "finetune" else None
    params = Params.from_dict({**RESNET, "recipe": recipe, "initial_weights": weights})

    train(dataset=photographs(tmp_path / "data"), model=tmp_path / "model", params=params)

    assert any(message.startswith(f"recipe {recipe}: ") for message in heard.messages)
    assert any(message.startswith(groups) for message in heard.messages)
    manifest = open_model(tmp_path / "model").manifest
    assert Params.from_dict(manifest.provenance.params) == params
    (record,) = manifest.history
    assert record.highest_learning_rate == pytest.approx(params.learning_rate / 2)  # the second of two steps


def test_a_recipe_learns_small_images(dataset: Path, tmp_path: Path) -> None:
    given = {key: SMALL[key] for key in ("image_height", "image_width", "n_classes", "net_arch", "device")}
    params = Params.from_dict({**given, "recipe": "scratch-small", "num_epochs": 8, "batch_size": 16})

    train(dataset=dataset, model=tmp_path / "model", params=params)

    first, *_, last = open_model(tmp_path / "model").manifest.history
    assert last.accuracy is not None
    assert first.accuracy is not None
    assert last.accuracy > max(0.6, first.accuracy)
    assert (last.lowest_learning_rate or 1) < 1e-3 * params.learning_rate
