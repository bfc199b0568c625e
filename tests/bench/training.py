"""Batches and training steps against the usual ways to make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from components.classifier.device import make_repeatable
from components.classifier.images import LabelledImages, Normaliser, ResidentImages
from components.classifier.network import network_of
from components.shared.artifacts.artifact import Normalisation
from components.shared.params.params import Params
from components.train.trainer import Trainer
from pipelines.params_files import EXAMPLES
from tests.bench.measure import Ratio, compare, seconds
from tests.examples import digits

COUNT = 4096
# Ours are so much shorter that one epoch of them is too short to time.
EPOCHS = 20
MEAN, STD = 0.5, 0.25
CPU = torch.device("cpu")


def reference(**changes: object) -> Params:
    """The reference example, normalised, on the CPU."""
    raw = json.loads((EXAMPLES / "reference.json").read_text())
    return Params.from_dict(raw | {"device": "cpu", "mode": "script", "normalise_images": True} | changes)


def images_28() -> tuple[Tensor, Tensor]:
    """The example's digits enlarged to 28×28, repeated to 4,096: uint8 (images, 28, 28, 1), and labels."""
    stored, labels = digits()
    large = np.stack([np.asarray(Image.fromarray(image[..., 0]).resize((28, 28))) for image in stored])
    index = np.arange(COUNT) % len(large)
    return torch.from_numpy(large[index][..., None].copy()), torch.from_numpy(labels[index])


def trainer_on(images: Tensor, labels: Tensor, params: Params) -> Trainer:
    """A trainer with the images on the device."""
    make_repeatable(params.manual_seed)
    network = network_of(params).to(memory_format=torch.channels_last)
    split = LabelledImages(ResidentImages(images), labels)
    normalise = Normaliser(Normalisation(mean=[MEAN], std=[STD]), CPU)
    return Trainer(network, split, split, params, normalise, CPU)


class PngFolder(Dataset[tuple[Tensor, int]]):
    """A map-style dataset over PNG files with per-image transforms, as tutorials build it."""

    def __init__(self, files: list[Path], labels: list[int], flip_probability: float) -> None:
        self.files = files
        self.labels = labels
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomHorizontalFlip(flip_probability),
                v2.RandomVerticalFlip(flip_probability),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([MEAN], [STD]),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as image:
            return self.transform(image), self.labels[index]


def batch_rates(folder: Path) -> Iterator[Ratio]:
    """(a) Batches per second, ours against Dataset + DataLoader on PNG files of the same images."""
    images, labels = images_28()
    files = []
    for number, image in enumerate(images.numpy()):
        files.append(folder / f"{number:05d}.png")
        Image.fromarray(image[..., 0]).save(files[-1])
    params = reference()
    trainer = trainer_on(images, labels, params)
    batches = len(trainer.slices)

    def ours() -> float:
        def epochs() -> None:
            for _ in range(EPOCHS):
                order = trainer.epoch_order()
                for images in trainer.training.images.batches(order, trainer.slices):
                    trainer.training_step.prepare(images, len(images))

        return EPOCHS * batches / seconds(epochs)

    def theirs(workers: int) -> Callable[[], float]:
        data = PngFolder(files, labels.tolist(), params.flip_probability)
        loader = DataLoader(
            data, params.images_per_batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        return lambda: batches / seconds(lambda: [None for _ in loader])

    for workers in (0, 2):
        name = f"(a) batches of 512, 28×28: train path / DataLoader, {workers} workers"
        yield compare(name, ours, theirs(workers), unit="batches/s", bound="at least 50", rounds=3)
