"""Whole trainings by an earlier version: ``components`` are those of the folder that this is started in (0.5.0's)."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.sides.serve import serve


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """As :func:`tests.bench.sides.ours.measure`; the dataset is written anew, as that version has it."""
    # By name: they are not this version's, which is what a type checker and a reader would take them for.
    writer = importlib.import_module("components.shared.dataset").DatasetWriter
    params_type = importlib.import_module("components.shared.params").Params
    train = importlib.import_module("components.train.train").train
    task = Path(request["task"])
    options = json.loads((task / "options.json").read_text())["options"]
    images, labels = np.load(task / "images.npy"), np.load(task / "labels.npy")
    epochs = max(1, round(request["seconds"] * request["guess"] / len(images)))
    changes = {
        "device": request["device"],
        "precision": request["precision"],
        "batch_size": request["batch"],
        "mode": "script",
        "num_epochs": epochs,
        "eval_freq": epochs,
        "save_freq": epochs,
        "compile": "never",
        "learning_rate_schedule": [],
    }
    with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as directory:
        dataset = Path(directory) / "dataset"
        with writer(dataset, [str(digit) for digit in range(10)], images.shape[1:]) as written:
            written.add("train", images, labels)
            written.add("test", images[:512], labels[:512])
            written.commit(source="the benchmark", test_split="given", manual_seed=0, unreadable=[])
        params = params_type.from_dict(options | changes)
        result = train(dataset=dataset, model=Path(directory) / "model", params=params)
    return {"images_per_second": result.images_per_second, "epochs": epochs}


if __name__ == "__main__":
    serve(measure)
