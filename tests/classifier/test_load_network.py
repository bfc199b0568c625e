"""A model directory gives back the network that was trained, or says what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from components.classifier.load import load_network
from components.classifier.network import Network, network_of
from components.shared.artifacts.artifact import ArtifactWriter, ImageShape
from components.shared.artifacts.model import MODEL, Model, open_model
from components.shared.errors import ArtifactError
from components.shared.files import sha256_of
from components.shared.params.params import Params
from tests.configs import layer, small
from tests.train.manifests import manifest_of

PARAMS = Params.from_dict(
    small(
        n_classes=3,
        is_image_color=True,
        net_arch=[
            layer("Conv2d", in_channels=3, out_channels=4, kernel_size=3),
            layer("BatchNorm2d", num_features=4),
            layer("Dropout", p=0.5),
            layer("FractionalMaxPool2d", kernel_size=2, output_size=[3, 3]),
        ],
    )
)


def trained(seed: int) -> Network:
    """A network whose every number is its own."""
    torch.manual_seed(seed)
    network = network_of(PARAMS)
    network(torch.rand(8, 3, 8, 8))  # moves the batch statistics
    return network


def write_model(path: Path, network: Network, last: Network) -> Model:
    with ArtifactWriter(path, MODEL) as writer:
        files = {}
        for name, weights in (("model.safetensors", network), ("last.safetensors", last)):
            files[name] = writer.new_file(name)
            save_file(weights.state_dict(), files[name])
        recorded: dict[str, Any] = dict(
            zip(("weights", "last_weights"), map(writer.record, files.values()), strict=True)
        )
        net_arch = [entry.model_dump(by_alias=True) for entry in PARAMS.net_arch]
        image = ImageShape(height=8, width=8, channels=3)
        writer.commit(manifest_of([], classes=["a", "b", "c"], image=image, net_arch=net_arch, **recorded))
    return open_model(path)


def test_the_network_comes_back_with_its_weights_for_evaluation(tmp_path: Path) -> None:
    network, last = trained(1), trained(2)
    model = write_model(tmp_path / "model", network, last)
    loaded = load_network(model)

    assert not any(module.training for module in loaded.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert loaded.n_classes == 3
    assert loaded.values_per_image == network.values_per_image
    images = torch.rand(4, 3, 8, 8)
    torch.manual_seed(0)
    expected = network.eval()(images)
    torch.manual_seed(0)
    assert torch.equal(loaded(images), expected)


def test_other_weights_of_the_same_network_load_by_their_file(tmp_path: Path) -> None:
    network, last = trained(1), trained(2)
    model = write_model(tmp_path / "model", network, last)
    loaded = load_network(model, model.path / model.manifest.last_weights.file)
    assert torch.equal(loaded.classifier.weight, last.classifier.weight)
    assert not torch.equal(loaded.classifier.weight, network.classifier.weight)


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> Model:
    """The model after `change` did something to its manifest, every file recorded as it now is."""
    manifest = path / MODEL.manifest_file
    document = json.loads(manifest.read_text())
    change(document)
    for key in ("weights", "last_weights"):
        file = path / document[key]["file"]
        document[key].update(bytes=file.stat().st_size, sha256=sha256_of(file))
    manifest.write_text(json.dumps(document))
    return open_model(path)


def kwargs_of(index: int, **changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["net_arch"][index]["kwargs"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        kwargs_of(0, out_channels=5),
        kwargs_of(0, kernal=3),
        kwargs_of(1, affine=False),
        kwargs_of(3, return_indices=True),
        lambda document: document["net_arch"].pop(),
        lambda document: document["net_arch"].append(layer("Flatten", start_dim=0)),
        lambda document: document["net_arch"].append({"class": "os.system", "kwargs": {}}),
        lambda document: document["net_arch"].append({"klass": 1}),
        lambda document: document["classes"].append("d"),
        lambda document: document["image"].update(height=1),
    ],
)
def test_weights_that_do_not_fit_the_stated_architecture_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "model"
    write_model(path, trained(1), trained(2))
    model = resealed(path, change)
    with pytest.raises(ArtifactError) as caught:
        load_network(model)
    message = str(caught.value)
    assert message.startswith(f"{path / 'model.safetensors'}: does not fit the architecture in model.json: ")
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model"
    write_model(path, trained(1), trained(2))
    (path / "model.safetensors").write_bytes(content)
    model = resealed(path, lambda document: None)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: does not fit the architecture"):
        load_network(model)
    with pytest.raises(ArtifactError, match=r"nowhere\.safetensors: does not fit the architecture"):
        load_network(model, path / "nowhere.safetensors")
