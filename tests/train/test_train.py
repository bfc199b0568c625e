from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.classifier.images import Normaliser, store_images
from components.classifier.inference import predict
from components.classifier.load import load_network
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.model import open_model
from components.shared.errors import ArtifactError, DivergedError, ParamsError
from components.train.__main__ import main
from components.train.train import train
from tests.examples import small, write_digits, write_params


def test_it_learns(dataset: Path, tmp_path: Path) -> None:
    result = train(dataset=dataset, model=tmp_path / "model", params=small(num_epochs=12))

    assert result.selection.accuracy > 0.8
    history = open_model(tmp_path / "model").manifest.history
    assert history[-1].train_loss < history[0].train_loss / 4


def test_the_same_run_twice_gives_the_same_files(dataset: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(dataset=dataset, model=tmp_path / name, params=small(flip_images=True, num_epochs=3))

    for file in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_model_is_the_best_epoch_and_says_which(dataset: Path, tmp_path: Path) -> None:
    train(dataset=dataset, model=tmp_path / "model", params=small(num_epochs=6, learning_rate=0.05))

    model = open_model(tmp_path / "model")
    evaluated = [record for record in model.manifest.history if record.accuracy is not None]
    best = max(evaluated, key=lambda record: (record.accuracy, -(record.loss or 0), -record.epoch))
    assert model.manifest.selection.epoch == best.epoch
    assert model.manifest.selection.split == "test"
    data, cpu = open_dataset(dataset), torch.device("cpu")
    for weights, record in ((None, best), (model.path / "last.safetensors", evaluated[-1])):
        test = data.splits["test"]
        predictions = predict(
            load_network(model, weights),
            store_images(test, cpu).store,
            torch.tensor(test.labels),
            Normaliser(model.manifest.normalisation, cpu),
        )
        assert predictions.metrics().accuracy == record.accuracy
        assert predictions.metrics().loss == record.loss


def test_a_validation_split_chooses_the_epoch(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", validation=True)

    result = train(dataset=data, model=tmp_path / "model", params=small())

    assert result.selection.split == "validation"


def test_the_serving_export_gives_the_networks_probabilities(dataset: Path, tmp_path: Path) -> None:
    train(dataset=dataset, model=tmp_path / "model", params=small())
    model = open_model(tmp_path / "model")
    images = torch.from_numpy(np.array(open_dataset(dataset).splits["test"].images()[:7]))
    normalise = Normaliser(model.manifest.normalisation, torch.device("cpu"))

    exported = torch.export.load(tmp_path / "model" / "model.pt2").module()(images)

    with torch.no_grad():
        expected = torch.softmax(load_network(model)(normalise(images)), dim=1)
    torch.testing.assert_close(exported, expected, rtol=1e-5, atol=1e-6)


def test_tensorboard_shows_scalars_and_curves(dataset: Path, tmp_path: Path) -> None:
    train(dataset=dataset, model=tmp_path / "model", params=small(num_epochs=3, eval_freq=2))

    events = EventAccumulator(str(tmp_path / "model" / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    assert [point.step for point in events.Scalars("loss/train")] == [1, 2, 3]
    assert [point.step for point in events.Scalars("accuracy/test")] == [2, 3]
    assert {"learning_rate", "images_per_second", "f1/test"} <= set(events.Tags()["scalars"])
    assert {f"precision_recall/{digit}" for digit in range(10)} <= set(events.Tags()["tensors"])


def test_a_batch_left_with_one_image_joins_the_one_before(dataset: Path, tmp_path: Path) -> None:
    arch = [
        {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 4, "kernel_size": 8}},
        {"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": 4}},
    ]
    train(dataset=dataset, model=tmp_path / "model", params=small(net_arch=arch, batch_size=199))


def test_batch_size_one_under_batch_statistics_is_refused(dataset: Path, tmp_path: Path) -> None:
    arch = [
        {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 4, "kernel_size": 8}},
        {"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": 4}},
    ]
    with pytest.raises(ParamsError, match=r"net_arch\[1\].*more than 1 value"):
        train(dataset=dataset, model=tmp_path / "model", params=small(net_arch=arch, batch_size=1))


def test_a_loss_that_leaves_the_numbers_ends_the_run_and_leaves_no_model(dataset: Path, tmp_path: Path) -> None:
    params = small(optim_class="torch.optim.SGD", learning_rate=1e30)

    with pytest.raises(DivergedError, match="learning_rate"):
        train(dataset=dataset, model=tmp_path / "model", params=params)

    with pytest.raises(ArtifactError, match="not a complete model"):
        open_model(tmp_path / "model")


def test_a_failed_attempt_may_be_repeated_in_its_directory(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        train(
            dataset=dataset,
            model=tmp_path / "model",
            params=small(optim_class="torch.optim.SGD", learning_rate=1e30),
        )

    train(dataset=dataset, model=tmp_path / "model", params=small())

    open_model(tmp_path / "model")


def test_data_of_another_shape_is_refused_with_all_that_differs(dataset: Path, tmp_path: Path) -> None:
    params = small(image_height=16, n_classes=3)

    with pytest.raises(ParamsError) as refused:
        train(dataset=dataset, model=tmp_path / "model", params=params)

    assert [problem.path for problem in refused.value.problems] == ["image_height", "n_classes"]
    assert not (tmp_path / "model").exists()


def test_a_network_larger_than_memory_is_refused_before_it_is_made(dataset: Path, tmp_path: Path) -> None:
    arch = [
        {"class": "torch.nn.Flatten", "kwargs": {}},
        {"class": "torch.nn.Linear", "kwargs": {"in_features": 64, "out_features": 2**30}},
    ]
    with pytest.raises(ParamsError, match="GB are free"):
        train(dataset=dataset, model=tmp_path / "model", params=small(net_arch=arch))


def test_a_directory_of_something_else_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")

    with pytest.raises(ArtifactError, match="is not empty"):
        train(dataset=dataset, model=tmp_path / "photos", params=small())

    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_weights_do_not_depend_on_where_images_are_kept(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataset=dataset, model=tmp_path / "resident", params=small(flip_images=True))
    monkeypatch.setattr("components.classifier.images.free_bytes", lambda device: 0)
    train(dataset=dataset, model=tmp_path / "mapped", params=small(flip_images=True))

    resident, mapped = (tmp_path / name / "model.safetensors" for name in ("resident", "mapped"))
    assert resident.read_bytes() == mapped.read_bytes()


def test_the_host_asks_the_device_nothing_between_steps(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def call(self: torch.Tensor, *args: object, **kwargs: object) -> object:
            asked.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, call)

    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"):
        counted(name)
    counts = []
    for batch_size in (100, 4):  # 2 steps an epoch, and 50
        asked.clear()
        params = small(batch_size=batch_size, flip_images=True, num_epochs=1, optim_class="torch.optim.SGD")
        train(dataset=dataset, model=tmp_path / str(batch_size), params=params)
        counts.append(len(asked))

    assert counts[0] == counts[1] > 0


def test_the_command_line_prints_one_json_document(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json")

    code = main(
        [
            *("--dataset", str(dataset), "--model", str(tmp_path / "model"), "--params", str(params)),
            *("--set", "num_epochs=1", "--checkpoints", str(tmp_path / "checkpoints"), "--json"),
        ]
    )

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["status"] == "succeeded"
    assert document["report"]["epochs"] == 1
    assert document["report"]["metrics"]["accuracy"] >= 0
    assert Path(document["report"]["checkpoints"]) == tmp_path / "checkpoints"


def test_weights_are_plain_float32_in_torchs_order(dataset: Path, tmp_path: Path) -> None:
    train(dataset=dataset, model=tmp_path / "model", params=small())

    weights = load_file(tmp_path / "model" / "model.safetensors")

    assert weights["features.0.weight"].shape == (8, 1, 3, 3)
    assert weights["classifier.weight"].shape == (10, 72)
    assert weights["classifier.weight"].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("size", [(24, 120), (0, 0)])
def test_a_terminal_shows_a_bar(dataset: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=3)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    command = [sys.executable, "-m", "components.train", "--dataset", str(dataset), "--model", str(tmp_path / "model")]

    with subprocess.Popen([*command, "--params", str(params)], stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):
            while block := os.read(ours, 4096):
                shown += block
    os.close(ours)

    assert process.returncode == 0, shown.decode()
    assert b"epoch 1/3:" in shown
    assert b"/21 " in shown  # of 3 epochs with 7 batches
    assert b"train     epoch 3/3  loss" in shown  # which stays above the bar
