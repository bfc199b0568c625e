"""model.onnx of a training: what is in the file, and that it computes what the trained network computes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import torch

from components.classifier.images import Normaliser
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.model import open_model
from components.shared.version import __version__
from tests.train.networks import network_in

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
