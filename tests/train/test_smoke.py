"""--smoke: one batch learnt by heart, or what is wrong with a network that cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import NotLearningError
from components.train.__main__ import main
from components.train.trials import STEPS, smoke
from tests.configs import layer, schedule
from tests.examples import small, write_params
from tests.train.trials import PLAIN_ARCH

DEAD = [layer("Threshold", threshold=1e9, value=0)]
ONE_NUMBER = [layer("AdaptiveAvgPool2d", output_size=1)]


def test_a_sound_network_learns_a_batch_by_heart(dataset: Path) -> None:
    result = smoke(dataset, small())

    assert result.images == 32
    assert 3 < result.steps < 100
    assert len(result.losses) == result.steps + 1
    assert result.losses[-1] < 0.05 * result.losses[0]
    assert result.losses[-2] > 0.05 * result.losses[0]


def test_what_hinders_learning_by_heart_is_left_out(dataset: Path) -> None:
    hindered: dict[str, Any] = {
        "flip_images": True,
        "additional_transforms": [{"class": "torchvision.transforms.v2.RandomErasing", "kwargs": {"p": 1}}],
        "mixup_alpha": 1.0,
        "cutmix_alpha": 1.0,
        "warmup_epochs": 1,
        "learning_rate_schedule": [{**schedule("ExponentialLR", gamma=0.1), "interval": "batch", "name": None}] * 2,
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


SGD: dict[str, Any] = {"optim_class": "torch.optim.SGD", "net_arch": PLAIN_ARCH}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"net_arch": DEAD}, "the network gives the same for every image: it is dead"),
        ({**SGD, "learning_rate": 1e-8}, "the loss has hardly moved: learning_rate: 1e-08 is too low"),
        ({**SGD, "learning_rate": 1e-4}, "the loss still falls: learning_rate: 0.0001 is too low"),
        ({**SGD, "learning_rate": 1e25}, "the loss left the numbers: learning_rate: 1e+25 is too high"),
        ({"net_arch": ONE_NUMBER, "learning_rate": 0.3}, "the loss stays where it is: the network is too small"),
    ],
    ids=["dead", "far too low", "too low", "far too high", "too small"],
)
def test_a_failure_says_what_usually_is_wrong(dataset: Path, changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(NotLearningError) as caught:
        smoke(dataset, small(**changes))
    message = str(caught.value)
    assert wrong in message
    assert message.startswith("32 images were not learnt by heart in ")
    assert "loss " in message
    assert "at step 0, " in message


def test_a_rate_that_is_too_high_shows_in_the_curve(dataset: Path) -> None:
    with pytest.raises(NotLearningError, match=r"goes up and down: learning_rate: 3 is too high") as caught:
        smoke(dataset, small(net_arch=ONE_NUMBER, learning_rate=3.0, optim_class="torch.optim.RMSprop"))
    assert f"in {STEPS} steps" in str(caught.value)


def test_a_success_on_odd_ways_is_warned_of(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"net_arch": PLAIN_ARCH, "learning_rate": 3.0, "optim_class": "torch.optim.RMSprop"}
    params = write_params(tmp_path / "params.json", **odd)
    assert main(["--smoke", "--dataset", str(dataset), "--params", str(params)]) == 0
    assert "WARNING on the way the loss rose to" in capsys.readouterr().err
    assert main(["--smoke", "--dataset", str(dataset), "--params", str(write_params(tmp_path / "sound.json"))]) == 0
    assert "WARNING" not in capsys.readouterr().err


def test_the_command_says_in_how_many_steps_and_leaves_no_file(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json")
    monkeypatch.chdir(tmp_path)

    assert main(["--smoke", "--dataset", str(dataset), "--params", str(params), "--json"]) == 0

    assert [path.name for path in tmp_path.iterdir()] == ["params.json"]
    out, err = capsys.readouterr()
    report = json.loads(out)["report"]
    assert f"32 images were learnt by heart in {report['steps']} steps at learning_rate 0.01: loss " in err
    assert len(report["losses"]) == report["steps"] + 1
    assert "not compiled (which would take longer than the trial)" in err
    assert "as compile says" not in err


def test_a_model_that_is_named_is_not_made(dataset: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.json")
    model = str(tmp_path / "model")
    assert main(["--smoke", "--dataset", str(dataset), "--params", str(params), "--model", model]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["params.json"]


def test_the_command_fails_with_a_code_of_its_own(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json", net_arch=DEAD)
    assert main(["--smoke", "--dataset", str(dataset), "--params", str(params), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "NotLearningError"
    assert "Traceback" not in err


PLACES = ["--dataset", "data", "--params", "{}"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (PLACES, "the following arguments are required: --model"),
        ([], "the following arguments are required: --dataset, --model, --params"),
        (["--smoke"], "the following arguments are required: --dataset, --params"),
        (
            [*PLACES, "--smoke", "--find-learning-rate"],
            "argument --find-learning-rate: not allowed with argument --smoke",
        ),
        ([*PLACES, "--smoke", "--start-over"], "argument --start-over: not allowed with argument --smoke"),
        (
            [*PLACES, "--find-learning-rate", "--checkpoints=c"],
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
