"""Seconds from the start of the training command to its first step, against importing torch and touching the device."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from components.classifier.device import choose_device
from components.shared.artifacts.dataset_writer import DatasetWriter
from tests.bench.contenders.task import open_task
from tests.bench.sides.process import ROOT, FailedError

TIMEOUT_S = 90.0
TOUCH = "import torch; (torch.zeros(1, device={!r}) + 1).item()"


def start_times(task: Path, device: torch.device, rounds: int) -> tuple[list[float], list[float]]:
    """Both sides by turns, after one start of each, which reads the files from the disk.

    The data are one batch, and the first epoch, which is not evaluated, one step: its line in the log is the end.
    """
    opened = open_task(task, choose_device(str(device)), "bf16" if device.type == "cuda" else "fp32", 512)
    with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as folder:
        dataset, params = Path(folder) / "dataset", Path(folder) / "params.json"
        with DatasetWriter(dataset, [str(digit) for digit in range(10)], opened.images.shape[1:]) as writer:
            for split in ("train", "test"):
                writer.add(split, opened.images[:512], opened.labels[:512])
            writer.commit(source="the benchmark", test_split="given", manual_seed=0, unreadable=[])
        changes = {"device": str(device), "precision": opened.precision, "num_epochs": 2, "eval_freq": 2}
        params.write_text(json.dumps(opened.options | changes | {"save_freq": 2, "mode": "script", "batch_size": 512}))
        ours, theirs = [], []
        for number in range(rounds + 1):
            model = Path(folder) / f"model-{number}"
            command = [sys.executable, "-m", "components.train", "--dataset", dataset, "--params", params]
            ours.append(_until([*map(str, command), "--model", str(model)], "epoch 1/2"))
            theirs.append(_until([sys.executable, "-c", TOUCH.format(str(device))], None))
    return ours[1:], theirs[1:]


def _until(command: list[str], line: str | None) -> float:
    """Seconds until a process writes this to stderr, or without it until it ends; then the process is ended."""
    begun = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            while line is not None and process.poll() is None:
                log.seek(0)
                if line in log.read():
                    return time.monotonic() - begun
                if time.monotonic() - begun > TIMEOUT_S:
                    raise FailedError(f"no first step within {TIMEOUT_S:.0f} s")
                time.sleep(0.005)
            code = process.wait(TIMEOUT_S)
            if line is None and code == 0:
                return time.monotonic() - begun
            log.seek(0)
            raise FailedError(f"it ended with {code}: {log.read().strip()[-300:]}")
        finally:
            process.kill()
