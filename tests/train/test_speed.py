"""The speed-of-light report: what is counted, and what it may not cost."""

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

from components.classifier.network import examine
from components.shared.artifacts.model import TIME_SHARES, open_model
from components.shared.params.types import LayerSpec
from components.train import speed
from components.train.precision import flops_of_training
from components.train.speed import compared, measure_speed, speed_lines
from components.train.train import train
from components.train.trainer import Trainer
from tests.configs import layer
from tests.examples import small
from tests.train.trials import trainer_of, weights

ARCH = [
    layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3, bias=False),  # 6×6×4 values of 9 products
    layer("ReLU"),
    layer("Conv2d", in_channels=4, out_channels=8, kernel_size=3, bias=False),  # 4×4×8 of 36
]
FIRST, SECOND, LAST = 6 * 6 * 4 * 9, 4 * 4 * 8 * 36, 4 * 4 * 8 * 10


@pytest.mark.parametrize(
    ("frozen", "products"),
    [
        (0, 2 * FIRST + 3 * SECOND + 3 * LAST),  # nobody needs the gradient of the images
        (1, 1 * FIRST + 2 * SECOND + 3 * LAST),
        (3, 1 * FIRST + 1 * SECOND + 2 * LAST),
    ],
)
def test_what_is_not_computed_is_not_counted(frozen: int, products: int) -> None:
    specs = [LayerSpec.model_validate(entry) for entry in ARCH]
    assert flops_of_training(examine(specs, (8, 8, 1), 10, frozen_layers=frozen)) == 2 * products


class Clock:
    """The time as the measuring sees it: each step of the optimiser takes as long as the test says."""

    def __init__(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> None:
        self.now, self.steps = 1_000.0, 0
        self._seconds = seconds
        trainer.optimiser.register_step_post_hook(lambda *_: self._step())
        monkeypatch.setattr(speed, "time", self)

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

    found = measure_speed(trainer, 1_000)

    assert found.rounds == 5
    assert found.of_constant_tensor == pytest.approx(1, abs=0.01)
    assert found.of_constant_tensor_range == pytest.approx([1, 1], abs=0.01)
    assert found.constant_tensor_samples_per_second == pytest.approx(32 / 0.01, rel=0.01)
    assert found.samples_per_second == trainer.images_per_second
    assert set(found.shares) == set(TIME_SHARES)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.precision, found.compiled, found.data, found.processes) == ("fp32", False, "resident", 1)


@pytest.mark.parametrize("seed", range(5))
def test_rounds_that_do_not_agree_are_no_figure(dataset: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    trainer = trained(dataset, 100.0)
    draws = random.Random(seed)  # noqa: S311 - protects nothing
    Clock(trainer, monkeypatch, lambda step: min(0.001 * draws.paretovariate(0.5), 0.2))

    found = measure_speed(trainer, 1_000)

    assert (found.of_constant_tensor, found.constant_tensor_samples_per_second) == (None, None)
    assert re.fullmatch(
        r"not measurable here \((ratios [\d.e-]+ to [\d.e-]+|\d rounds).*\)", found.why_not["of_constant_tensor"]
    )
    assert "%" not in speed_lines(found)[0].partition("matrix")[0]


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


@pytest.mark.parametrize("slower", [1, 3, 30, 1_000])
@pytest.mark.parametrize("seconds", [30.0, 100.0, 300.0])
def test_measuring_takes_at_most_three_hundredths_of_the_run(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, slower: int, seconds: float
) -> None:
    step_s = 0.001
    trainer = trained(dataset, seconds, step_s)
    clock = Clock(trainer, monkeypatch, lambda step: step_s * slower)
    begun = clock.now

    found = measure_speed(trainer, 1_000)

    assert clock.steps > 0
    assert clock.now - begun <= 0.03 * seconds + step_s * slower  # the step in which the time ended
    if slower == 1:
        assert found.of_constant_tensor is not None
    else:
        assert found.rounds == 0 or found.rounds >= 3 or found.of_constant_tensor is None


def test_steps_too_long_to_be_repeated_are_not_begun(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(dataset, 100.0, step_s=2.0)
    clock = Clock(trainer, monkeypatch, lambda step: 2.0)

    found = measure_speed(trainer, 1_000)

    assert clock.steps == 0
    assert speed_lines(found)[0] == "speed: not measurable here (a step takes 2 s, too long for 3 s)"


def test_a_short_run_measures_nothing(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(dataset, 29.0)
    clock = Clock(trainer, monkeypatch, lambda step: 0.001)

    found = measure_speed(trainer, 1_000)

    assert clock.steps == 0
    assert (found.of_constant_tensor, found.of_matmul, found.rounds) == (None, None, 0)
    assert speed_lines(found)[0] == "speed: not measured in a run under 30 s"
    assert found.samples_per_second > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"flip_images": True, "data_placement": "host", "gradient_accumulation_steps": 3},
        {"ema_decay": 0.9, "mixup_alpha": 0.5, "max_grad_norm": 1.0, "batch_size": 200},
        {"learning_rate_schedule": [{"class": "torch.optim.lr_scheduler.OneCycleLR", "kwargs": {"max_lr": 0.1},
                                     "interval": "batch"}]},
    ],
    ids=["accumulated", "averaged", "one cycle"],
)  # fmt: skip
def test_measuring_changes_nothing_that_a_run_still_needs(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    trainer = trained(dataset, 100.0, **changes)
    Clock(trainer, monkeypatch, lambda step: 0.01)
    before = (
        weights(trainer),
        dict(trainer.timing.seconds),
        list(trainer.history),
        asdict(trainer.position),
        {name: value.clone() for name, value in trainer.best.weights.items()},
        trainer.images_per_second,
    )

    found = measure_speed(trainer, 1_000)

    assert found.rounds >= 3
    assert found.of_constant_tensor is not None
    for one, other in zip(before[0], weights(trainer), strict=True):
        assert torch.equal(one, other), "a step at a learning rate of 0"
    assert dict(trainer.timing.seconds) == before[1]
    assert (trainer.history, asdict(trainer.position), trainer.images_per_second) == (before[2], before[3], before[5])
    assert all(torch.equal(value, trainer.best.weights[name]) for name, value in before[4].items())


def test_measuring_changes_nothing_of_the_model(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(dataset=dataset, model=tmp_path / "unmeasured", params=small(flip_images=True))
    monkeypatch.setattr(speed, "SHORTEST_S", 0.0)
    monkeypatch.setattr(speed, "SHARE", 1e6)
    monkeypatch.setattr(speed, "LONGEST_S", 600.0)
    monkeypatch.setattr(speed, "MOST_STEPS", 3)
    result = train(dataset=dataset, model=tmp_path / "measured", params=small(flip_images=True))

    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "measured" / name).read_bytes() == (tmp_path / "unmeasured" / name).read_bytes()
    measured, unmeasured = (open_model(tmp_path / name).manifest for name in ("measured", "unmeasured"))
    assert measured.provenance.speed is not None
    assert measured.provenance.speed.rounds == 5
    assert measured.provenance.speed.samples_per_second == result.images_per_second
    assert measured.provenance.seconds == result.seconds
    assert unmeasured.provenance.speed is not None
    assert unmeasured.provenance.speed.rounds == 0
    assert len(measured.history) == len(unmeasured.history)


def test_what_does_not_fit_in_memory_loses_no_model(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(dataset, 100.0)

    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "read_batches", full)
    found = measure_speed(trainer, 1_000)

    assert set(found.why_not.values()) == {"not measurable here (it does not fit in memory)"}


def test_an_average_keeps_the_counters_of_the_network(dataset: Path) -> None:
    trainer = trainer_of(
        dataset,
        ema_decay=0.9,
        net_arch=[
            layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3),
            layer("BatchNorm2d", num_features=4),
        ],
    )
    trainer.train_epoch(lambda: None)
    steps = trainer.position.step
    assert steps > 1
    assert trainer.evaluated_network.state_dict()["features.1.num_batches_tracked"] == steps
    assert trainer.average is not None
    assert trainer.average.n_averaged.device.type == "cpu"


def test_an_epochs_images_a_second_are_of_that_epoch(dataset: Path, tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level("INFO", "shutterline.train"):
        train(dataset=dataset, model=tmp_path / "model", params=small(num_epochs=5))

    history = open_model(tmp_path / "model").manifest.history
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert [line.rpartition("  ")[2] for line in lines] == [
        f"{each.images_per_second:,.0f} images/s" for each in history
    ]
