"""Trials: one batch learnt by heart or what is wrong, and a learning rate against plain torch; nothing is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from components.shared.errors import DivergedError, InputError, NotLearningError
from components.train.__main__ import main
from components.train.train import train
from components.train.trials import STEPS, FoundRate, find_learning_rate, has_diverged, smoke, suggestions
from tests.configs import layer, schedule, transform
from tests.examples import small, write_params
from tests.peers.object_store import Bucket
from tests.train.trials import ONE_STEP, PLAIN_ARCH, trainer_of, whole_batch

RATES = np.geomspace(1e-7, 10, 100).tolist()
DEAD = [layer("Threshold", threshold=1e9, value=0)]
ONE_NUMBER = [layer("AdaptiveAvgPool2d", output_size=1)]
SGD: dict[str, Any] = {"optim_class": "torch.optim.SGD", "net_arch": PLAIN_ARCH}


def test_a_sound_network_learns_a_batch_by_heart(dataset: Path) -> None:
    result = smoke(dataset, small())

    assert result.images == 32
    assert 3 < result.steps < 100
    assert len(result.losses) == result.steps + 1
    assert result.losses[-1] < 0.05 * result.losses[0] < result.losses[-2]


def test_what_hinders_learning_by_heart_is_left_out(dataset: Path) -> None:
    hindered: dict[str, Any] = {
        "flip_images": True,
        "additional_transforms": [transform("RandomErasing", p=1)],
        "mixup_alpha": 1.0,
        "cutmix_alpha": 1.0,
        "warmup_epochs": 1,
        "learning_rate_schedule": [schedule("ExponentialLR", gamma=0.1) | {"interval": "batch", "name": None}] * 2,
        "milestones": [1],
        "loss": {"class": "torch.nn.CrossEntropyLoss", "kwargs": {"label_smoothing": 0.3}},
        "shuffle_dataset": False,
    }
    assert smoke(dataset, small(**hindered)).losses == smoke(dataset, small()).losses
    with_dropout = small(net_arch=[*PLAIN_ARCH, layer("Dropout", p=0.9)])
    assert smoke(dataset, with_dropout).losses == smoke(dataset, small(net_arch=PLAIN_ARCH)).losses


@pytest.mark.parametrize("loss", ["BCEWithLogitsLoss", "MultiMarginLoss"], ids=["one-hot", "margin"])
def test_every_loss_has_its_own_bar(dataset: Path, loss: str) -> None:
    params = small(loss={"class": f"torch.nn.{loss}"}, class_weights="balanced")
    assert smoke(dataset, params).losses[-1] < 0.05


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"net_arch": DEAD}, "the network gives the same for every image: it is dead"),
        ({**SGD, "learning_rate": 1e-8}, "the loss falls too slowly: learning_rate: 1e-08 is too low"),
        ({**SGD, "learning_rate": 1e-4}, "the loss falls too slowly: learning_rate: 0.0001 is too low"),
        ({**SGD, "learning_rate": 1e25}, "the loss left the numbers: learning_rate: 1e+25 is too high"),
        ({"net_arch": ONE_NUMBER, "learning_rate": 0.3}, "the loss stays where it is: the network is too small"),
        (
            {"net_arch": ONE_NUMBER, "learning_rate": 3.0, "optim_class": "torch.optim.RMSprop"},
            "the loss goes up and down: learning_rate: 3 is too high",
        ),
    ],
    ids=["dead", "far too low", "too low", "far too high", "too small", "too high"],
)
def test_a_failure_says_what_usually_is_wrong(dataset: Path, changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(NotLearningError) as caught:
        smoke(dataset, small(**changes))
    message = str(caught.value)
    assert wrong in message
    steps = 1 if "left the numbers" in wrong else STEPS
    assert message.startswith("32 images were not learnt by heart in ")
    assert steps == 1 or f"in {STEPS} steps" in message
    assert "loss " in message
    assert "at step 0, " in message


def test_a_success_on_odd_ways_is_warned_of(dataset: Path, heard: pytest.LogCaptureFixture) -> None:
    smoke(dataset, small(net_arch=PLAIN_ARCH, learning_rate=3.0, optim_class="torch.optim.RMSprop"))
    assert "on the way the loss rose to" in heard.text
    heard.clear()
    smoke(dataset, small())
    assert "rose" not in heard.text
    assert "left out" not in heard.text


def test_a_trial_logs_what_it_leaves_out_and_no_rate_of_its_own(few: Path, heard: pytest.LogCaptureFixture) -> None:
    smoke(few, small(flip_images=True, mixup_alpha=0.2, warmup_epochs=0.5, learning_rate=0.01, recipe="scratch-small"))
    left_out = "learning_rate_schedule, warmup_epochs, flip_images, additional_transforms, mixup_alpha"
    assert f"left out in this trial: {left_out}" in heard.messages
    assert "recipe" not in heard.text
    heard.clear()
    find_learning_rate(few, small(batch_size="auto", backbone_learning_rate=0.001, step="graph"))
    assert "batch_size auto: 8, the least that auto takes, for 60 images" in heard.messages
    assert "1e-07" not in heard.text
    assert "step: eager" not in heard.text


def test_each_step_is_a_step_of_training_at_its_rate_from_the_runs_first_weights(dataset: Path) -> None:
    found = find_learning_rate(dataset, small(**ONE_STEP))

    trainer = trainer_of(dataset, **ONE_STEP)
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
    assert [one["rate"] for one in found.curve] == pytest.approx(RATES[: len(found.curve)])
    assert [one["loss"] for one in found.curve] == pytest.approx(losses, rel=0.01)


def test_the_suggested_rate_trains_better_than_ones_far_off(few: Path, tmp_path: Path) -> None:
    plain = {"net_arch": PLAIN_ARCH, "optim_class": "torch.optim.SGD", "num_epochs": 6}
    found = find_learning_rate(few, small(**plain, learning_rate=123.0))
    assert found.configured == 123.0
    assert found.below_lowest < 10

    def loss_at(rate: float) -> float:
        try:
            return train(dataset=few, model=tmp_path / f"{rate}", params=small(**plain, learning_rate=rate)).train_loss
        except DivergedError:
            return math.inf

    good = loss_at(found.steepest)
    assert good < loss_at(found.steepest / 100) - 0.3
    assert good < loss_at(found.steepest * 100) - 0.3


def test_batches_are_gone_through_again_and_accumulated(dataset: Path) -> None:
    found = find_learning_rate(dataset, small(net_arch=PLAIN_ARCH, batch_size=32, gradient_accumulation_steps=4))
    assert len(found.curve) > 80  # of 2 steps an epoch
    whole = find_learning_rate(dataset, small(net_arch=PLAIN_ARCH, batch_size=128))
    ours, theirs = ([one["loss"] for one in result.curve[:40]] for result in (found, whole))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_more_batches_make_a_finer_curve(dataset: Path) -> None:
    found = find_learning_rate(dataset, small(net_arch=PLAIN_ARCH, batch_size=2))
    assert 150 < len(found.curve) <= 200


def test_what_would_set_the_rate_is_left_out(few: Path) -> None:
    changing = [schedule("OneCycleLR", max_lr=1) | {"interval": "batch"}, schedule("StepLR", step_size=1)]
    expected = find_learning_rate(few, small(net_arch=PLAIN_ARCH)).curve
    changes: list[dict[str, Any]] = [
        {"learning_rate_schedule": changing[:1], "ema_decay": 0.9},
        {"learning_rate_schedule": changing, "milestones": [1]},
        {"warmup_epochs": 1},
    ]
    for each in changes:
        assert find_learning_rate(few, small(net_arch=PLAIN_ARCH, **each)).curve == expected


def test_the_backbones_share_of_the_rate_is_kept(few: Path, heard: pytest.LogCaptureFixture) -> None:
    def found(**changes: Any) -> FoundRate:
        return find_learning_rate(few, small(learning_rate=0.01, **changes))

    assert found(backbone_learning_rate=0.01).curve == found().curve
    slower = found(backbone_learning_rate=0.001)
    assert slower.curve != found().curve
    rates = f"{slower.steepest / 10:g} beside learning_rate {slower.steepest:g}"
    assert f"backbone_learning_rate was 0.1 times the rate in every step: {rates}" in heard.messages


@pytest.mark.parametrize("seed", range(3))
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


def test_a_result_is_an_event_too() -> None:
    event = FoundRate(0.01, 0.02, 0.03, ()).event(5.0)
    assert (event.seconds, event.metrics) == (5.0, {"learning_rate": 0.01, "second_opinion": 0.02})


@pytest.mark.parametrize("trial", ["--smoke", "--find-learning-rate"])
def test_the_command_reports_and_leaves_no_file_beside_a_dataset_in_a_bucket_and_here(
    trial: str,
    dataset: Path,
    gcs_bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in dataset.rglob("*"):
        if path.is_file():
            gcs_bucket.write(f"data/{path.relative_to(dataset)}", path.read_bytes())
    before = gcs_bucket.names()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path / "params.json")
    data = f"{gcs_bucket.uri}/data"

    assert main([trial, "--dataset", data, "--params", "params.json", "--model", "model", "--json"]) == 0

    assert gcs_bucket.names() == before
    assert list((tmp_path / "scratch").glob("shutterline*")) == []  # torch may leave a folder of its own
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.json", "scratch"]
    out, err = capsys.readouterr()
    report = json.loads(out)["report"]
    assert "fetched" in err
    assert "not compiled (which would take longer than the trial)" in err
    if trial == "--smoke":
        assert report.keys() == {"images", "steps", "learning_rate", "losses"}
        assert f"32 images were learnt by heart in {report['steps']} steps at learning_rate 0.01: loss " in err
        assert len(report["losses"]) == report["steps"] + 1
    else:
        assert report.keys() == {"learning_rate", "second_opinion", "configured", "steps", "curve"}
        assert report["steps"] == len(report["curve"]) > 50
        assert report["curve"][0].keys() == {"rate", "loss", "smoothed"}
        assert 1e-4 < report["learning_rate"] < 1
        assert "there the loss falls most steeply; the params have 0.01" in err
        assert "second opinion" in err


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("--smoke", "the network gives the same for every image"),
        ("--find-learning-rate", "falls at no learning rate from 1e-07 to"),
    ],
)
def test_a_trial_that_fails_has_exit_code_1_and_no_traceback(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trial: str, message: str
) -> None:
    params = write_params(tmp_path / "params.json", net_arch=DEAD)
    assert main([trial, "--dataset", str(dataset), "--params", str(params), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "NotLearningError"
    assert message in err
    assert "Traceback" not in err


def test_several_processes_are_refused(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a trial runs in one process; start it without torchrun"):
        find_learning_rate(dataset, small())


GIVEN = ["--dataset", "data", "--params", "{}"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (GIVEN, "the following arguments are required: --model"),
        ([], "the following arguments are required: --dataset, --model, --params"),
        (["--smoke"], "the following arguments are required: --dataset, --params"),
        (
            [*GIVEN, "--smoke", "--find-learning-rate"],
            "argument --find-learning-rate: not allowed with argument --smoke",
        ),
        ([*GIVEN, "--smoke", "--start-over"], "argument --start-over: not allowed with argument --smoke"),
        (
            [*GIVEN, "--find-learning-rate", "--checkpoints=c"],
            "argument --checkpoints: not allowed with argument --find-learning-rate",
        ),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    prog = "python -m components.train"
    assert capsys.readouterr().err == f"{prog}: error: {message} (see {prog} --help)\n"
