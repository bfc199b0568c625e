"""Whole trainings by ``train()``, their speed, time and memory."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from components.shared.artifacts.model import open_model
from components.train.train import train
from tests.bench.contenders.task import open_task
from tests.bench.sides.serve import serve


class _Warnings(logging.Handler):
    """Keeps what a run warns of: that it fell back to eager, for one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Train for about so many ``seconds`` at the ``guess`` in images per second, evaluating at the end alone."""
    device = torch.device(request["device"])
    task = open_task(Path(request["task"]), device, request["precision"], request["batch"])
    epochs = max(1, round(request["seconds"] * request["guess"] / len(task.images)))
    # No other loop has schedules.
    options = {"compile": "never", "learning_rate_schedule": []} | request.get("params", {})
    params = task.params(num_epochs=epochs, eval_freq=epochs, save_freq=epochs, **options)
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call] # before which there are no figures to begin anew
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    warned = _Warnings()
    logging.getLogger("shutterline").addHandler(warned)
    try:
        with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as directory:
            result = train(dataset=task.dataset, model=Path(directory) / "model", params=params)
            speed = open_model(Path(directory) / "model").manifest.provenance.speed
    finally:
        logging.getLogger("shutterline").removeHandler(warned)
    on_gpu = device.type == "cuda"
    return {
        "images_per_second": result.images_per_second,
        "epochs": epochs,
        "shares": speed.shares if speed is not None else {},
        "reserved": torch.cuda.max_memory_reserved(device) if on_gpu else 0,
        "allocated": torch.cuda.max_memory_allocated(device) if on_gpu else 0,
        "warnings": warned.lines,
    }


if __name__ == "__main__":
    serve(measure)
