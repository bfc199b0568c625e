"""What is trained in the benchmarks of whole training loops: a data set, a network, a device, a precision."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.optim import Optimizer

from components.classifier.network import network_of
from components.classifier.optimisers import build_optimiser
from components.shared.artifacts.dataset import Images, Labels
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.params.params import Params
from pipelines.params_files import EXAMPLES
from tests.examples import digits

Precision = Literal["fp32", "tf32", "bf16"]

BATCH = 512
# Every loop has to evaluate once; that is not timed, and few images keep it short.
TEST_IMAGES = 512
MEAN, STD = 0.5, 0.25
# Pixels below this are drawn at random, so that no two images are equal.
NOISE = 32
_CHUNK = 1024


@dataclass(frozen=True)
class Task:
    """One training task; every contender trains exactly this: uint8 images, also as a dataset directory."""

    name: str
    images: Images
    labels: Labels
    dataset: Path
    options: dict[str, Any]
    device: torch.device
    precision: Precision

    def at(self, precision: Precision, batch: int | None = None) -> Task:
        """The same task at another precision, and with batches of another size."""
        options = self.options if batch is None else self.options | {"batch_size": batch}
        return dataclasses.replace(self, precision=precision, options=options)

    def save(self, directory: Path) -> None:
        """Write images, labels and options to where :func:`open_task` finds them; the dataset is there already."""
        np.save(directory / "images.npy", self.images)
        np.save(directory / "labels.npy", self.labels)
        (directory / "options.json").write_text(json.dumps({"name": self.name, "options": self.options}))

    @property
    def title(self) -> str:
        """Shape and precision."""
        return f"{self.name} {self.precision}"

    @property
    def mean(self) -> list[float]:
        """Of each channel, in units of 0..1."""
        return [MEAN] * self.images.shape[3]

    @property
    def std(self) -> list[float]:
        """Of each channel, in units of 0..1."""
        return [STD] * self.images.shape[3]

    @property
    def flip_probability(self) -> float:
        """Of each of the two flips."""
        return float(self.options["flip_probability"])

    @property
    def on_gpu(self) -> bool:
        """Whether copies are pinned and asynchronous."""
        return self.device.type == "cuda"

    def params(self, **changes: Any) -> Params:
        """The run's params, with `changes`."""
        placed = {"device": str(self.device), "precision": self.precision, "mode": "script"}
        return Params.from_dict(self.options | placed | changes)

    def network(self) -> nn.Module:
        """A new network on the device, in training mode, in torch's usual memory order."""
        params = self.params()
        torch.manual_seed(params.manual_seed)
        return network_of(params).to(self.device).train()

    def optimiser(self, network: nn.Module) -> Optimizer:
        """The optimiser of the params over a network."""
        return build_optimiser(self.params(), network.parameters())

    def autocast(self) -> torch.autocast:
        """The context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def synthesise(count: int, side: int, channels: int) -> tuple[Images, Labels]:
    """Images of the embedded digits, enlarged, in random tints where there are colors, with light noise; and labels."""
    stored, labels = digits()
    large = np.stack([np.asarray(Image.fromarray(image[..., 0]).resize((side, side))) for image in stored])
    index = np.arange(count) % len(large)
    random = np.random.default_rng(0)
    images = np.empty((count, side, side, channels), dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        part = large[index[start : start + _CHUNK]][..., None].astype(np.uint16)
        tints = random.integers(128, 257, (len(part), 1, 1, channels), dtype=np.uint16)
        noise = random.integers(0, NOISE, (len(part), side, side, channels), dtype=np.uint8)
        drawn = part * tints >> 8 if channels == 3 else part
        images[start : start + _CHUNK] = np.maximum(drawn.astype(np.uint8), noise)
    return images, labels[index]


def _task(name: str, count: int, options: dict[str, Any], directory: Path, device: torch.device) -> Task:
    shape = (options["image_height"], options["image_width"], 3 if options["is_image_color"] else 1)
    images, labels = synthesise(count + TEST_IMAGES, shape[0], shape[2])
    with DatasetWriter(directory, [str(digit) for digit in range(10)], shape) as writer:
        writer.add("train", images[:count], labels[:count])
        writer.add("test", images[count:], labels[count:])
        writer.commit(source="the benchmark", test_split="given", manual_seed=0, unreadable=[])
    normalised = {"normalise_images": True, "normalise_mean": [MEAN] * shape[2], "normalise_std": [STD] * shape[2]}
    return Task(name, images[:count], labels[:count], directory, options | normalised, device, "fp32")


def open_task(directory: Path, device: torch.device, precision: Precision, batch: int) -> Task:
    """The task that another process has saved, its dataset in ``dataset``."""
    saved = json.loads((directory / "options.json").read_text())
    images, labels = (np.load(directory / f"{name}.npy") for name in ("images", "labels"))
    task = Task(saved["name"], images, labels, directory / "dataset", saved["options"], device, precision)
    return task.at(precision, batch)


def _reference() -> dict[str, Any]:
    options: dict[str, Any] = json.loads((EXAMPLES / "reference.json").read_text())
    return options | {"batch_size": BATCH}


def grayscale_28(directory: Path, device: torch.device, count: int = 60_000) -> Task:
    """The reference network on 60,000 images of 28×28×1; the dataset directory is written to `directory`."""
    return _task("28×28×1", count, _reference(), directory, device)


def small_28(directory: Path, device: torch.device) -> Task:
    """A network of 0.5 million multiply-adds an image on 8,192 images of 28×28×1: what a step costs beside it shows."""
    layers: list[dict[str, Any]] = []
    channels = 1
    for wider in (16, 32, 64):
        convolution = {
            "in_channels": channels, "out_channels": wider, "kernel_size": 3, "stride": 2, "padding": 1
        }  # fmt: skip
        layers += [
            {"class": "torch.nn.Conv2d", "kwargs": convolution},
            {"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": wider}},
            {"class": "torch.nn.ReLU", "kwargs": {}},
        ]
        channels = wider
    return _task("small 28×28×1", 8_192, _reference() | {"net_arch": layers, "flip_images": False}, directory, device)


def color_64(directory: Path, device: torch.device, count: int = 20_480, **changes: Any) -> Task:
    """A small network, four times convolution, BatchNorm, ReLU and pooling, on 20,480 images of 64×64×3."""
    layers: list[dict[str, Any]] = []
    channels = 3
    # 4.0 million multiply-adds an image; the reference network has 5.2.
    for wider, stride in ((16, 2), (32, 1), (64, 1), (128, 1)):
        convolution = {
            "in_channels": channels, "out_channels": wider, "kernel_size": 3, "stride": stride, "padding": 1
        }  # fmt: skip
        layers += [
            {"class": "torch.nn.Conv2d", "kwargs": convolution},
            {"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": wider}},
            {"class": "torch.nn.ReLU", "kwargs": {}},
            {"class": "torch.nn.MaxPool2d", "kwargs": {"kernel_size": 2}},
        ]
        channels = wider
    image = {"image_height": 64, "image_width": 64, "is_image_color": True, "net_arch": layers}
    return _task("64×64×3", count, _reference() | image | changes, directory, device)


def resnet_224(directory: Path, device: torch.device, count: int = 4_096) -> Task:
    """ResNet-50 on images of 224×224×3, batches of 256, SGD with momentum; the dataset is written to `directory`."""
    changes = {
        "image_height": 224,
        "image_width": 224,
        "is_image_color": True,
        "batch_size": 256,
        "net_arch": [{"class": "torchvision.models.resnet50", "kwargs": {}}],
        "optim_class": "torch.optim.SGD",
        "optim_kwargs": {"momentum": 0.9, "weight_decay": 1e-4},
    }
    return _task("ResNet-50 224×224×3", count, _reference() | changes, directory, device)
