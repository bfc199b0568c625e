"""The speed report: what is measured, what it may not cost, and how it is told."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.classifier import device
from components.shared.artifacts.model import TIME_SHARES, Speed, open_model
from components.train import speed
from components.train.curves import Curves
from components.train.speed import compared, measure_speed, speed_lines
from components.train.train import train
from components.train.trainer import Trainer
from tests.configs import schedule
from tests.examples import small
from tests.train.manifests import SPEED
from tests.train.trials import trainer_of, weights


class Clock:
    """The time as the measuring sees it: each step of the optimiser takes as long as the test says."""

    def __init__(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> None:
        self.now, self.steps = 1_000.0, 0
        self._seconds = seconds
        trainer.optimiser.register_step_post_hook(lambda *_: self._step())
        for module in (speed, device):
            monkeypatch.setattr(module, "time", self)

    def _step(self) -> None:
        self.steps += 1
        self.now += self._seconds(self.steps)

    def perf_counter(self) -> float:
        self.now += 1e-6  # nothing is done in no time
        return self.now


def trained(dataset: Path, seconds: float, step_s: float = 0.01, **changes: Any) -> Trainer:
    trainer = trainer_of(dataset, num_epochs=1, **changes)
    trainer.train_epoch(lambda: None)
    trainer.end_epoch()
    trainer.timing.seconds = dict.fromkeys(TIME_SHARES, 0.0)
    trainer.timing.seconds["forward_backward"] = step_s * trainer.position.step
    trainer.timing.seconds["other"] = seconds - step_s * trainer.position.step
    return trainer


def test_rounds_that_agree_are_their_median_and_their_range(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(dataset, 100.0)
    Clock(trainer, monkeypatch, lambda step: 0.01)

    found = measure_speed(trainer)

    assert found.rounds == 5
    assert found.of_constant_tensor == pytest.approx(1, abs=0.01)
    assert found.of_constant_tensor_range == pytest.approx([1, 1], abs=0.01)
    assert found.constant_tensor_samples_per_second == pytest.approx(32 / 0.01, rel=0.01)
    assert found.samples_per_second == trainer.images_per_second
    assert set(found.shares) == set(TIME_SHARES)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.precision, found.compiled, found.data, found.processes) == ("fp32", False, "resident", 1)


@pytest.mark.parametrize("seed", range(3))
def test_rounds_that_do_not_agree_are_no_figure(dataset: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    trainer = trained(dataset, 100.0)
    draws = random.Random(seed)  # noqa: S311 - protects nothing
    Clock(trainer, monkeypatch, lambda step: min(0.001 * draws.paretovariate(0.5), 0.2))

    found = measure_speed(trainer)

    assert (found.of_constant_tensor, found.constant_tensor_samples_per_second) == (None, None)
    assert re.fullmatch(
        r"not measurable here \((ratios [\d.e-]+ to [\d.e-]+|\d rounds).*\)", found.why_not["of_constant_tensor"]
    )
    assert "%" not in speed_lines(found)[0]


@given(st.lists(st.floats(min_value=1e-6, max_value=1e6), max_size=7))
@example([0.62, 0.9, 1.31])
@example([1.3, 1.31, 1.32])
@example([25.92, 25.92, 25.92])
@example([0.8, 0.81])
@example([0.8, 0.81, math.nan])
def test_no_figure_is_beyond_what_is_possible_or_vague(ratios: list[float]) -> None:
    found = compared(ratios)

    if isinstance(found, str):
        assert found.startswith("not measurable here (")
        assert len(ratios) < 3 or max(ratios) > 1.25 * min(ratios) or max(ratios) > 1.05 or math.isnan(sum(ratios))
    else:
        middle, lowest, highest = found
        assert len(ratios) >= 3
        assert middle <= 1.05
        assert lowest <= middle <= highest <= 1.25 * lowest


@pytest.mark.parametrize("slower", [1, 30, 1_000])
@pytest.mark.parametrize("seconds", [30.0, 300.0])
def test_measuring_takes_at_most_three_hundredths_of_the_run(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, slower: int, seconds: float
) -> None:
    step_s = seconds / 30_000
    trainer = trained(dataset, seconds, step_s)
    clock = Clock(trainer, monkeypatch, lambda step: step_s * slower)
    begun = clock.now

    found = measure_speed(trainer)

    assert clock.steps > 0
    assert clock.now - begun <= 0.03 * seconds + 4 * step_s * slower  # the steps in which the time ended
    assert found.rounds >= 3 if slower == 1 else found.rounds == 0 or found.rounds >= 3


@pytest.mark.parametrize(
    ("seconds", "step_s", "why"),
    [
        (100.0, 2.0, "not measurable here (a step takes 2 s, too long for 3 s)"),
        (29.0, 0.001, "not measured with less than 30 s of steps and evaluations"),
    ],
)
def test_what_cannot_be_measured_is_not_begun(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, step_s: float, why: str
) -> None:
    trainer = trained(dataset, seconds, step_s)
    clock = Clock(trainer, monkeypatch, lambda step: step_s)

    found = measure_speed(trainer)

    assert clock.steps == 0
    assert (found.of_constant_tensor, found.rounds) == (None, 0)
    assert found.why_not == {"of_constant_tensor": why}
    assert found.samples_per_second > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"flip_images": True, "data_placement": "host", "gradient_accumulation_steps": 3},
        {"ema_decay": 0.9, "mixup_alpha": 0.5, "max_grad_norm": 1.0, "batch_size": 200},
        {"learning_rate_schedule": [schedule("OneCycleLR", max_lr=0.1) | {"interval": "batch"}]},
    ],
    ids=["accumulated", "averaged", "one cycle"],
)
def test_measuring_changes_nothing_that_a_run_still_needs(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    trainer = trained(dataset, 100.0, **changes)
    Clock(trainer, monkeypatch, lambda step: 0.01)
    before, best = weights(trainer), {name: value.clone() for name, value in trainer.best.weights.items()}
    kept = dict(trainer.timing.seconds), list(trainer.history), asdict(trainer.position), trainer.images_per_second

    found = measure_speed(trainer)

    assert found.rounds >= 3
    assert all(torch.equal(one, other) for one, other in zip(before, weights(trainer), strict=True))
    assert all(torch.equal(value, trainer.best.weights[name]) for name, value in best.items())
    seconds, history, position, rate = kept
    assert (dict(trainer.timing.seconds), trainer.history) == (seconds, history)
    assert (asdict(trainer.position), trainer.images_per_second) == (position, rate)


def test_measuring_changes_nothing_of_the_model(
    dataset: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SHORTEST_S": 0.0, "SHARE": 1e6, "LONGEST_S": 600.0, "MOST_STEPS": 3, "WIDEST": 1e9}.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed, "HIGHEST", 1e9)
    result = train(dataset=dataset, model=tmp_path / "measured", params=small())

    for name in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "measured" / name).read_bytes() == (finished / "model" / name).read_bytes()
    measured, unmeasured = (open_model(path).manifest for path in (tmp_path / "measured", finished / "model"))
    assert measured.provenance.speed is not None
    assert measured.provenance.speed.rounds == 5
    assert measured.provenance.speed.samples_per_second == result.images_per_second
    assert measured.provenance.seconds == result.seconds
    assert unmeasured.provenance.speed is not None
    assert unmeasured.provenance.speed.rounds == 0


def test_what_does_not_fit_in_memory_loses_no_model(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(dataset, 100.0)

    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "read_batches", full)
    found = measure_speed(trainer)

    assert found.why_not == {"of_constant_tensor": "not measurable here (it does not fit in memory)"}


UNKNOWN = Speed(samples_per_second=12.3, precision="fp32", compiled=True, data="mapped", shares={}, processes=2)


def test_tensorboard_shows_what_was_measured_as_scalars(tmp_path: Path) -> None:
    with Curves(tmp_path / "known") as curves:
        curves.speed(SPEED, epoch=7)
    with Curves(tmp_path / "unknown") as curves:
        curves.speed(UNKNOWN, epoch=1)

    known, unknown = (EventAccumulator(str(tmp_path / name)).Reload() for name in ("known", "unknown"))
    scalars = {tag: known.Scalars(tag)[0] for tag in known.Tags()["scalars"]}
    assert {scalar.step for scalar in scalars.values()} == {7}
    names = ("samples_per_second", "constant_tensor_samples_per_second", "of_constant_tensor")
    expected = {f"speed/{name}": getattr(SPEED, name) for name in names}
    expected |= {f"time/{name}": share for name, share in SPEED.shares.items()}
    assert {tag: scalar.value for tag, scalar in scalars.items()} == pytest.approx(expected)
    assert unknown.Tags()["scalars"] == ["speed/samples_per_second"]


TRAINING = "speed: training 123,456 images/s (bf16, not compiled, images on the device, processes: 1)"
BOUND = "of the same step fed one random batch"
TIME = (
    "time: data 5.0 %, forward and backward 70.0 %, optimiser 10.0 %, compiling 3.0 %, evaluation 5.0 %, "
    "checkpoints 2.0 %, status 1.0 %, other 4.0 %"
)
UNMEASURED: dict[str, Any] = dict.fromkeys(
    ["constant_tensor_samples_per_second", "of_constant_tensor", "of_constant_tensor_range"]
)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, [f"{TRAINING}; {BOUND} 95.0 % (93.0 % to 98.0 % in 5 rounds) of 130,000 images/s", TIME]),
        (
            UNMEASURED | {"why_not": {"of_constant_tensor": "not measurable here (ratios 0.62 to 1.31)"}},
            [f"{TRAINING}; {BOUND} not measurable here (ratios 0.62 to 1.31)", TIME],
        ),
        ({"of_constant_tensor_range": None}, [f"{TRAINING}; {BOUND} 95.0 % of 130,000 images/s", TIME]),
        (
            UNKNOWN.model_dump(),
            [
                "speed: training 12.3 images/s (fp32, compiled, images on the host's disk, mapped, processes: 2); "
                f"{BOUND} –"
            ],
        ),
    ],
    ids=["measured", "not", "version 0.6", "version 0.5"],
)
def test_the_log_has_rates_or_the_reason_and_the_parts_of_the_time(changes: dict[str, Any], lines: list[str]) -> None:
    assert speed_lines(SPEED.model_copy(update=changes)) == lines
