"""A network's program gives what the network gives, and a program that is more than data is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.classifier.network import Network, network_of
from components.classifier.program import load_program, write_program
from components.shared.artifacts.artifact import ImageShape
from components.shared.params.params import Params
from tests.classifier.test_backbones import backbone, color

IMAGE = ImageShape(height=32, width=32, channels=3)


def network_with(name: str, **kwargs: Any) -> Network:
    torch.manual_seed(1)
    network = network_of(Params.from_dict(color(backbone(name, **kwargs))))
    network(torch.rand(4, 3, 32, 32))  # moves the batch statistics
    return network


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet18", {}),
        pytest.param("shufflenet_v2_x0_5", {}, marks=pytest.mark.slow),
        pytest.param("swin_t", {}, marks=pytest.mark.slow),
        pytest.param("vit_b_32", {"image_size": 32}, marks=pytest.mark.slow),
    ],
)
def test_a_program_gives_the_networks_logits(tmp_path: Path, name: str, kwargs: dict[str, Any]) -> None:
    network, file = network_with(name, **kwargs), tmp_path / "network.pt2"
    assert write_program(network, IMAGE, file) == ""
    other = {key: value + 0.01 if value.is_floating_point() else value for key, value in network.state_dict().items()}
    for weights in (network.state_dict(), other):
        network.load_state_dict(weights)
        program = load_program(file, weights, 2).to(memory_format=torch.channels_last)
        expected = network.to(memory_format=torch.channels_last)
        assert program.values_per_image == network.values_per_image
        assert {key: value.shape for key, value in program.program.state_dict().items()} == {
            key: value.shape for key, value in weights.items()
        }
        for batch in (1, 2, 5):
            images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                # torch has a faster attention for evaluation, which rounds elsewhere.
                tolerance = 1e-4 if name.startswith("vit") else 0
                torch.testing.assert_close(program(images), expected(images), rtol=tolerance, atol=tolerance)


Written = tuple[Network, Path]


@pytest.fixture(scope="module")
def once_written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    network, file = network_with("resnet18"), tmp_path_factory.mktemp("program") / "network.pt2"
    assert write_program(network, IMAGE, file) == ""
    return network, file


@pytest.fixture
def written(once_written: Written, tmp_path: Path) -> Written:
    network, file = once_written
    return network, Path(shutil.copy(file, tmp_path))


def test_a_program_holds_no_weights_and_no_paths(written: Written) -> None:
    _, file = written
    assert file.stat().st_size < 1_000_000  # the weights are 45 MB
    assert str(Path.cwd()).encode() not in file.read_bytes()


def test_a_program_evaluates_and_does_not_train(written: Written) -> None:
    network, file = written
    program = load_program(file, network.state_dict(), 2)
    assert program.eval() is program
    assert not program.training
    with pytest.raises(ValueError, match="no training mode"):
        program.train()


@pytest.mark.parametrize("change", ["missing", "misshapen", "type"])
def test_weights_of_another_network_do_not_go_into_a_program(written: Written, change: str) -> None:
    network, file = written
    weights = dict(network.state_dict())
    match change:
        case "missing":
            weights.pop("features.0.layer1.0.conv1.weight")
        case "misshapen":
            weights["classifier.weight"] = torch.zeros(3, 512)
        case _:
            weights["classifier.weight"] = weights["classifier.weight"].double()
    with pytest.raises((ValueError, RuntimeError), match=r"layer1\.0\.conv1\.weight|classifier\.weight"):
        load_program(file, weights, 2)


def rewritten(file: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """The archive after `change` did something to its entries."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def in_graph(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], object]:
    def edit(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.endswith("models/model.json"))
        document = json.loads(entries[name])
        change(document)
        entries[name] = json.dumps(document).encode()

    return edit


def node(document: dict[str, Any]) -> Any:
    return document["graph_module"]["graph"]["nodes"][0]


def pickled(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith("weights/model_weights_config.json"))
    entries[name] = entries[name].replace(b'"use_pickle": false', b'"use_pickle": true')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_graph(lambda document: node(document).update(target="torch.hub.load")), "its target 'torch.hub.load'"),
        (in_graph(lambda document: node(document).update(target="torch.ops.os.system")), "its target"),
        (in_graph(lambda document: document.update(guards_code=["__import__('os')"])), "code to run before"),
        (in_graph(lambda document: document["range_constraints"].update({"exit()": {}})), "its range_constraints"),
        (in_graph(lambda document: node(document).update(name="a(): import os")), "its name"),
        (in_graph(lambda document: node(document).update(x={"expr_str": "eval('1')"})), "its expr_str"),
        (pickled, "a pickled object"),
        (lambda entries: entries.update({"network/data/sample_inputs/model.pt": b"x"}), "example inputs"),
        (lambda entries: entries.update({"network/data/weights/model.pt": b"x"}), "no part of a graph"),
        (lambda entries: entries.clear(), "0 graphs"),
    ],
)
def test_a_program_that_is_more_than_data_is_refused(
    written: Written, change: Callable[[dict[str, bytes]], object], message: str
) -> None:
    network, file = written
    rewritten(file, change)
    with pytest.raises(ValueError, match=message):
        load_program(file, network.state_dict(), 2)


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "network.pt2"
    file.write_bytes(b"no program")
    with pytest.raises(ValueError, match=r"no program of torch\.export"):
        load_program(file, {}, 2)
