"""A training that is killed again and again, and what it must leave: what the uninterrupted one leaves."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.artifacts.model import open_model
from components.shared.files import sha256_of
from components.train.checkpoints.format import list_checkpoints
from tests.examples import SMALL, write_params
from tests.kill.moments import Moment, Places, drawn
from tests.kill.processes import Attempt

KILLED = "killed"

PARAMS: dict[str, Any] = {
    "net_arch": [*SMALL["net_arch"], {"class": "torch.nn.Dropout", "kwargs": {"p": 0.2}}],
    "batch_size": 10,
    "num_epochs": 20,
    "flip_images": True,
    "save_freq": 1,
    "checkpoint_minutes": 0.001,
    "keep_checkpoints": 3,
}
IMAGES = 900

Command = Callable[[Path], Sequence[str | Path]]


@dataclass(frozen=True)
class Left:
    """What a training has left that must not depend on how often it was interrupted."""

    weights: dict[str, str]
    history: list[dict[str, Any]]


def left_in(model: Path) -> Left:
    manifest = open_model(model).manifest
    return Left(
        weights={name: sha256_of(model / name) for name in ("model.safetensors", "last.safetensors")},
        history=[record.model_dump(exclude={"images_per_second"}) for record in manifest.history],
    )


@dataclass(frozen=True)
class Uninterrupted:
    """The run all others are held against."""

    left: Left
    life: float


@dataclass(frozen=True)
class Setting:
    """A training that can be started in any folder."""

    dataset: Path
    params: Path
    launcher: Sequence[str] = ("-m", "components.train")
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, folder: Path, number: int, checkpoints: str | None = None, model: Path | None = None) -> Attempt:
        folder.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [sys.executable, *self.launcher, "--dataset", self.dataset]
        command += ["--params", self.params, "--model", model or folder / "model"]
        command += ["--checkpoints", checkpoints or folder / "checkpoints"]
        return Attempt(command, folder / f"attempt-{number}.log", self.environment)

    def uninterrupted(self, folder: Path) -> Uninterrupted:
        begun = time.monotonic()
        attempt = self.start(folder, 0)
        assert attempt.end() == 0, attempt.said
        return Uninterrupted(left_in(folder / "model"), time.monotonic() - begun)


def settled(
    folder: Path, dataset: Path, launcher: Sequence[str] = ("-m", "components.train"), **params: Any
) -> Setting:
    return Setting(dataset, write_params(folder / "params.json", **{**PARAMS, **params}), launcher)


def places_in(folder: Path) -> Places:
    return Places(folder / "checkpoints", folder / "model")


def survives(setting: Setting, whole: Uninterrupted, folder: Path, draws: random.Random) -> list[str]:
    return survives_where(
        whole,
        draws,
        start=lambda number: setting.start(folder, number),
        places=lambda number: places_in(folder),
        checkpoints=lambda: list_checkpoints(folder / "checkpoints"),
        forget=lambda: shutil.rmtree(folder),
    )


def survives_where(
    whole: Uninterrupted,
    draws: random.Random,
    *,
    start: Callable[[int], Attempt],
    places: Callable[[int], Places],
    checkpoints: Callable[[], Sequence[object]],
    forget: Callable[[], None],
) -> list[str]:
    kills, hit = draws.randint(1, 3), list[str]()
    number = 0
    while True:
        number += 1
        had = checkpoints()
        attempt = start(number)
        if len(hit) < kills:
            moment = drawn(draws, whole.life)
            if attempt.killed_at(moment, places(number)):
                hit.append(hit_by(moment, attempt.said))
                goes_on(attempt, had)
                continue
            if not hit:  # it was faster than the one whose life was measured
                forget()
                continue
        code = attempt.end()
        story = f"killed {len(hit)} times ({', '.join(hit)}), then:\n{attempt.said}"
        assert code == 0, story
        goes_on(attempt, had)
        assert left_in(places(number).model) == whole.left, story
        return hit


def goes_on(attempt: Attempt, had: Sequence[object]) -> None:
    if had and " images in batches of " in (said := attempt.said):
        rest = said.partition(" images in batches of ")[2]
        assert "going on from a checkpoint" in rest or rest.count("\n") <= 1, said
        assert "is damaged" not in said, f"what a kill leaves is nothing or whole\n{said}"


def hit_by(moment: Moment, said: str) -> str:
    if moment.inside != "any time":
        return {"state": "writing a state", "between": "between state and manifest"}.get(
            moment.inside, f"writing a {moment.inside}"
        )
    if " images in batches of " not in said:
        return "start"
    return "model" if f"epoch {PARAMS['num_epochs']}/" in said else "training"
