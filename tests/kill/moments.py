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
    """Where a training writes."""

    checkpoints: Path
    model: Path


def is_writing_state(places: Places) -> bool:
    return any(places.checkpoints.rglob(".epoch-*.pt.*.tmp"))


def is_between(places: Places) -> bool:
    states = [path for path in places.checkpoints.rglob("epoch-*.pt") if is_checkpoint_file(path.name)]
    return any(not path.with_suffix(".json").exists() for path in states)


def is_writing_manifest(places: Places) -> bool:
    return any(places.checkpoints.rglob(".epoch-*.json.*.tmp"))


def is_writing_model(places: Places) -> bool:
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
    """When to kill."""

    after: float
    inside: Inside = "any time"


def drawn(draws: random.Random, life: float) -> Moment:
    after = draws.uniform(0, 0.95 * life)
    inside: Inside = draws.choice(
        ("any time", "any time", "any time", "state", "state", "between", "manifest", "model")
    )
    return Moment(after, inside)
