"""A training that is killed again and again, and what it must leave: what the uninterrupted one leaves.

How often and when follows from a seed that is printed and can be given again.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.artifacts.model import MODEL, open_model
from components.shared.files import sha256_of
from components.train.checkpoints.format import is_checkpoint_file, list_checkpoints
from tests.configs import schedule
from tests.examples import SMALL, write_params

SHARE_VARIABLE = "SHUTTERLINE_KILLS"  # a part of the runs, above 0 and at most 1
SEED_VARIABLE = "SHUTTERLINE_KILL_SEED"
IMAGES = 900
PARAMS: dict[str, Any] = {
    "net_arch": [*SMALL["net_arch"], {"class": "torch.nn.Dropout", "kwargs": {"p": 0.2}}],
    "batch_size": 10,
    "num_epochs": 20,
    "flip_images": True,
    "save_freq": 1,
    "checkpoint_minutes": 0.001,
    "keep_checkpoints": 3,
}
EVERYTHING: dict[str, Any] = {
    "ema_decay": 0.99,
    "mixup_alpha": 0.3,
    "cutmix_alpha": 1.0,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 1.0,
    "warmup_epochs": 1.5,
    "learning_rate_schedule": [
        schedule("ReduceLROnPlateau", patience=2),
        schedule("StepLR", step_size=5),
        schedule("ExponentialLR", gamma=0.999) | {"interval": "batch"},
    ],
}
_LOOK_S = 0.0005


def settle_seed() -> int:
    return int(os.environ.setdefault(SEED_VARIABLE, str(int.from_bytes(os.urandom(4)))))


def runs(number: int) -> range:
    return range(max(1, math.ceil(number * float(os.environ.get(SHARE_VARIABLE, "1")))))


def draws_of(suite: str, number: int) -> random.Random:
    return random.Random(f"{settle_seed()}/{suite}/{number}")  # noqa: S311 - moments, not secrets


@dataclass(frozen=True)
class Places:
    """Where a training writes."""

    checkpoints: Path
    model: Path


def is_between(places: Places) -> bool:
    states = [path for path in places.checkpoints.rglob("epoch-*.pt") if is_checkpoint_file(path.name)]
    return any(not path.with_suffix(".json").exists() for path in states)


# What leaves a trace in a directory while it lasts.
TRACES: dict[str, Callable[[Places], bool]] = {
    "any time": lambda places: True,
    "writing a state": lambda places: any(places.checkpoints.rglob(".epoch-*.pt.*.tmp")),
    "between state and manifest": is_between,
    "writing a manifest": lambda places: any(places.checkpoints.rglob(".epoch-*.json.*.tmp")),
    "writing the model": lambda places: (
        any(places.model.glob("*.safetensors")) and not (places.model / MODEL.manifest_file).exists()
    ),
}


@dataclass(frozen=True)
class Moment:
    """When a process is killed: after some time, inside something."""

    after_s: float
    inside: str


def drawn(draws: random.Random, life_s: float) -> Moment:
    weights = dict.fromkeys(TRACES, 1) | {"any time": 3, "writing a state": 2}
    return Moment(draws.uniform(0, 0.95 * life_s), draws.choices([*weights], [*weights.values()])[0])


class Attempt:
    """One process of a training, or a tree of them; what it logs goes to a file."""

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment)
        self._log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command, env=variables, stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def reaches(self, moment: Moment, places: Places) -> bool:
        """Whether the moment comes before the end; then the process stands still."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(moment.after_s)
        has_trace = TRACES[moment.inside]
        while self.process.poll() is None:
            if has_trace(places):
                self.signal(signal.SIGSTOP)
                if has_trace(places):
                    return True
                self.signal(signal.SIGCONT)
            time.sleep(_LOOK_S)
        return False

    def signal(self, number: signal.Signals) -> None:
        for pid in [self.process.pid, *descendants_of(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def descendants_of(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found[1:]


@dataclass(frozen=True)
class Left:
    """What a training has left that must not depend on how often it was interrupted."""

    weights: dict[str, str]
    history: list[dict[str, Any]]


def left_in(model: Path) -> Left:
    manifest = open_model(model).manifest
    return Left(
        weights={name: sha256_of(model / name) for name in ("model.safetensors", "model.onnx")},
        history=[record.model_dump(exclude={"images_per_second"}) for record in manifest.history],
    )


@dataclass(frozen=True)
class Setting:
    """A training that can be started in any folder."""

    dataset: Path
    params: Path
    launcher: Sequence[str] = ("-m", "components.train")
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, folder: Path, number: int, checkpoints: str | None = None) -> Attempt:
        folder.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [sys.executable, *self.launcher, "--dataset", self.dataset]
        command += ["--params", self.params, "--model", folder / "model"]
        command += ["--checkpoints", checkpoints or folder / "checkpoints"]
        return Attempt(command, folder / f"attempt-{number}.log", self.environment)


@dataclass(frozen=True)
class Whole:
    """A setting, and the uninterrupted run that all others are held against."""

    setting: Setting
    left: Left
    life_s: float


def uninterrupted(
    folder: Path, dataset: Path, launcher: Sequence[str] = ("-m", "components.train"), **params: Any
) -> Whole:
    setting = Setting(dataset, write_params(folder / "params.json", **{**PARAMS, **params}), launcher)
    begun = time.monotonic()
    attempt = setting.start(folder, 0)
    assert attempt.process.wait() == 0, attempt.log
    return Whole(setting, left_in(folder / "model"), time.monotonic() - begun)


def places_in(folder: Path) -> Places:
    return Places(folder / "checkpoints", folder / "model")


def survives(whole: Whole, folder: Path, draws: random.Random) -> None:
    survives_where(
        whole,
        draws,
        start=lambda number: whole.setting.start(folder, number),
        places=lambda number: places_in(folder),
        checkpoints=lambda: list_checkpoints(folder / "checkpoints"),
        forget=lambda: shutil.rmtree(folder),
    )


def survives_where(
    whole: Whole,
    draws: random.Random,
    *,
    start: Callable[[int], Attempt],
    places: Callable[[int], Places],
    checkpoints: Callable[[], Sequence[object]],
    forget: Callable[[], None],
) -> None:
    kills, number, killed = draws.randint(1, 3), 0, list[str]()
    while True:
        number += 1
        had = checkpoints()
        attempt = start(number)
        if len(killed) < kills:
            moment = drawn(draws, whole.life_s)
            if attempt.reaches(moment, places(number)):
                attempt.signal(signal.SIGKILL)
                attempt.process.wait()
                killed.append(moment.inside)
                goes_on(attempt, had)
                continue
            if not killed:  # it was faster than the one whose life was measured
                forget()
                continue
        story = f"killed {len(killed)} times ({', '.join(killed)}), then:\n"
        assert attempt.process.wait() == 0, story + attempt.log
        goes_on(attempt, had)
        assert left_in(places(number).model) == whole.left, story + attempt.log
        return


def goes_on(attempt: Attempt, had: Sequence[object]) -> None:
    if had and " images in batches of " in (log := attempt.log):
        rest = log.partition(" images in batches of ")[2]
        assert "going on from a checkpoint" in rest or rest.count("\n") <= 1, log
        assert "is damaged" not in log, f"what a kill leaves is nothing or whole\n{log}"
