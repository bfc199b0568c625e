"""Accepted transforms, trained with: on whatever scale they work, the held-out accuracy is the same within noise."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from components.classifier.device import make_repeatable
from components.classifier.images import LabelledImages, Normaliser, store_images
from components.classifier.network import network_of
from components.classifier.rehearsal import rehearse_transforms
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.errors import ParamsError
from components.shared.params.allowed_classes import TRANSFORMS
from components.shared.params.types import TransformSpec
from components.train.train import train
from components.train.trainer import Trainer
from tests.classifier.test_rehearsal import ARGUMENTS, SCALED, UNSCALED
from tests.configs import Entry, layer, transform
from tests.examples import digits, small

TRAINED, HELD_OUT = 400, 600
NOISE = 0.1
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    images, labels = digits()
    tints = np.stack([100 + 155 * (labels % 2), 90 + 165 * (labels % 3 == 0), np.full_like(labels, 140)], axis=1)
    coloured = (images * (tints.reshape(-1, 1, 1, 3) / 255)).astype(np.uint8)
    paths = {}
    for channels, stored in ((1, images), (3, coloured)):
        paths[channels] = tmp_path_factory.mktemp("trained") / "dataset"
        with DatasetWriter(paths[channels], [str(digit) for digit in range(10)], (8, 8, channels)) as writer:
            writer.add("train", stored[:TRAINED], labels[:TRAINED])
            writer.add("test", stored[-HELD_OUT:], labels[-HELD_OUT:])
            writer.commit(source="IDX files", test_split="held out", manual_seed=0, unreadable=[])
    return paths


def accuracy(dataset: Path, channels: int, *entries: Entry) -> float:
    params = small(
        is_image_color=channels == 3,
        num_epochs=4,
        eval_freq=4,
        batch_size=16,
        net_arch=[
            layer("Conv2d", in_channels=channels, out_channels=16, kernel_size=3, padding=1),
            layer("BatchNorm2d", num_features=16),
            layer("ReLU"),
            layer("MaxPool2d", kernel_size=2),
        ],
        additional_transforms=list(entries) or None,
    )
    make_repeatable(params.manual_seed)
    data = open_dataset(dataset)
    training, held_out = (
        LabelledImages(store_images(data.splits[name], CPU).store, torch.tensor(data.splits[name].labels))
        for name in ("train", "test")
    )
    trainer = Trainer(network_of(params), training, held_out, params, Normaliser(data.manifest.normalisation, CPU), CPU)
    while not trainer.is_finished:
        trainer.train_epoch(lambda: None)
        trainer.end_epoch()
    return trainer.history[-1].accuracy or 0.0


@pytest.fixture(scope="module")
def unaltered(datasets: dict[int, Path]) -> float:
    """The accuracy by grey images as they are."""
    return accuracy(datasets[1], 1)


def is_accepted(channels: int, *entries: Entry) -> bool:
    try:
        rehearse_transforms([TransformSpec.model_validate(entry) for entry in entries], (8, 8, channels))
    except ParamsError:
        return False
    return True


# In one channel, those that go over colors where there are any: elsewhere the channels do not matter.
GREY = ("ColorJitter", "RandAugment", "RandomEqualize", "RandomPhotometricDistort", "TrivialAugmentWide")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels"),
    [*((name, 3) for name in sorted(TRANSFORMS.allowed) if ARGUMENTS[name][0]), *((name, 1) for name in GREY)],
)
def test_an_accepted_transform_trains_the_same_on_either_scale(
    datasets: dict[int, Path], name: str, channels: int
) -> None:
    entry = transform(name, **ARGUMENTS[name][0][0])
    of_bytes = accuracy(datasets[channels], channels, entry)
    assert of_bytes > 0.6
    if is_accepted(channels, SCALED, entry):
        assert abs(accuracy(datasets[channels], channels, SCALED, entry) - of_bytes) < NOISE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entries", "highest"),
    [
        ([UNSCALED], 0.4),
        ([SCALED, transform("ToDtype", dtype="uint8")], 0.4),
        ([transform("RandomHorizontalFlip", p=1)], 0.6),
        ([transform("RandomInvert", p=1)], 0.4),
        ([transform("GaussianNoise", clip=False)], 0.75),
        ([SCALED, transform("RandomRotation", degrees=20, fill=255)], 0.4),
        ([transform("GaussianNoise", sigma=10)], 0.4),
        ([transform("Resize", size=[12, 12]), transform("CenterCrop", size=8)], 0.7),
    ],
)
def test_what_is_refused_would_cost_accuracy(
    datasets: dict[int, Path], unaltered: float, entries: list[Entry], highest: float
) -> None:
    assert unaltered > 0.85
    assert accuracy(datasets[1], 1, *entries) < highest
    assert not is_accepted(1, *entries)


def test_training_warns_of_what_has_no_effect(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("shutterline"), "propagate", True)
    entries = [transform("RandomGrayscale"), transform("RandomErasing")]
    train(dataset=dataset, model=tmp_path / "model", params=small(num_epochs=1, additional_transforms=entries))
    expected = "additional_transforms[0]: torchvision.transforms.v2.RandomGrayscale has no effect"
    assert {record.levelname for record in caplog.records if expected in record.getMessage()} == {"WARNING"}
