"""Small real data and params that train in well under a second."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.params.params import Params
from pipelines.params_files import EXAMPLE_DATA

DIGITS = EXAMPLE_DATA


def digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All digits of the embedded example: images (1797, 8, 8, 1) and labels."""
    images = gzip.decompress((EXAMPLE_DATA / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((EXAMPLE_DATA / "train-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, dtype=np.uint8, offset=16).reshape(-1, 8, 8, 1),
        np.frombuffer(labels, dtype=np.uint8, offset=8).astype(np.int64),
    )


def write_digits(path: Path, count: int = 300, *, validation: bool = False) -> Path:
    """A dataset directory of the first digits: two thirds to train on, the rest to test."""
    images, labels = digits()
    cut = count * 2 // 3
    with DatasetWriter(path, [str(digit) for digit in range(10)], (8, 8, 1)) as writer:
        writer.add("train", images[:cut], labels[:cut])
        if validation:
            writer.add("validation", images[count : count + 100], labels[count : count + 100])
        writer.add("test", images[cut:count], labels[cut:count])
        writer.commit(source="IDX files", test_split="held out", manual_seed=0, unreadable=[])
    return path


SMALL: dict[str, Any] = {
    "batch_size": 32,
    "image_height": 8,
    "image_width": 8,
    "n_classes": 10,
    "num_epochs": 2,
    "device": "cpu",
    "learning_rate": 0.01,
    "net_arch": [
        {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 8, "kernel_size": 3, "stride": 2}},
        {"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": 8}},
        {"class": "torch.nn.ReLU", "kwargs": {}},
    ],
}


def small(**changes: Any) -> Params:
    """Params of a small network on the digits, with `changes`."""
    return Params.from_dict({**SMALL, **changes})


def write_params(path: Path, **changes: Any) -> Path:
    """The same as a JSON file."""
    path.write_text(json.dumps({**SMALL, **changes}), encoding="utf-8")
    return path
