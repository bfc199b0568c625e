"""Whole trainings by ``train()``, in this process and those that the environment names, timed by the wall clock."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from components.shared.events.data import Progress
from components.train.train import train
from tests.bench.contenders.task import open_task
from tests.bench.sides.serve import serve


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Images a second of all processes together over ``images`` images.

    The clock runs from the end of the first epoch to the end of the last but one: whatever training does between two
    steps and two epochs is in it. Only after the last there are an evaluation and a checkpoint.
    """
    os.environ["MASTER_PORT"] = str(request["port"])
    task = open_task(Path(request["task"]), torch.device("cpu"), "fp32", int(request["batch"]))
    timed = max(1, request["images"] // len(task.images))
    params = task.params(
        num_epochs=timed + 2,
        eval_freq=timed + 2,
        save_freq=timed + 2,
        compile="never",
        learning_rate_schedule=[],
        data_placement="device",
    )
    ends: list[float] = []

    def emit(event: object) -> None:
        if isinstance(event, Progress) and event.step % (event.steps // params.num_epochs) == 0:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as directory:
        train(dataset=task.dataset, model=Path(directory) / "model", params=params, emit=emit)
    return {"images_per_second": timed * len(task.images) / (ends[-2] - ends[0])}


if __name__ == "__main__":
    serve(measure)
