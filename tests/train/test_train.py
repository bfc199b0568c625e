"""A training: what it leaves, what it refuses, and what it does not depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.classifier.images import Normaliser, store_images
from components.classifier.inference import predict
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.model import open_model
from components.shared.errors import ArtifactError, DivergedError, ParamsError
from components.train.__main__ import main
from components.train.train import train
from tests.configs import layer
from tests.examples import small, write_digits, write_params
from tests.train.networks import ONE_PIXEL, network_in
from tests.train.trials import epochs, trainer_of

CPU = torch.device("cpu")
DIVERGING: dict[str, Any] = {"optim_class": "torch.optim.SGD", "learning_rate": 1e30}


def test_it_learns(learnt: Path) -> None:
    manifest = open_model(learnt).manifest
    assert manifest.selection.accuracy > 0.8
    assert manifest.history[-1].train_loss < manifest.history[0].train_loss / 4


def test_the_same_run_twice_gives_the_same_files(dataset: Path, finished: Path, tmp_path: Path) -> None:
    train(dataset=dataset, model=tmp_path / "model", params=small())

    for file in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "model" / file).read_bytes() == (finished / "model" / file).read_bytes()


def test_the_model_is_the_best_epoch_and_says_which(dataset: Path, learnt: Path) -> None:
    model = open_model(learnt)
    evaluated = [record for record in model.manifest.history if record.accuracy is not None]
    best = max(evaluated, key=lambda record: (record.accuracy, -(record.loss or 0), -record.epoch))
    assert model.manifest.selection.epoch == best.epoch
    assert model.manifest.selection.split == "test"
    split = open_dataset(dataset).splits["test"]
    images, labels = store_images(split, CPU).store, torch.tensor(split.labels)
    normalise = Normaliser(model.manifest.normalisation, CPU)
    # In the memory order that training evaluates in.
    network = network_in(model).to(memory_format=torch.channels_last)
    metrics = predict(network, images, labels, normalise).metrics()
    assert (metrics.accuracy, metrics.loss) == (best.accuracy, best.loss)


def test_weights_are_plain_float32_in_torchs_order(finished: Path) -> None:
    weights = load_file(finished / "model" / "model.safetensors")

    assert weights["features.0.weight"].shape == (8, 1, 3, 3)
    assert weights["classifier.weight"].shape == (10, 72)
    assert weights["classifier.weight"].dtype == torch.float32


def test_a_validation_split_chooses_the_epoch_and_tensorboard_shows_scalars_and_curves(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 90, validation=True)

    result = train(dataset=data, model=tmp_path / "model", params=small(num_epochs=3, eval_freq=2))

    assert result.selection.split == "validation"
    events = EventAccumulator(str(tmp_path / "model" / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    assert [point.step for point in events.Scalars("loss/train")] == [1, 2, 3]
    assert [point.step for point in events.Scalars("accuracy/validation")] == [2, 3]
    assert {"learning_rate", "images_per_second", "f1/validation"} <= set(events.Tags()["scalars"])
    assert {f"precision_recall/{digit}" for digit in range(10)} <= set(events.Tags()["tensors"])


def test_a_batch_left_with_one_image_joins_the_one_before(dataset: Path) -> None:
    trainer = trainer_of(dataset, net_arch=ONE_PIXEL, batch_size=199, num_epochs=1)
    assert trainer.slices == [slice(0, 200)]
    epochs(trainer, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net_arch": ONE_PIXEL, "batch_size": 1}, r"net_arch\[1\].*more than 1 value"),
        (
            {"net_arch": [layer("Flatten"), layer("Linear", in_features=64, out_features=2**30)]},
            r"322\.1 GB, and a model\.onnx may have 2 GB",
        ),
        ({"image_height": 16, "n_classes": 3}, r"(?s)image_height: is 16.*n_classes: is 3"),
        ({"gate": {"recall[ten]": {"min": 0.5}}}, r"gate\.recall\[ten\]: there is no class 'ten' among 0, 1, 2"),
    ],
    ids=["statistics of one value", "larger than a file may be", "data of another shape", "a gate of another class"],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(
    dataset: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        train(dataset=dataset, model=tmp_path / "model", params=small(**changes))

    assert not (tmp_path / "model" / "model.json").exists()


def test_a_failed_attempt_leaves_no_model_and_may_be_repeated_in_its_directory(few: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="learning_rate"):
        train(dataset=few, model=tmp_path / "model", params=small(**DIVERGING))
    with pytest.raises(ArtifactError, match="not a complete model"):
        open_model(tmp_path / "model")

    train(dataset=few, model=tmp_path / "model", params=small())

    open_model(tmp_path / "model")


def test_a_directory_of_something_else_is_left_alone(few: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")

    with pytest.raises(ArtifactError, match="is not empty"):
        train(dataset=few, model=tmp_path / "photos", params=small())

    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_weights_do_not_depend_on_where_images_are_kept(
    dataset: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.classifier.images.free_bytes", lambda device: 0)
    train(dataset=dataset, model=tmp_path / "mapped", params=small())

    resident, mapped = (path / "model.safetensors" for path in (finished / "model", tmp_path / "mapped"))
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
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json")

    code = main(
        [
            *("--dataset", str(few), "--model", str(tmp_path / "model"), "--params", str(params)),
            *("--set", "num_epochs=1", "--checkpoints", str(tmp_path / "checkpoints"), "--json"),
        ]
    )

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["status"] == "succeeded"
    assert document["report"]["epochs"] == 1
    assert document["report"]["metrics"]["accuracy"] >= 0
    assert Path(document["report"]["checkpoints"]) == tmp_path / "checkpoints"
