"""Whole trainings by ``train()``, in this process and those that the environment names, timed by the wall clock."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from components.shared.events.data import Emit, EventData, Progress, Succeeded
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.status import Status
from components.train.train import train
from tests.bench.contenders.task import open_task
from tests.bench.sides.serve import serve


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Images a second of all processes together over ``images`` images, and a second of this process's CPU time.

    The clock runs from the end of the first epoch to the end of the last but one: whatever training does between two
    steps and two epochs is in it. Only after the last there are an evaluation and a checkpoint. With ``kafka`` and
    ``trainer`` status goes there, as a step's does.
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
        **request.get("kafka", {}),
    )
    ends: list[tuple[float, float]] = []
    with ExitStack() as stack:
        model = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shutterline-bench-"))) / "model"
        report = stack.enter_context(_status(model, params, request["trainer"])) if "trainer" in request else None

        def emit(event: EventData) -> None:
            if report is not None:
                report(event)
            if isinstance(event, Progress) and event.step % (event.steps // params.num_epochs) == 0:
                ends.append((time.perf_counter(), time.process_time()))

        train(dataset=task.dataset, model=model, params=params, emit=emit)
    took, computed = (last - first for first, last in zip(ends[0], ends[-2], strict=True))
    images = timed * len(task.images)
    return {"images_per_second": images / took, "images_per_cpu_second": images / computed}


@contextmanager
def _status(model: Path, params: Params, trainer: dict[str, str]) -> Iterator[Emit]:
    os.environ |= trainer
    status = Status("train", step_run(model), logging.getLogger("bench"))
    status.open(params)
    try:
        yield status.emit
    finally:
        ended = status.end(Succeeded(1.0))
        for name in trainer:
            del os.environ[name]
    assert ended is not None
    assert not any(broker["undelivered"] for broker in ended["brokers"].values()), ended


if __name__ == "__main__":
    serve(measure)
