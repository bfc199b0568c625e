"""A training of two processes, killed as a whole or in one of them, leaves what the uninterrupted one leaves."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from components.train.checkpoints.format import list_checkpoints
from tests.kill.draws import draws_of, runs
from tests.kill.lives import KILLED, Setting, Uninterrupted, hit_by, left_in, places_in, settled, survives
from tests.kill.moments import drawn
from tests.kill.processes import descendants_of

pytestmark = pytest.mark.kill

TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 3 -m components.train".split()


@pytest.fixture(scope="module")
def two(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Uninterrupted]:
    folder = tmp_path_factory.mktemp("two")
    setting = settled(folder, dataset, TORCHRUN, num_epochs=8)
    return setting, setting.uninterrupted(folder)


@pytest.mark.parametrize("number", runs(10))
def test_a_killed_group(
    two: tuple[Setting, Uninterrupted], number: int, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    draws = draws_of("two", number)
    if draws.random() < 0.5:
        record_property(KILLED, ("two processes, all killed", survives(*two, tmp_path / "run", draws)))
        return
    hit: list[str] = []
    while not hit:  # the group may be faster than the one whose life was measured
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        hit = lose_one(*two, tmp_path / "run", draws)
    record_property(KILLED, ("two processes, one killed", hit))


def lose_one(setting: Setting, whole: Uninterrupted, folder: Path, draws: random.Random) -> list[str]:
    kills, hit, had = draws.randint(1, 2), list[str](), list[bool]()
    attempt = setting.start(folder, 1)
    while len(hit) < kills:
        moment = drawn(draws, whole.life)
        if not attempt.reaches(moment, places_in(folder)):
            break
        workers = [pid for pid in descendants_of(attempt.process.pid) if is_training(pid)]
        if workers:
            with suppress(ProcessLookupError):
                there = list_checkpoints(folder / "checkpoints")
                os.kill(draws.choice(workers), signal.SIGKILL)
                had.append(bool(there))
                hit.append(hit_by(moment, attempt.said))
        attempt.go_on()
    code = attempt.end()
    story = f"one was killed {len(hit)} times ({', '.join(hit)}):\n{attempt.said}"
    assert code == 0, story
    assert left_in(folder / "model") == whole.left, story
    starts = attempt.said.split("all were started again")
    if len(starts) > 1 and had[len(starts) - 2]:
        assert "going on from a checkpoint" in starts[-1], f"it began anew: its weights are right, and late\n{story}"
    return hit


def is_training(pid: int) -> bool:
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return any(entry.startswith(b"LOCAL_RANK=") for entry in environment)
    return False
