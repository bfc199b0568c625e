"""A training of one or two processes, killed at random moments and started again: the same weights."""

from __future__ import annotations

import os
import random
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from components.train.checkpoints.format import list_checkpoints
from tests.kill.lives import (
    EVERYTHING,
    Whole,
    descendants_of,
    drawn,
    draws_of,
    left_in,
    places_in,
    runs,
    survives,
    uninterrupted,
)

pytestmark = pytest.mark.kill

TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 3 -m components.train".split()


@pytest.fixture(scope="module")
def plain(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return uninterrupted(tmp_path_factory.mktemp("plain"), dataset)


@pytest.fixture(scope="module")
def everything(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return uninterrupted(tmp_path_factory.mktemp("everything"), dataset, **EVERYTHING)


@pytest.fixture(scope="module")
def two(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return uninterrupted(tmp_path_factory.mktemp("two"), dataset, TORCHRUN, num_epochs=8)


@pytest.mark.parametrize("number", runs(50))
def test_a_killed_training(plain: Whole, number: int, tmp_path: Path) -> None:
    survives(plain, tmp_path / "run", draws_of("plain", number))


@pytest.mark.parametrize("number", runs(10))
def test_a_killed_training_with_everything_on(everything: Whole, number: int, tmp_path: Path) -> None:
    survives(everything, tmp_path / "run", draws_of("everything", number))


@pytest.mark.parametrize("number", runs(10))
def test_a_killed_group(two: Whole, number: int, tmp_path: Path) -> None:
    draws = draws_of("two", number)
    if draws.random() < 0.5:
        survives(two, tmp_path / "run", draws)
        return
    while not loses_one(two, tmp_path / "run", draws):  # it may be faster than the one whose life was measured
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def loses_one(whole: Whole, folder: Path, draws: random.Random) -> bool:
    kills, killed, had = draws.randint(1, 2), list[str](), list[bool]()
    attempt = whole.setting.start(folder, 1)
    while len(killed) < kills:
        moment = drawn(draws, whole.life_s)
        if not attempt.reaches(moment, places_in(folder)):
            break
        workers = [pid for pid in descendants_of(attempt.process.pid) if is_training(pid)]
        if workers:
            with suppress(ProcessLookupError):
                there = list_checkpoints(folder / "checkpoints")
                os.kill(draws.choice(workers), signal.SIGKILL)
                had.append(bool(there))
                killed.append(moment.inside)
        attempt.signal(signal.SIGCONT)
    code = attempt.process.wait()
    story = f"one was killed {len(killed)} times ({', '.join(killed)}):\n{attempt.log}"
    assert code == 0, story
    assert left_in(folder / "model") == whole.left, story
    starts = attempt.log.split("all were started again")
    if len(starts) > 1 and had[len(starts) - 2]:
        assert "going on from a checkpoint" in starts[-1], f"it began anew: its weights are right, and late\n{story}"
    return bool(killed)


def is_training(pid: int) -> bool:
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return any(entry.startswith(b"LOCAL_RANK=") for entry in environment)
    return False
