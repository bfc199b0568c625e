"""``make bench``: every speed claim as a ratio, both sides measured in this run on this machine.

``python -m tests.bench lmn --device cuda`` measures whole training loops on a GPU; it needs this repository's ``train``
extra alone, and ``pytorch-lightning`` for the comparison with that.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import torch

from components.classifier.device import choose_device
from tests.bench.measure import HEAD, Ratio

ON_A_GPU = "lmn"
# By letter: the module, which is imported where it is run, as a machine that is lent for its GPU has none of the
# services the others need; and the function in it, which takes a folder and gives rows.
ROWS = {
    "a": "training.batch_rates",
    "c": "pipeline.pipeline_overhead",
    "d": "status.emit_costs",
    "e": "status.training_with_status",
    "f": "status.delivery_rates",
    "g": "storage.transfers",
    "h": "containers.container_start",
    "i": "compiling.compile_time",
    "j": "compiling.help_time",
    "k": "compiling.step_overhead",
    "o": "checkpoints.stall",
    "p": "exit_step.exit_step_time",
    "q": "prediction.prediction_rates",
    "r": "prediction.first_prediction",
    "s": "evaluation.evaluation_rates",
    "t": "transforms.transform_rates",
    "u": "earlier.starts",
    "v": "earlier.trainings",
    "w": "big_pictures.mapped_reading",
    "x": "big_pictures.evaluation_in_training",
    "y": "groups.group_gains",
    "z": "groups.status_and_progress",
    "A": "sources.decoding_rates",
    "B": "sources.other_ways",
    "D": "sources.inflating",
    "F": "sources.from_buckets",
    "M": "sources.memory_peaks",
    "R": "sources.few_new_images",
}


def main() -> None:
    """Run the benchmarks named by their letters and print their rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Speed, in ratios.")
    parser.add_argument("letters", nargs="?", help="benchmarks to run; all that the device has by default")
    parser.add_argument("--device", default="cpu", help=f"cpu, or cuda for the benchmarks {ON_A_GPU}")
    asked = parser.parse_args()
    device = choose_device(asked.device)
    letters = asked.letters or (ON_A_GPU if device.type == "cuda" else "".join(sorted([*ROWS, *ON_A_GPU])))
    logging.disable(logging.INFO)
    cpu = platform.processor() or platform.machine()
    print(f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, torch {torch.__version__},", end=" ")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device), end=", ")
    print(f"{torch.get_num_threads()} threads; medians, after one warm-up of each side, sides in turn")
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as directory:
        for row in _rows(letters, Path(directory), device):
            print(row.line() if isinstance(row, Ratio) else row, flush=True)


def _rows(letters: str, directory: Path, device: torch.device) -> Iterator[Ratio | str]:
    """The rows of the table, as they are measured."""
    for letter, name in ROWS.items():
        if letter in letters:
            module, _, function = name.rpartition(".")
            (directory / letter).mkdir()
            made = getattr(import_module(f"tests.bench.{module}"), function)(directory / letter)
            yield from [made] if isinstance(made, Ratio | str) else made
    if set(letters) & set(ON_A_GPU):
        yield from _loops(letters, directory, device)


def _loops(letters: str, directory: Path, device: torch.device) -> Iterator[Ratio]:
    """(l) Training on 28×28×1, (m) on 64×64×3, (n) with the images on the host, on both."""
    from tests.bench.contenders.task import color_64, grayscale_28
    from tests.bench.loops import placement, precisions, training_loops

    for letter, make in (("l", grayscale_28), ("m", color_64)):
        if letter not in letters and "n" not in letters:
            continue
        task = make(directory / f"dataset-{letter}", device)
        for precision in precisions(task):
            if letter in letters:
                yield from training_loops(letter, task.at(precision))
            if "n" in letters:
                yield placement("n", task.at(precision))


if __name__ == "__main__":
    main()
