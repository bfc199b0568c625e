"""Training that starts from weights: what it gains, what stays frozen, and a backbone from training to evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from safetensors.torch import load_file

from components.evaluate.evaluate import evaluate
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.evaluation import EvaluationManifest
from components.shared.artifacts.model import MODEL, StartedFrom, open_model
from components.shared.errors import ParamsError, StorageRefusedError
from components.shared.files import sha256_of
from components.shared.params.params import Params
from components.shared.storage.location import Location, parse_location
from components.shared.storage.publish import Publication, write_file
from components.train.start import trial_trainer
from components.train.step import train_step
from components.train.train import train
from tests.examples import SMALL, small
from tests.peers.object_store import Bucket


def first_accuracy(model: Path) -> float:
    accuracy = open_model(model).manifest.history[0].accuracy
    assert accuracy is not None
    return accuracy


def test_fine_tuning_begins_where_the_earlier_model_ended(dataset: Path, tmp_path: Path, learnt: Path) -> None:
    train(dataset=dataset, model=tmp_path / "anew", params=small(num_epochs=1, learning_rate=0.001))
    tuned = small(num_epochs=1, learning_rate=0.001, initial_weights=str(learnt))
    train(dataset=dataset, model=tmp_path / "tuned", params=tuned)

    assert first_accuracy(tmp_path / "anew") < 0.5
    assert first_accuracy(tmp_path / "tuned") > 0.8
    started = open_model(tmp_path / "tuned").manifest.provenance.started_from
    assert started is not None
    assert started.sha256 == sha256_of(learnt / "model.safetensors")
    assert (started.name, started.classifier) == ("model", True)
    assert open_model(tmp_path / "anew").manifest.provenance.started_from is None


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_frozen_layers_keep_every_bit(dataset: Path, tmp_path: Path, learnt: Path, frozen: int) -> None:
    params = small(initial_weights=str(learnt), frozen_layers=frozen, optim_kwargs={"weight_decay": 0.1})
    result = train(dataset=dataset, model=tmp_path / "model", params=params)

    before, after = load_file(learnt / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {name for name in before if name.startswith(tuple(f"features.{index}." for index in range(frozen)))}
    trained = [name for name in before.keys() - kept if "running" not in name and "num_batches" not in name]
    assert result.parameters == sum(before[name].numel() for name in trained)


SIDE = 64
COLORS = ["red", "green", "blue"]


def write_colors(path: Path) -> Path:
    random = np.random.default_rng(0)
    with DatasetWriter(path, COLORS, (SIDE, SIDE, 3)) as writer:
        for split, count in (("train", 48), ("test", 24)):
            labels = np.arange(count) % 3
            images = random.integers(0, 128, (count, SIDE, SIDE, 3), dtype=np.uint8)
            images[np.arange(count), :, :, labels] += 100
            writer.add(split, images, labels)  # type: ignore[arg-type]
        writer.commit(source="noise", test_split="given", manual_seed=0, unreadable=[])
    return path


def color_params(**changes: Any) -> Params:
    config = {
        **SMALL,
        "image_height": SIDE,
        "image_width": SIDE,
        "is_image_color": True,
        "n_classes": 3,
        "num_epochs": 1,
        "batch_size": 16,
        "learning_rate": 0.001,
        "net_arch": [{"class": "torchvision.models.resnet18"}],
    }
    return Params.from_dict({**config, **changes})


WITHOUT_TORCHVISION = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
from components.evaluate.__main__ import main
code = main(sys.argv[1:])
assert "torchvision" not in sys.modules
sys.exit(code)
"""


@pytest.mark.slow
def test_a_backbone_is_tuned_and_evaluated_without_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(3)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    data, model = write_colors(tmp_path / "data"), tmp_path / "model"
    params = color_params(initial_weights=str(tmp_path / "resnet18.pth"))

    train(dataset=data, model=model, params=params)

    manifest = open_model(model).manifest
    assert manifest.provenance.started_from is not None
    assert manifest.provenance.started_from.sha256 == sha256_of(tmp_path / "resnet18.pth")
    here = evaluate(model=model, dataset=data, evaluation=tmp_path / "here", params=params)
    assert here.findings.metrics["log_loss"] == pytest.approx(manifest.selection.loss, rel=1e-6)

    (tmp_path / "params.json").write_text(params.to_json())
    places = ["--model", str(model), "--dataset", str(data), "--evaluation", str(tmp_path / "there")]
    command = [sys.executable, "-c", WITHOUT_TORCHVISION, *places, "--params", str(tmp_path / "params.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    there = EvaluationManifest.model_validate(json.loads((tmp_path / "there" / "evaluation.json").read_text()))
    assert there.metrics == here.manifest.metrics
    predictions = "predictions.csv"
    assert (tmp_path / "there" / predictions).read_bytes() == (tmp_path / "here" / predictions).read_bytes()


@pytest.mark.slow
def test_a_frozen_backbone_is_a_linear_probe(tmp_path: Path) -> None:
    torch.manual_seed(3)
    original = torchvision.models.resnet18().state_dict()
    torch.save(original, tmp_path / "resnet18.pth")
    params = color_params(initial_weights=str(tmp_path / "resnet18.pth"), frozen_layers=1)
    result = train(dataset=write_colors(tmp_path / "data"), model=tmp_path / "model", params=params)

    assert result.parameters == 512 * 3 + 3
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(
        torch.equal(after[f"features.0.{name}"], value)
        for name, value in original.items()
        if not name.startswith("fc.")
    )


@pytest.mark.slow
def test_weights_come_from_a_bucket(bucket: Bucket, dataset: Path, tmp_path: Path, learnt: Path) -> None:
    def started(name: str, weights: str) -> StartedFrom:
        params = small(num_epochs=1, initial_weights=weights)
        train_step(dataset=dataset, model=tmp_path / name, params=params)
        found = open_model(tmp_path / name).manifest.provenance.started_from
        assert found is not None
        return found

    model, file = parse_location(f"{bucket.uri}/models/7"), parse_location(f"{bucket.uri}/files/w.safetensors")
    assert isinstance(model, Location)
    assert isinstance(file, Location)
    with Publication(model, MODEL) as publication:
        publication.publish(learnt)
    write_file(file, learnt / "model.safetensors")
    digest = sha256_of(learnt / "model.safetensors")

    assert (started("one", str(model)).name, started("one", str(model)).sha256) == ("7", digest)
    assert (started("two", str(file)).name, started("two", str(file)).sha256) == ("w.safetensors", digest)
    with pytest.raises(StorageRefusedError, match="nothing is there"):
        started("three", f"{bucket.uri}/models/8")
    with pytest.raises(ParamsError) as caught:
        train_step(
            dataset=dataset,
            model=tmp_path / "four",
            params=small(initial_weights=str(file), net_arch=[{"class": "torch.nn.ReLU"}]),
        )
    assert f"initial_weights: {file}: does not fit net_arch" in str(caught.value)


def test_training_logs_frozen_layers_without_parameters_and_what_it_starts_from(
    dataset: Path, tmp_path: Path, learnt: Path, heard: pytest.LogCaptureFixture
) -> None:
    weights = {f"module.model.{name}": value for name, value in load_file(learnt / "model.safetensors").items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "last.ckpt")
    params = small(num_epochs=1, learning_rate=0.001, initial_weights=str(tmp_path / "last.ckpt"))
    train(dataset=dataset, model=tmp_path / "tuned", params=params)
    assert first_accuracy(tmp_path / "tuned") > 0.8
    (line,) = (line for line in heard.messages if line.startswith("starting from"))
    assert line.startswith(
        "starting from last.ckpt (its state_dict): 9 weights, without module.model. before their names"
    )
    assert line.endswith("; not used of it: epoch")

    trial_trainer(dataset, small(num_epochs=1, net_arch=[{"class": "torch.nn.ReLU"}], frozen_layers=1))
    message = "frozen_layers: the first layer of net_arch has no parameters; freezing has no effect"
    assert message in heard.messages
