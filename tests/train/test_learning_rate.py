"""The learning-rate finder: the range test against plain torch, its suggestion, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from components.classifier.network import network_of
from components.shared.errors import DivergedError, InputError, NotLearningError
from components.train.__main__ import main
from components.train.train import train
from components.train.trials import FoundRate, find_learning_rate, has_diverged, suggestions
from tests.configs import schedule
from tests.examples import small, write_params
from tests.train.trials import ONE_STEP, PLAIN_ARCH, trainer_of, whole_batch

RATES = np.geomspace(1e-7, 10, 100).tolist()
DEAD: list[dict[str, Any]] = [{"class": "torch.nn.Threshold", "kwargs": {"threshold": 1e9, "value": 0}}]


def test_each_step_is_a_step_of_training_at_its_rate(dataset: Path) -> None:
    found = find_learning_rate(dataset, small(**ONE_STEP))

    trainer = trainer_of(dataset, **ONE_STEP)  # for the same first weights
    images, labels = whole_batch(trainer)
    losses = []
    for rate in RATES[: len(found.curve)]:
        loss = nn.functional.cross_entropy(trainer.network(images), labels)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(trainer.network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(trainer.network.parameters(), gradients, strict=True):
                parameter.sub_(rate * gradient)
    assert len(found.curve) > 80
    assert [one.rate for one in found.curve] == pytest.approx(RATES[: len(found.curve)])
    assert [one.loss for one in found.curve] == pytest.approx(losses, rel=0.01)


def test_the_suggested_rate_trains_better_than_ones_far_off(dataset: Path, tmp_path: Path) -> None:
    plain = {"net_arch": PLAIN_ARCH, "optim_class": "torch.optim.SGD", "num_epochs": 3}
    found = find_learning_rate(dataset, small(**plain, learning_rate=123.0))
    assert found.configured == 123.0
    assert found.below_lowest < 10

    def loss_at(rate: float) -> float:
        params = small(**plain, learning_rate=rate)
        try:
            return train(dataset=dataset, model=tmp_path / f"{rate}", params=params).train_loss
        except DivergedError:
            return math.inf

    good = loss_at(found.steepest)
    assert good < loss_at(found.steepest / 100) - 0.5
    assert good < loss_at(found.steepest * 100) - 0.5


def test_batches_are_gone_through_again_and_accumulated(dataset: Path) -> None:
    found = find_learning_rate(dataset, small(net_arch=PLAIN_ARCH, batch_size=32, gradient_accumulation_steps=4))
    assert len(found.curve) > 80  # of 2 steps an epoch
    whole = find_learning_rate(dataset, small(net_arch=PLAIN_ARCH, batch_size=128))
    ours, theirs = ([one.loss for one in result.curve[:40]] for result in (found, whole))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_more_batches_make_a_finer_curve(dataset: Path) -> None:
    found = find_learning_rate(dataset, small(net_arch=PLAIN_ARCH, batch_size=2))
    assert 150 < len(found.curve) <= 200


def test_what_would_set_the_rate_is_left_out(dataset: Path) -> None:
    plain = small(net_arch=PLAIN_ARCH)
    changing = [{**schedule("OneCycleLR", max_lr=1), "interval": "batch"}, schedule("StepLR", step_size=1)]
    with_schedules = small(net_arch=PLAIN_ARCH, learning_rate_schedule=changing[:1], ema_decay=0.9)
    in_turn = small(net_arch=PLAIN_ARCH, learning_rate_schedule=changing, milestones=[1])
    with_warmup = small(net_arch=PLAIN_ARCH, warmup_epochs=1)
    expected = find_learning_rate(dataset, plain).curve
    assert find_learning_rate(dataset, with_schedules).curve == expected
    assert find_learning_rate(dataset, in_turn).curve == expected
    assert find_learning_rate(dataset, with_warmup).curve == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_suggestion_is_the_steepest_descent_in_spite_of_noise(seed: int) -> None:
    logs = np.log10(RATES)
    falling = 2.3 - 2 / (1 + np.exp(-4 * (logs + 2.5)))  # most steeply at 10^-2.5
    rising = np.exp(6 * (logs - 0.2))  # the lowest is a little below 10^-0.5
    noise = np.random.default_rng(seed).normal(0, 0.03, len(RATES))
    found = suggestions(RATES, (falling + rising + noise).tolist())
    assert found is not None
    steepest, below_lowest = found
    assert abs(math.log10(steepest) + 2.5) < 0.35
    assert -2.2 < math.log10(below_lowest) < -1.2


def test_a_loss_that_does_not_fall_gives_no_suggestion() -> None:
    assert suggestions(RATES, [2.3] * 100) is None
    assert suggestions(RATES, np.linspace(2.3, 9, 100).tolist()) is None
    assert suggestions(RATES[:1], [2.3]) is None


def test_a_loss_has_diverged_when_it_is_far_above_its_best_and_its_start() -> None:
    assert not has_diverged([2.3] * 20)
    assert not has_diverged([2.3] * 20 + [0.01] * 20 + [2.0] * 5)
    assert has_diverged([2.3] * 20 + [0.5] * 10 + [3.0] * 5)
    assert not has_diverged([2.3] * 20 + [0.5] * 10 + [3.0])  # one alone is noise


def _tree(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()
    }


def test_the_command_prints_the_rate_and_the_curve_and_leaves_no_file(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json")
    monkeypatch.chdir(tmp_path)
    before = {**_tree(tmp_path), **_tree(dataset.parent)}

    code = main(["--find-learning-rate", "--dataset", str(dataset), "--params", str(params), "--json"])

    assert code == 0
    assert {**_tree(tmp_path), **_tree(dataset.parent)} == before
    out, err = capsys.readouterr()
    report = json.loads(out)["report"]
    assert {"learning_rate", "second_opinion", "configured", "steps", "curve"} == report.keys()
    assert report["steps"] == len(report["curve"]) > 50
    assert report["curve"][0].keys() == {"rate", "loss", "smoothed"}
    assert 1e-4 < report["learning_rate"] < 1
    assert "there the loss falls most steeply; the params have 0.01" in err
    assert "second opinion" in err


def test_where_the_loss_falls_nowhere_the_command_fails(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json", net_arch=DEAD)
    assert main(["--find-learning-rate", "--dataset", str(dataset), "--params", str(params)]) == 1
    assert "--smoke tries to learn a single batch" in capsys.readouterr().err
    with pytest.raises(NotLearningError, match="falls at no learning rate from 1e-07 to"):
        find_learning_rate(dataset, small(net_arch=DEAD))


def test_several_processes_are_refused(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a trial runs in one process; start it without torchrun"):
        find_learning_rate(dataset, small())


def test_a_result_is_an_event_too() -> None:
    event = FoundRate(0.01, 0.02, 0.03, ()).event(5.0)
    assert (event.seconds, event.metrics) == (5.0, {"learning_rate": 0.01, "second_opinion": 0.02})


def test_the_first_weights_are_those_of_the_run(dataset: Path) -> None:
    params = small(**ONE_STEP)
    trainer = trainer_of(dataset, **ONE_STEP)
    torch.manual_seed(0)
    assert trainer.network.state_dict().keys() == network_of(params).state_dict().keys()
    images, labels = whole_batch(trainer)
    with torch.no_grad():
        first = float(nn.functional.cross_entropy(trainer.network(images), labels))
    assert find_learning_rate(dataset, params).curve[0].loss == pytest.approx(first, rel=1e-5)
