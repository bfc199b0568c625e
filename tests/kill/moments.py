"""When a process is killed: after some time, or inside something that leaves a trace in a directory while it lasts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.shared.artifacts.model import MODEL
from components.train.checkpoints.format import is_checkpoint_file

Inside = Literal["any time", "state", "between", "manifest", "model"]


@dataclass(frozen=True)
class Places:
    """Where a training writes.

    Attributes:
        checkpoints: The directory of its checkpoints, or one above.
        model: The model directory.
    """

    checkpoints: Path
    model: Path


def is_writing_state(places: Places) -> bool:
    """Whether a checkpoint's state is half there."""
    return any(places.checkpoints.rglob(".epoch-*.pt.*.tmp"))


def is_between(places: Places) -> bool:
    """Whether a checkpoint's state is there and its manifest is not."""
    states = [path for path in places.checkpoints.rglob("epoch-*.pt") if is_checkpoint_file(path.name)]
    return any(not path.with_suffix(".json").exists() for path in states)


def is_writing_manifest(places: Places) -> bool:
    """Whether a checkpoint's manifest is half there."""
    return any(places.checkpoints.rglob(".epoch-*.json.*.tmp"))


def is_writing_model(places: Places) -> bool:
    """Whether weights are there and the model is not complete."""
    return any(places.model.glob("*.safetensors")) and not (places.model / MODEL.manifest_file).exists()


TRACES: dict[Inside, Callable[[Places], bool]] = {
    "any time": lambda places: True,
    "state": is_writing_state,
    "between": is_between,
    "manifest": is_writing_manifest,
    "model": is_writing_model,
}


@dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
        after: Seconds from the process's start.
        inside: What it must be doing then; it is waited for.
    """

    after: float
    inside: Inside = "any time"


def drawn(draws: random.Random, life: float) -> Moment:
    """A moment uniformly over a life; every other one then waits for something that is being written.

    Args:
        draws: Where it is drawn from.
        life: Seconds from the start of the uninterrupted process to its end.
    """
    after = draws.uniform(0, 0.95 * life)
    inside: Inside = draws.choice(
        ("any time", "any time", "any time", "state", "state", "between", "manifest", "model")
    )
    return Moment(after, inside)
