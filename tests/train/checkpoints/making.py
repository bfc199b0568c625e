"""Checkpoints as tests make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.train.checkpoints.format import CheckpointManifest


def manifest(epoch: int = 3, batch: int = 0, **changes: Any) -> CheckpointManifest:
    told = {
        "created_by": "a test",
        "epoch": epoch,
        "batch": batch,
        "step": 10 * epoch + batch,
        "finished": False,
        "params": {"num_epochs": 9},
        "dataset_sha256": "d" * 64,
        "processes": 1,
        "device": "cpu",
        "torch": "2",
    }
    return CheckpointManifest(**told | changes)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
