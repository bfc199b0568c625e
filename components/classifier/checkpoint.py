"""Checkpoints: the whole state of a training run after an epoch, written so that none is ever half there."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.shared.artifacts import write_atomically

_NAME = re.compile(r"epoch-([0-9]{5,})\.pt")


def checkpoint_directory(root: Path, params_sha256: str, dataset_sha256: str) -> Path:
    """The directory of one run's checkpoints: same params and data, same place; anything else, another."""
    return root / f"{params_sha256[:12]}-{dataset_sha256[:12]}"


def save_checkpoint(directory: Path, epoch: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write the checkpoint of an epoch and remove all but the newest `keep`.

    Args:
        directory: Made if it is not there.
        epoch: Number of finished epochs.
        state: Tensors and plain data, so that it loads with ``weights_only=True``.
        keep: How many stay.
    """
    directory.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    path = directory / f"epoch-{epoch:05d}.pt"
    write_atomically(path, buffer.getvalue())
    for old in list_checkpoints(directory)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest epoch first."""
    found = [path for path in directory.glob("epoch-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("epoch-")))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and plain data are unpickled."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
