"""``make bench``: every speed claim as a ratio, both sides measured in this run on this machine."""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
from pathlib import Path

import torch

from tests.bench.compiling import compile_time, help_time, step_overhead
from tests.bench.containers import container_start, has_image
from tests.bench.measure import HEAD
from tests.bench.pipeline import pipeline_overhead
from tests.bench.status import delivery_rate, emit_costs, training_with_status
from tests.bench.storage import transfers
from tests.bench.training import batch_rates, training_rate


def main(wanted: str = "abcdefghijk") -> None:
    """Run the benchmarks named by their letters and print one row each."""
    logging.disable(logging.INFO)
    cpu = platform.processor() or platform.machine()
    print(f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, torch {torch.__version__},", end=" ")
    print(f"{torch.get_num_threads()} threads; medians, after one warm-up of each side, sides in turn")
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as directory:
        if "a" in wanted:
            (Path(directory) / "png").mkdir()
            for ratio in batch_rates(Path(directory) / "png"):
                print(ratio.line(), flush=True)
        if "b" in wanted:
            print(training_rate().line(), flush=True)
        if "c" in wanted:
            for ratio in pipeline_overhead(Path(directory)):
                print(ratio.line(), flush=True)
        if "d" in wanted:
            for line in emit_costs(Path(directory) / "emit"):
                print(line, flush=True)
        if "e" in wanted:
            for ratio in training_with_status(Path(directory) / "training"):
                print(ratio.line(), flush=True)
        if "f" in wanted:
            print(delivery_rate(Path(directory) / "delivery").line(), flush=True)
        if "g" in wanted:
            for ratio in transfers():
                print(ratio.line(), flush=True)
        if "h" in wanted:
            told = (
                container_start().line() if has_image() else "(h) no engine with the images: `make images` builds them"
            )
            print(told, flush=True)
        if "i" in wanted:
            print(compile_time(Path(directory)).line(), flush=True)
        if "j" in wanted:
            print(help_time().line(), flush=True)
        if "k" in wanted:
            print(step_overhead(Path(directory)).line(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
