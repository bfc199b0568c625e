"""Trainings on the device that are killed at random moments, two kills each: the same bytes in the end."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from components.train.checkpoints.format import list_checkpoints
from tests.examples import write_digits
from tests.gpu.conftest import DEVICE
from tests.gpu.settings import EVERYTHING, ON_GPU
from tests.kill.lives import IMAGES, Whole, draws_of, goes_on, left_in, runs, uninterrupted

KILLS = 2
BEGUN = " images in batches of "
PARAMS: dict[str, Any] = {
    **EVERYTHING,
    "device": DEVICE,
    "step": "graph",
    "precision": "bf16" if ON_GPU else "fp32",
    # Some seconds of training, so that most moments are between two steps.
    "num_epochs": 150 if ON_GPU else 20,
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("kills")
    return uninterrupted(folder, write_digits(folder / "dataset", IMAGES), **PARAMS)


@pytest.mark.parametrize("number", runs(10))
def test_a_run_that_is_killed_twice_leaves_the_same_bytes(whole: Whole, number: int, tmp_path: Path) -> None:
    draws, attempts, killed = draws_of("gpu", number), 0, list[str]()
    folder = tmp_path / "run"
    while True:
        attempts += 1
        had = list_checkpoints(folder / "checkpoints")
        attempt = whole.setting.start(folder, attempts)
        if len(killed) < KILLS:
            while attempt.process.poll() is None and BEGUN not in attempt.log:
                time.sleep(0.005)
            time.sleep(draws.uniform(0, whole.life_s / 3))
            if attempt.process.poll() is None:
                attempt.signal(signal.SIGKILL)
                attempt.process.wait()
                killed.append(f"{len(list_checkpoints(folder / 'checkpoints'))} checkpoints")
                goes_on(attempt, had)
            elif not killed:  # it was faster than the one whose life was measured
                assert attempt.process.returncode == 0, attempt.log
                shutil.rmtree(folder)
            else:
                break
            continue
        assert attempt.process.wait() == 0, attempt.log
        break
    goes_on(attempt, had)
    assert left_in(folder / "model") == whole.left, f"killed at {killed}, then:\n{attempt.log}"
