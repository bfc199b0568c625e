"""How a training loop is timed: some steps to get going, then a fixed number of them, the device waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_steps(workers: int) -> int:
    """Untimed steps: every kernel has started, and as many as a DataLoader holds ready, two batches a worker."""
    return 4 + 2 * workers


def rate(steps: Iterator[int], device: torch.device, batches: int, workers: int = 0) -> float:
    """Images per second of a loop.

    Args:
        steps: Makes one training step each time it is asked and gives the number of its images, without end.
        device: Waited for at both ends.
        batches: Timed steps.
        workers: Processes that make the batches.
    """
    for _ in range(warm_steps(workers)):
        next(steps)
    synchronise(device)
    start = time.perf_counter()
    images = sum(next(steps) for _ in range(batches))
    synchronise(device)
    return images / (time.perf_counter() - start)


@contextmanager
def as_torch_ships() -> Iterator[None]:
    """Run a contender with torch's own settings, and put back those that are in force.

    Our training chooses deterministic algorithms for the whole process; a loop written after a tutorial does not.
    """
    mode = torch.get_deterministic_debug_mode()
    searching = torch.backends.cudnn.benchmark
    precision = torch.get_float32_matmul_precision()
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = searching
        torch.set_float32_matmul_precision(precision)
