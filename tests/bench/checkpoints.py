"""What a checkpoint costs the training: the hand-over of a large state against writing it where the training is."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import torch

from components.train.checkpoints.format import CheckpointManifest
from components.train.checkpoints.writer import CheckpointWriter
from tests.bench.measure import Ratio, seconds

# Of the network; with AdamW's two moments the state is three times that, 1.2 GB.
PARAMETERS = 100_000_000
LAYERS = 20
ROUNDS = 4


def state() -> dict[str, Any]:
    """Weights and moments of a network of that many parameters."""
    side = PARAMETERS // LAYERS
    return {
        "network": {f"{layer}.weight": torch.rand(side) for layer in range(LAYERS)},
        "optimiser": {
            "state": {
                layer: {"step": torch.tensor(7.0), "exp_avg": torch.rand(side), "exp_avg_sq": torch.rand(side)}
                for layer in range(LAYERS)
            }
        },
    }


def manifest(epoch: int) -> CheckpointManifest:
    """What the checkpoint says it is of."""
    return CheckpointManifest(
        created_by="the benchmark", epoch=epoch, batch=0, step=epoch, finished=False, params={}, dataset_sha256="",
        processes=1, device="cpu", torch=torch.__version__,
    )  # fmt: skip


def saved_there(file: Path, held: dict[str, Any]) -> None:
    """Save as one would in the training's own thread: written beside, synced, hashed, renamed."""
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        torch.save(held, stream)
        stream.flush()
        os.fsync(stream.fileno())
    with temporary.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    file.with_suffix(".sha256").write_text(digest)
    temporary.replace(file)


def stall(folder: Path) -> Ratio:
    """(o) Seconds the training thread is held up by a checkpoint, against saving it there."""
    held = state()
    ours, theirs = [], []
    with CheckpointWriter(folder / "ours", keep=1) as keeper:
        keeper.prepare(held)
        keeper.wait()
        for round_ in range(ROUNDS):
            theirs.append(seconds(lambda: saved_there(folder / "theirs.pt", held)))
            start = time.perf_counter()
            keeper.save(manifest(round_ + 1), held)
            ours.append(time.perf_counter() - start)
            keeper.wait()
    name = "(o) a checkpoint of 100 M parameters: stall / saving it there"
    return Ratio(name, ours, theirs, unit="s", bound="at most 0.15")
