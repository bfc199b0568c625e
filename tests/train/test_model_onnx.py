"""model.onnx of a training: what is in the file, and that it computes what the trained network computes."""

from __future__ import annotations

import json
import logging
import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from components.classifier.images import Normaliser
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.model import open_model
from components.shared.errors import ShutterlineError
from components.shared.signals import Terminated
from components.shared.version import __version__
from components.train.onnx_check import require_same_predictions
from components.train.precision import Precision, without_tf32
from components.train.train import train
from components.train.trainer import Trainer
from tests.examples import small
from tests.train.networks import network_in, onnx_of
from tests.train.trials import trainer_of

LOG = logging.getLogger("shutterline.train")

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported


def test_it_computes_what_the_network_computes(learnt: Path, dataset: Path) -> None:
    import onnxruntime

    model = open_model(learnt)
    assert model.manifest.onnx is not None
    images = np.array(open_dataset(dataset).splits["test"].images()[:64])
    session = onnxruntime.InferenceSession(learnt / model.manifest.onnx.file)
    (found,) = session.run(["probabilities"], {"images": images})
    network = network_in(model)
    with torch.inference_mode():
        normalise = Normaliser(model.manifest.normalisation, torch.device("cpu"))
        wanted = torch.softmax(network(normalise(torch.from_numpy(images))), dim=1).numpy()
    assert np.abs(found - wanted).max() <= 1e-5
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()


def test_its_metadata_says_what_a_reader_needs_and_nothing_of_this_machine(learnt: Path) -> None:
    manifest = open_model(learnt).manifest
    content = (learnt / "model.onnx").read_bytes()
    proto = onnx.load_from_string(content)
    assert {entry.key: entry.value for entry in proto.metadata_props} == {
        "shutterline.version": __version__,
        "shutterline.classes": json.dumps(manifest.classes),
        "shutterline.image": json.dumps(manifest.image.as_tuple()),
        "shutterline.weights_sha256": manifest.weights.sha256,
    }
    assert not [text for text in (b"/components/", b"site-packages", b"pkg.torch") if text in content]


def test_servers_that_are_years_behind_can_read_it(learnt: Path) -> None:
    proto = onnx.load(learnt / "model.onnx")
    # At most 19 and 9: ONNX Runtime 1.15, which KServe 0.20 starts in Triton 23.05, refuses more.
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 18)]
    assert proto.ir_version == 8
    onnx.checker.check_model(proto, full_check=True)


def test_the_average_of_weights_is_what_it_has(dataset: Path, tmp_path: Path) -> None:
    train(dataset=dataset, model=tmp_path / "model", params=small(ema_decay=0.8))
    model = open_model(tmp_path / "model")
    stored = {each.name: each for each in onnx.load(tmp_path / "model" / "model.onnx").graph.initializer}
    for name, value in load_file(tmp_path / "model" / "model.safetensors").items():
        if not name.endswith("num_batches_tracked"):
            assert stored[f"network.{name}"].raw_data == value.numpy().tobytes()
    assert model.manifest.provenance.params["ema_decay"] == 0.8


@pytest.fixture(scope="module")
def trainer(dataset: Path) -> Trainer:
    trainer = trainer_of(dataset, normalise_images=False)
    trainer.train_epoch(lambda: None)
    trainer.end_epoch()
    return trainer


def test_a_file_that_gives_something_else_is_an_error(trainer: Trainer, tmp_path: Path) -> None:
    file, network = tmp_path / "model.onnx", deepcopy(trainer.network)
    with torch.no_grad():
        network.classifier.bias[0] += 10
    file.write_bytes(onnx_of(network, trainer.params))

    with pytest.raises(ShutterlineError) as error:
        require_same_predictions(file, trainer, lambda: None, LOG)

    assert re.fullmatch(
        r"model\.onnx does not give what the trained network gives: of 100 held-out images 100 differ, by up to "
        r"\d\.\de-01 \(1e-05 is allowed\), and \d+ get another class; no model is written, and the "
        r"checkpoints are kept",
        str(error.value),
    )
    assert error.value.exit_code == 1


def test_what_float32_cannot_tell_is_no_error(
    trainer: Trainer, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    file, kept = tmp_path / "model.onnx", trainer.best.weights
    trainer.best.weights = {
        name: value * 1e6 if name.startswith("classifier") else value for name, value in kept.items()
    }
    with trainer.best_network() as network:
        file.write_bytes(onnx_of(network, trainer.params))

    require_same_predictions(file, trainer, lambda: None, LOG)

    trainer.best.weights = kept
    assert "100 of 100 held-out images compared" in heard.text


def test_the_check_is_in_float32_also_after_training_in_tf32(trainer: Trainer, tmp_path: Path) -> None:
    flags: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    seen = []
    file = tmp_path / "model.onnx"
    with trainer.best_network() as network:
        file.write_bytes(onnx_of(network, trainer.params))
    with without_tf32():
        Precision("tf32", "").set_flags()
        require_same_predictions(file, trainer, lambda: seen.append([each.allow_tf32 for each in flags]), LOG)
        assert [each.allow_tf32 for each in flags] == [True, True]
    assert seen == [[False, False]] * len(seen) != []


def test_the_check_can_be_ended(trainer: Trainer, tmp_path: Path) -> None:
    def poll() -> None:
        raise Terminated

    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_of(trainer.network, trainer.params))
    with pytest.raises(Terminated):
        require_same_predictions(file, trainer, poll, LOG)
