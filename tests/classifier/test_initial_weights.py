"""What a network takes from a file of weights, and what of it is refused: all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file

from components.classifier.initial_weights import load_initial_weights, start_network, told
from components.classifier.network import Network, network_of
from components.shared.artifacts import sha256_of
from components.shared.errors import EXIT_BAD_INPUT, ArtifactError, ParamsError
from components.shared.params import Params
from tests.classifier.test_backbones import backbone, color
from tests.classifier.test_load_network import PARAMS, trained, write_model
from tests.configs import layer, refused, small

State = dict[str, torch.Tensor]


def copied(network: Network) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: State, other: State, start: str = "") -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items() if name.startswith(start))


def test_an_earlier_model_gives_its_weights(tmp_path: Path) -> None:
    earlier = trained(1)
    write_model(tmp_path / "model", earlier, trained(2))
    network = trained(3)

    start = load_initial_weights(network, tmp_path / "model")

    assert same(network.state_dict(), earlier.state_dict())
    assert start.model_dump() == {
        "name": "model",
        "sha256": sha256_of(tmp_path / "model" / "model.safetensors"),
        "tensors": 9,
        "initialised": 0,
        "classifier": True,
    }
    assert told(start) == "starting from model: 9 weights, with the classifying layer"


def test_another_number_of_classes_leaves_the_classifying_layer(tmp_path: Path) -> None:
    earlier = trained(1)
    write_model(tmp_path / "model", earlier, trained(2))
    torch.manual_seed(7)
    network = network_of(Params.from_dict({**PARAMS.to_dict(), "n_classes": 5}))
    before = copied(network)

    start = load_initial_weights(network, tmp_path / "model")

    assert same(earlier.features.state_dict(), network.features.state_dict())
    assert same(network.state_dict(), before, "classifier.")
    assert (start.tensors, start.initialised, start.classifier) == (7, 2, False)
    assert "7 weights, without the classifying layer; 2 start at random" in told(start)


def wrapped(name: str) -> Callable[[State], Any]:
    return lambda state: {name: state, "epoch": 3}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize(
    "form",
    [lambda state: state, wrapped("state_dict"), wrapped("model"), "module.", "_orig_mod."],
    ids=["plain", "state_dict", "model", "module", "compiled"],
)
def test_files_of_weights_as_people_save_them(tmp_path: Path, suffix: str, form: Any) -> None:
    earlier, file = trained(1), tmp_path / f"weights{suffix}"
    state: Any = copied(earlier)
    state = {f"{form}{name}": value for name, value in state.items()} if isinstance(form, str) else form(state)
    if suffix != ".safetensors":
        torch.save(state, file)
    elif "epoch" in state:
        return  # safetensors hold tensors alone
    else:
        save_file(state, file)
    network = trained(3)
    assert load_initial_weights(network, file).tensors == 9
    assert same(network.state_dict(), earlier.state_dict())


RESNET = [layer("Conv2d", in_channels=3, out_channels=3, kernel_size=1), backbone("resnet18")]


def test_a_file_of_torchvision_goes_into_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = torchvision.models.resnet18(num_classes=7).state_dict()
    torch.save({name: value for name, value in original.items() if "num_batches" not in name}, tmp_path / "r.pth")
    torch.manual_seed(2)
    network = network_of(Params.from_dict(color(*RESNET, frozen_layers=2)))
    before = copied(network)

    start = load_initial_weights(network, tmp_path / "r.pth")

    own = network.features[1].state_dict()
    assert all(torch.equal(own[name], value) for name, value in original.items() if not name.startswith("fc."))
    assert same(network.state_dict(), before, "features.0.")
    assert same(network.state_dict(), before, "classifier.")
    assert not any(parameter.requires_grad for parameter in network.features.parameters())
    assert (start.tensors, start.classifier) == (100, False)  # 122 tensors, without 20 counters and the head's two
    assert start.initialised == len(before) - 100


@pytest.mark.parametrize(
    "name", ["densenet121", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "vit_b_32"))]
)
def test_names_that_begin_like_ours_and_names_of_old_files(tmp_path: Path, name: str) -> None:
    kwargs = {"image_size": 32} if name == "vit_b_32" else {}
    torch.manual_seed(1)
    original: State = getattr(torchvision.models, name)(**kwargs).state_dict()
    old = {}
    for key, value in original.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):  # denselayer1.norm1.weight was denselayer1.norm.1.weight
            key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in key else key
        old[key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")] = value
    torch.save(old, tmp_path / "old.pth")
    network = network_of(Params.from_dict(color(backbone(name, **kwargs))))
    load_initial_weights(network, tmp_path / "old.pth")
    own = network.features[0].state_dict()
    assert len(own) == len(original) - 2
    assert all(torch.equal(value, original[key]) for key, value in own.items())


def failure(network: Network, path: Path) -> str:
    """The one problem of a start that fails, after which the network is as it was."""
    before = copied(network)
    with pytest.raises(ParamsError) as caught:
        load_initial_weights(network, path)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert same(network.state_dict(), before)
    (problem,) = caught.value.problems
    assert problem.path == "initial_weights"
    assert "\n" not in problem.message
    assert problem.message.startswith(f"{path}: ")
    return problem.message.removeprefix(f"{path}: ")


def test_weights_that_do_not_fit_are_named_with_their_shapes(tmp_path: Path) -> None:
    state = copied(trained(1))
    state.pop("features.1.running_mean")
    state["features.0.weight"] = torch.zeros(4, 1, 3, 3)
    state |= {f"features.{index}.weight": torch.zeros(1) for index in range(4, 9)}
    save_file(state, tmp_path / "w.safetensors")
    assert failure(trained(2), tmp_path / "w.safetensors") == (
        "does not fit net_arch: 1 is missing (features.1.running_mean); 5 are not of this network (features.4.weight, "
        "features.5.weight, features.6.weight, …); 1 is of another shape (features.0.weight must be 4×3×3×3 and is "
        "4×1×3×3)"
    )


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    message = failure(network_of(Params.from_dict(color(*RESNET))), tmp_path / "resnet34.pth")
    assert message.startswith("does not fit net_arch: 96 are not of this network (features.1.layer1.2.conv1.weight, ")
    message = failure(trained(1), tmp_path / "resnet34.pth")
    assert "7 are missing (features.0.weight" in message or "6 are missing (features.0.weight" in message


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of a stranger ran",)


def test_files_that_are_no_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = trained(1)
    assert failure(network, tmp_path / "none.pth") == "there is no such file or model directory"
    (tmp_path / "notes.txt").write_text("x")
    assert "its name must end with .safetensors, .pth, .pt" in failure(network, tmp_path / "notes.txt")
    torch.save({"a": Code()}, tmp_path / "code.pth")
    assert "holds more than tensors, and reading it could run code" in failure(network, tmp_path / "code.pth")
    assert capsys.readouterr().out == ""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "save the module's state_dict()" in failure(network, tmp_path / "module.pt")
    torch.save(copied(network), tmp_path / "whole.pth")
    save_file(copied(network), tmp_path / "whole.safetensors")
    for whole in ("whole.pth", "whole.safetensors"):
        content = (tmp_path / whole).read_bytes()
        for name, part in (("half", content[: len(content) // 2]), ("empty", b""), ("junk", b"junk" * 99)):
            broken = (tmp_path / name).with_suffix(Path(whole).suffix)
            broken.write_bytes(part)
            assert failure(network, broken)
    for held, message in (
        ([1, 2], "must hold tensors by name, as state_dict() gives them, got a list"),
        ({}, "must hold tensors by name"),
        ({"epoch": 3}, "the text 'epoch' names 3"),
        ({"classifier.bias": torch.tensor([float("nan")])}, "classifier.bias has values that are not finite"),
    ):
        torch.save(held, tmp_path / "held.pth")
        assert message in failure(network, tmp_path / "held.pth")


def test_a_damaged_model_directory_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model", trained(1), trained(2))
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    network = trained(3)
    before = copied(network)
    with pytest.raises(ArtifactError, match="SHA-256 is not the manifest's"):
        load_initial_weights(network, tmp_path / "model")
    (tmp_path / "model" / "model.json").unlink()
    with pytest.raises(ArtifactError, match="is not a complete model"):
        load_initial_weights(network, tmp_path / "model")
    assert same(network.state_dict(), before)


def test_a_manifest_from_before_programs_still_opens(tmp_path: Path) -> None:
    write_model(tmp_path / "model", trained(1), trained(2))
    manifest = tmp_path / "model" / "model.json"
    document = json.loads(manifest.read_text())
    del document["program"], document["provenance"]["started_from"]
    manifest.write_text(json.dumps(document))
    assert load_initial_weights(trained(3), tmp_path / "model").classifier


def test_params_say_where_weights_lie() -> None:
    assert start_network(trained(1), PARAMS) is None
    for value, message in (
        ("https://example.com/w.pth", "https:// is not known here; allowed are a local path"),
        ("gs://", "it names no bucket"),
    ):
        assert message in refused(Params.from_dict, small(initial_weights=value))["initial_weights"]
    params = Params.from_dict(PARAMS.to_dict() | {"initial_weights": "gs://bucket/w.pth"})
    with pytest.raises(ParamsError, match=r"gs://bucket/w\.pth lies in a bucket"):
        start_network(trained(1), params)
