"""Against 0.5.0 on the CPU, out of git's history: from a start to the first step, and whole trainings."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pipelines.params_files import EXAMPLES
from tests.bench.contenders.task import BATCH, Task, color_64, grayscale_28
from tests.bench.measure import Ratio
from tests.bench.sides.earlier_version import VERSION, earlier_version
from tests.bench.sides.process import ROOT, FailedError, Side
from tests.examples import digits

ROUNDS, ROUNDS_OF_STARTS = 5, 7
# One step an epoch, none of which is evaluated.
IMAGES = 64
TIMEOUT_S = 300.0
SECONDS = 4.0


def starts(folder: Path) -> Iterator[Ratio | str]:
    """(u) Seconds from the start of the command to the end of its first step, on the clock and of the processor."""
    earlier, why_not = earlier_version(None, folder)
    if why_not is not None:
        yield f"(u) start to first step / {VERSION}: {why_not}"
        return
    raw, params = folder / "raw", folder / "params.json"
    raw.mkdir()
    images, labels = digits()
    count = 2 * IMAGES
    (raw / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, count, 8, 8) + images[:count].tobytes())
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + bytes(labels[:count].tolist()))
    changes = {"num_epochs": 2, "eval_freq": 2, "batch_size": 2 * IMAGES, "mode": "script", "device": "cpu"}
    params.write_text(json.dumps(json.loads((EXAMPLES / "digits.json").read_text()) | changes))
    for side in (ROOT, earlier):
        command: list[str | Path] = [
            "components.data_prep",
            "--data",
            raw,
            "--dataset",
            folder / f"dataset-{side.name}",
        ]
        subprocess.run(_command(command, params), cwd=side, env=_environment(side), check=True, capture_output=True)
    rounds = [[_start(folder, side, params) for side in (ROOT, earlier)] for _ in range(ROUNDS_OF_STARTS + 1)][1:]
    for index, what in enumerate(("", ", processor")):
        ours, theirs = ([pair[side][index] for pair in rounds] for side in (0, 1))
        name = f"(u) start of training to its first step{what} / {VERSION}"
        yield Ratio(name, ours, theirs, "s", "at most 0.6")


def _command(command: Sequence[str | Path], params: Path) -> list[str]:
    return [sys.executable, "-m", *map(str, command), "--params", str(params)]


def _environment(side: Path) -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name != "SHUTTERLINE_GRAPHS"} | {"PYTHONPATH": str(side)}


def _start(folder: Path, side: Path, params: Path) -> tuple[float, float]:
    """Seconds until the log has the first epoch, and those that the process itself has computed."""
    model = folder / f"model-{time.monotonic_ns()}"
    command = _command(["components.train", "--dataset", folder / f"dataset-{side.name}", "--model", model], params)
    begun = time.monotonic()
    with subprocess.Popen(command, cwd=side, env=_environment(side), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/2" in line:
                taken = time.monotonic() - begun
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                process.kill()
                return taken, sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    raise FailedError(f"{side.name} ended before its first step")


def trainings(folder: Path) -> Iterator[Ratio | str]:
    """(v) Training images a second of whole trainings in processes of their own."""
    earlier, why_not = earlier_version(None, folder)
    if why_not is not None:
        yield f"(v) training / {VERSION}: {why_not}"
        return
    for make in (grayscale_28, color_64):
        task_folder = folder / make.__name__
        task_folder.mkdir()
        task = make(task_folder / "dataset", torch.device("cpu"))
        task.save(task_folder)
        log = folder / f"{make.__name__}.log"
        with (
            Side("tests.bench.sides.ours", log) as ours,
            Side("tests.bench.sides.earlier", log, earlier) as theirs,
        ):
            pairs = [(_rate(ours, task_folder, task), _rate(theirs, task_folder, task)) for _ in range(ROUNDS + 1)][1:]
        name = f"(v) {task.title}: training / {VERSION}"
        yield Ratio(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs], "images/s", "at least 0.97")


def _rate(side: Side, task_folder: Path, task: Task) -> float:
    # About what either trains: it only chooses how many epochs are trained.
    request = {"task": str(task_folder), "device": "cpu", "precision": "fp32", "batch": BATCH, "seconds": SECONDS}
    guess = {"guess": len(task.images) / SECONDS}
    return float(side.ask(request | guess, TIMEOUT_S)["images_per_second"])
