"""The other loops; those that are captured or compiled stay as they are from one request to the next."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.bench.contenders.captured_loop import captured_steps
from tests.bench.contenders.compiled_loop import compiled_steps
from tests.bench.contenders.steps import constant_steps, plain_loop, rate, reference_style_loop
from tests.bench.contenders.task import Task, open_task
from tests.bench.sides.serve import serve

# Batches by which a loop's speed is estimated, from which the number of timed ones follows.
_TRIAL = 8
_STAYING: dict[str, Callable[[Task], Generator[int]]] = {
    "captured": captured_steps,
    "compiled": compiled_steps,
    "constant": constant_steps,
}
_BY_WORKERS: dict[str, Callable[[Task, int], Generator[int]]] = {
    "plain": plain_loop,
    "references": reference_style_loop,
}


@cache
def _steps(name: str, task: str, device: str, precision: Any, batch: int) -> Generator[int]:
    return _STAYING[name](open_task(Path(task), torch.device(device), precision, batch))


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Images per second of a loop over about so many ``seconds``."""
    name, device = request["loop"], torch.device(request["device"])
    given = (request["task"], request["device"], request["precision"], request["batch"])
    workers = request.get("workers", 0)

    seconds, batch = float(request["seconds"]), int(request["batch"])

    def batches(speed: float) -> int:
        return max(4, round(seconds * speed / batch))

    if name in _STAYING:
        steps = _steps(name, *given)
        return {"images_per_second": rate(steps, device, batches(rate(steps, device, _TRIAL)))}
    task = open_task(Path(request["task"]), device, request["precision"], request["batch"])
    if name == "lightning":
        from tests.bench.contenders.lightning_loop import lightning_rate  # which need not be installed

        return {"images_per_second": lightning_rate(task, workers, batches(request["guess"]))}
    with closing(_BY_WORKERS[name](task, workers)) as loop:
        return {"images_per_second": rate(loop, device, batches(rate(loop, device, _TRIAL, workers)))}


if __name__ == "__main__":
    serve(measure)
