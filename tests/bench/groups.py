"""Two processes against one, ours and torch's own loop; and training that reports against training that is silent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from tests.bench.contenders.task import Task, color_64, small_28
from tests.bench.measure import Ratio
from tests.bench.sides.process import Side
from tests.peers.noida import KafkaBroker
from tests.peers.trainer_status import TrainerStatusServer

ROUNDS, SECONDS, TIMEOUT_S = 7, 3.0, 300.0
# Trainer gets a report every 5 s.
SECONDS_REPORTED = 12.0
# Images that the first, untimed request takes, from whose speed the number of timed ones follows.
TRIAL = 4_096


class Processes:
    """Sides that train together, one thread each; use as a context manager."""

    def __init__(self, module: str, log: Path, size: int, threads: int = 1) -> None:
        shared = {"OMP_NUM_THREADS": threads, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
        named = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
        before = [["env", *(f"{name}={value}" for name, value in each.items())] for each in named]
        self._sides = [Side(module, log, before=each) for each in before]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for side in self._sides:
            side.end()

    def rate(self, request: dict[str, Any], images: int) -> float:
        """Images a second of all together."""
        return self.rates(request, images)[0]

    def rates(self, request: dict[str, Any], images: int) -> tuple[float, float]:
        """Images a second of all together, as the first has it, and a second of their CPU time."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            # One for each request: the store of the one before may still be there, with its addresses.
            request = request | {"images": images, "port": free.getsockname()[1]}
        with ThreadPoolExecutor(len(self._sides)) as pool:
            answers = list(pool.map(lambda side: side.ask(request, TIMEOUT_S), self._sides))
        computed = sum(1 / answer["images_per_cpu_second"] for answer in answers)
        return float(answers[0]["images_per_second"]), 1 / computed


def group_gains(folder: Path) -> Iterator[Ratio]:
    """(y) What a second process on a second core gains, ours against torch's loop, for two networks."""
    for make, batch in ((small_28, 128), (_color_64, 256)):
        task_folder = folder / make.__name__
        task_folder.mkdir()
        task = make(task_folder / "dataset", torch.device("cpu"))
        task.save(task_folder)
        yield from _gains(task, task_folder, batch)


def _color_64(directory: Path, device: torch.device) -> Task:
    return color_64(directory, device, 4_096, flip_images=False)  # the other loop flips nothing


def _gains(task: Task, folder: Path, batch: int) -> Iterator[Ratio]:
    """Every side by turns in every round; which comes first changes from round to round."""
    request = {"task": str(folder), "batch": batch}
    modules, log = {"ours": "tests.bench.sides.group", "DDP loop": "tests.bench.sides.ddp_loop"}, folder / "log"
    made = {(name, *form): (module, *form) for name, module in modules.items() for form in ((1, 1), (2, 1), (1, 2))}
    with ExitStack() as stack:
        sides = {
            key: stack.enter_context(Processes(module, log, size, threads))
            for key, (module, size, threads) in made.items()
        }
        images = {key: max(TRIAL, round(SECONDS * side.rate(request, TRIAL))) for key, side in sides.items()}
        rounds: list[dict[tuple[str | int, ...], tuple[float, float]]] = []
        for number in range(ROUNDS):
            turns = list(sides) if number % 2 else list(sides)[::-1]
            rounds.append({key: sides[key].rates(request, images[key]) for key in turns})

    def rates(*key: str | int) -> list[float]:
        return [each[key][0] for each in rounds]

    head = f"(y) {task.name}, batches of {batch}:"
    for name in modules:
        yield Ratio(f"{head} {name}, 2 processes / 1", rates(name, 2, 1), rates(name, 1, 1), "images/s", "over 1")
        what = f"{head} {name}, 2 processes / 1 of 2 threads"
        yield Ratio(what, rates(name, 2, 1), rates(name, 1, 2), "images/s", "for information")
    yield Ratio(f"{head} ours / the DDP loop", rates("ours", 2, 1), rates("DDP loop", 2, 1), "images/s", "over 1")
    # On a busy machine CPU time says what the clock does not.
    for index, figure in enumerate(("", ", CPU time")):
        gains = [[each[name, 2, 1][index] / each[name, 1, 1][index] for each in rounds] for name in modules]
        yield Ratio(f"{head} gain / the DDP loop's{figure}", gains[0], gains[1], "times", "at least 0.9")


def status_and_progress(folder: Path) -> Iterator[Ratio]:
    """(z) Training with status to Kafka and progress to Trainer's server, against none, by clock and by CPU time."""
    task = small_28(folder / "dataset", torch.device("cpu"))
    task.save(folder)
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    with (
        KafkaBroker() as broker,
        TrainerStatusServer(folder) as trainer,
        Processes("tests.bench.sides.group", folder / "log", 1) as side,
    ):
        broker.create_topic("bench")
        silent: dict[str, Any] = {"task": str(folder), "batch": 128}
        kafka = {"KAFKA_HOST": broker.bootstrap, "KAFKA_TOPIC": "bench"}
        reporting = silent | {"kafka": kafka, "trainer": trainer.environment}
        side.rate(reporting, TRIAL)
        images = round(SECONDS_REPORTED * side.rate(silent, TRIAL))
        for number in range(ROUNDS):
            turns = (silent, reporting) if number % 2 else (reporting, silent)
            first, second = (side.rates(turn, images) for turn in turns)
            pairs.append((second, first) if number % 2 else (first, second))
        assert len(trainer.reports) >= ROUNDS
    for index, unit in enumerate(("images/s", "im/CPU-s")):
        ours, theirs = ([pair[which][index] for pair in pairs] for which in (0, 1))
        yield Ratio("(z) training: status to Kafka and Trainer / none", ours, theirs, unit, "at least 0.99")
