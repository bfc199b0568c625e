"""torch's own loop for several processes, in this one and those that the environment names."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from tests.bench.contenders.ddp_loop import ddp_steps
from tests.bench.contenders.steps import rate, warm_steps
from tests.bench.contenders.task import open_task
from tests.bench.sides.serve import serve


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Images a second of all processes together over ``images`` images, and a second of this process's CPU time."""
    os.environ["MASTER_PORT"] = str(request["port"])
    device, batch = torch.device("cpu"), int(request["batch"])
    task = open_task(Path(request["task"]), device, "fp32", batch)
    batches = request["images"] // batch
    with closing(ddp_steps(task)) as steps:
        rate(steps, device, 1)  # whose first steps take longest
        before = time.process_time()
        found = rate(steps, device, batches)
        computed = (time.process_time() - before) * batches / (batches + warm_steps(0))
    return {"images_per_second": found, "images_per_cpu_second": batches * batch / computed}


if __name__ == "__main__":
    serve(measure)
