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
from pathlib import Path

import torch

from components.classifier.device import choose_device
from tests.bench.measure import HEAD

ON_A_GPU = "lmn"


def main() -> None:
    """Run the benchmarks named by their letters and print their rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Speed, in ratios.")
    parser.add_argument("letters", nargs="?", help="benchmarks to run; all that the device has by default")
    parser.add_argument("--device", default="cpu", help=f"cpu, or cuda for the benchmarks {ON_A_GPU}")
    asked = parser.parse_args()
    device = choose_device(asked.device)
    letters = asked.letters or (ON_A_GPU if device.type == "cuda" else "abcdefghijklmnop")
    logging.disable(logging.INFO)
    cpu = platform.processor() or platform.machine()
    print(f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, torch {torch.__version__},", end=" ")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device), end=", ")
    print(f"{torch.get_num_threads()} threads; medians, after one warm-up of each side, sides in turn")
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as directory:
        for line in _rows(letters, Path(directory), device):
            print(line, flush=True)


def _rows(letters: str, directory: Path, device: torch.device) -> Iterator[str]:
    """The rows of the table, as they are measured."""
    # Imported where they are run: a machine that is lent for its GPU has none of the services the others need.
    if "a" in letters:
        from tests.bench.training import batch_rates

        (directory / "png").mkdir()
        yield from (ratio.line() for ratio in batch_rates(directory / "png"))
    if "b" in letters:
        from tests.bench.training import training_rate

        yield training_rate().line()
    if "c" in letters:
        from tests.bench.pipeline import pipeline_overhead

        yield from (ratio.line() for ratio in pipeline_overhead(directory))
    if "d" in letters:
        from tests.bench.status import emit_costs

        yield from emit_costs(directory / "emit")
    if "e" in letters:
        from tests.bench.status import training_with_status

        yield from (ratio.line() for ratio in training_with_status(directory / "training"))
    if "f" in letters:
        from tests.bench.status import delivery_rates

        yield from (ratio.line() for ratio in delivery_rates(directory / "delivery"))
    if "g" in letters:
        from tests.bench.storage import transfers

        yield from (ratio.line() for ratio in transfers())
    if "h" in letters:
        from tests.bench.containers import container_start, has_image

        without = "(h) no engine with the images: `make images` builds them"
        yield container_start().line() if has_image() else without
    if "i" in letters:
        from tests.bench.compiling import compile_time

        yield compile_time(directory).line()
    if "j" in letters:
        from tests.bench.compiling import help_time

        yield help_time().line()
    if "k" in letters:
        from tests.bench.compiling import step_overhead

        yield step_overhead(directory).line()
    if "o" in letters:
        from tests.bench.checkpoints import stall

        (directory / "checkpoints").mkdir()
        yield stall(directory / "checkpoints").line()
    if "p" in letters:
        from tests.bench.exit_step import exit_step_time

        yield exit_step_time()
    if set(letters) & set(ON_A_GPU):
        yield from _loops(letters, directory, device)


def _loops(letters: str, directory: Path, device: torch.device) -> Iterator[str]:
    """(l) Training on 28×28×1, (m) on 64×64×3, (n) with the images on the host, on both."""
    from tests.bench.contenders.task import color_64, grayscale_28
    from tests.bench.loops import placement, precisions, training_loops

    for letter, make in (("l", grayscale_28), ("m", color_64)):
        if letter not in letters and "n" not in letters:
            continue
        task = make(directory / f"dataset-{letter}", device)
        for precision in precisions(task):
            if letter in letters:
                yield from (ratio.line() for ratio in training_loops(letter, task.at(precision)))
            if "n" in letters:
                yield placement("n", task.at(precision)).line()


if __name__ == "__main__":
    main()
