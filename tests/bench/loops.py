"""Whole training loops against each other: ours, those that people write, Lightning's, and the constant batch.

All of them train the same network on the same images with the same optimiser, flips, normalisation, batch size and
precision on the same device. Evaluation, checkpoints and starts are timed for none of them. Ours goes through the
public ``train()`` over whole epochs; every other loop is timed over a fixed number of batches that take some seconds,
once its workers are up and its queues full.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from components.train.train import train
from tests.bench.contenders.steps import as_torch_ships, constant_steps, plain_loop, rate, reference_style_loop
from tests.bench.contenders.task import Precision, Task
from tests.bench.measure import Ratio

ROUNDS = 3
SECONDS = 2.0
# A GPU goes through all images in a fraction of a second; ours trains so many epochs that it takes this long.
SECONDS_OURS = 4.0
# Batches of the measurement by which the better number of workers and the number of timed batches are chosen.
TRIAL = 4


@dataclass(frozen=True)
class Contender:
    """Another loop: its images per second over a number of batches, and what our ratio to it is held to."""

    name: str
    measure: Callable[[int], float]
    batches: int
    bound: str


def precisions(task: Task) -> tuple[Precision, ...]:
    """The precisions that are measured: bf16 where a GPU computes it."""
    return ("fp32", "bf16") if task.on_gpu else ("fp32",)


def training_loops(letter: str, task: Task) -> Iterator[Ratio]:
    """Training images per second, ours against each of the others, all in turn in every round.

    Every other loop has run once before. Ours has not: the constant batch takes the same step and runs first.
    """
    speed = _constant_rate(task, TRIAL)
    bound_batches, epochs = _batches(task, speed), _epochs(task, speed)
    contenders = list(_contenders(task))
    ours: list[float] = []
    bounds: list[float] = []
    theirs: list[list[float]] = [[] for _ in contenders]
    for _ in range(ROUNDS):
        before = _constant_rate(task, bound_batches)
        ours.append(shutterline_rate(task, epochs, "auto"))
        after = _constant_rate(task, bound_batches)
        # The bound is measured on both sides of ours, because the ratio to it is close to 1 and machines drift.
        bounds.append(2 / (1 / before + 1 / after))
        for contender, figures in zip(contenders, theirs, strict=True):
            figures.append(contender.measure(contender.batches))
    head = f"({letter}) {task.title}: training / "
    for contender, figures in zip(contenders, theirs, strict=True):
        yield Ratio(head + contender.name, ours, figures, "images/s", contender.bound)
    yield Ratio(head + "constant batch", ours, bounds, "images/s", f"at least {0.90 if task.on_gpu else 0.97}")


def placement(letter: str, task: Task) -> Ratio:
    """Training images per second with the images on the host, against all of them on the device."""
    epochs = _epochs(task, _constant_rate(task, TRIAL))
    pairs = [(shutterline_rate(task, epochs, "host"), shutterline_rate(task, epochs, "device")) for _ in range(ROUNDS)]
    name = f"({letter}) {task.title}: images on the host / on the device"
    return Ratio(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs], "images/s", "at least 0.85")


def shutterline_rate(task: Task, epochs: int, data_placement: str) -> float:
    """Images per second of a whole run of ours, evaluation not counted, by its own result.

    Without ``compile``, which none of the others uses.
    """
    params = task.params(
        num_epochs=epochs, eval_freq=epochs, save_freq=epochs, compile="never", data_placement=data_placement
    )
    with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as directory:
        return train(dataset=task.dataset, model=Path(directory) / "model", params=params).images_per_second


def _contenders(task: Task) -> Iterator[Contender]:
    """The other loops, each run once: to warm up, and to choose its workers and its batches."""
    cores = os.cpu_count() or 1
    # 0 is DataLoader's own choice; more than 8 rarely help.
    tried = sorted({0, 2, min(8, cores)})
    yield _chosen(task, "plain loop", _by_workers(task, plain_loop), tried, "at least 25" if task.on_gpu else "over 1")
    # The references start 16 workers; torch warns where there are fewer cores.
    workers = [min(16, cores)]
    yield _chosen(task, "references' style", _by_workers(task, reference_style_loop), workers, "over 1")
    try:
        from tests.bench.contenders.lightning_loop import lightning_rate
    except ImportError as error:
        print(f"without PyTorch Lightning, which is not installed here: {error}", flush=True)
        return

    def by_lightning(workers: int, batches: int) -> float:
        with as_torch_ships():
            return lightning_rate(task, workers, batches)

    yield _chosen(task, "Lightning", by_lightning, tried, "over 1")


def _by_workers(task: Task, loop: Callable[[Task, int], Generator[int]]) -> Callable[[int, int], float]:
    def measure(workers: int, batches: int) -> float:
        with as_torch_ships(), closing(loop(task, workers)) as steps:
            return rate(steps, task.device, batches, workers)

    return measure


def _chosen(
    task: Task, name: str, measure: Callable[[int, int], float], candidates: list[int], bound: str
) -> Contender:
    """A contender with the number of workers that it is fastest with."""
    speeds = {workers: measure(workers, max(TRIAL, 2 * workers)) for workers in candidates}
    best = max(speeds, key=speeds.__getitem__)
    label = f"{name}, {best} workers"
    return Contender(label, lambda batches: measure(best, batches), _batches(task, speeds[best]), bound)


def _constant_rate(task: Task, batches: int) -> float:
    with closing(constant_steps(task)) as steps:
        return rate(steps, task.device, batches)


def _batches(task: Task, speed: float) -> int:
    """Batches that take some seconds at a speed, in images per second."""
    return max(4, round(SECONDS * speed / task.params().images_per_batch))


def _epochs(task: Task, speed: float) -> int:
    """Epochs of ours that take some seconds at a speed; on a CPU one takes longer than that."""
    return max(1, round(SECONDS_OURS * speed / len(task.images)))
