"""What a network takes from a file of weights, and what of it is refused: all or nothing."""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torchvision.models
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP  # noqa: N817 - its usual name
from torch.optim.swa_utils import AveragedModel

from components.classifier.initial_weights import describe_start, load_initial_weights, start_network
from components.classifier.network import Network, network_of
from components.classifier.weight_files import WEIGHT_FILES
from components.shared.artifacts.model import StartedFrom
from components.shared.errors import EXIT_BAD_INPUT, ArtifactError, ParamsError
from components.shared.files import sha256_of
from components.shared.params.params import Params
from tests.classifier.small_models import PARAMS, trained, write_model
from tests.classifier.test_backbones import backbone, color
from tests.configs import layer, refused, small

State = dict[str, torch.Tensor]


def copied(network: Network) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: State, other: State, start: str = "") -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items() if name.startswith(start))


def test_an_earlier_model_gives_its_weights(tmp_path: Path) -> None:
    earlier = trained(1)
    write_model(tmp_path / "model", earlier)
    network = trained(3)

    start = load_initial_weights(network, tmp_path / "model")

    assert same(network.state_dict(), earlier.state_dict())
    assert (start.name, start.tensors, start.initialised, start.classifier) == ("model", 9, 0, True)
    assert start.sha256 == sha256_of(tmp_path / "model" / "model.safetensors")
    assert describe_start(start) == "starting from model: 9 weights, with the classifying layer"


def test_another_number_of_classes_leaves_the_classifying_layer(tmp_path: Path) -> None:
    earlier = trained(1)
    write_model(tmp_path / "model", earlier)
    torch.manual_seed(7)
    network = network_of(Params.from_dict({**PARAMS.to_dict(), "n_classes": 5}))
    before = copied(network)

    start = load_initial_weights(network, tmp_path / "model")

    assert same(earlier.features.state_dict(), network.features.state_dict())
    assert same(network.state_dict(), before, "classifier.")
    assert (start.tensors, start.initialised, start.classifier) == (7, 2, False)
    assert "7 weights, without the classifying layer; 2 start at random" in describe_start(start)


def loaded(held: Any, file: Path) -> tuple[Network, StartedFrom]:
    """What a file of weights makes of a network."""
    save_file(held, file) if file.suffix == ".safetensors" else torch.save(held, file)
    network = trained(3)
    return network, load_initial_weights(network, file)


def test_every_kind_of_file_of_weights_is_read(tmp_path: Path) -> None:
    earlier = trained(1)
    for suffix in WEIGHT_FILES:
        network, start = loaded(copied(earlier), tmp_path / f"weights{suffix}")
        assert same(network.state_dict(), earlier.state_dict())
        assert start.tensors == 9


@pytest.fixture
def alone_in_a_group() -> Iterator[None]:
    """A process group of this process."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def of_another(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def averaged(network: nn.Module) -> AveragedModel:
    average = AveragedModel(network, use_buffers=True)
    average.update_parameters(network)
    return average


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network)  # type: ignore[return-value]


class Module(nn.Module):
    """A network as an attribute, beside something that has tensors of its own."""

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.add_module(name, network)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))


def optimiser_of(network: nn.Module) -> dict[str, Any]:
    """The state of an AdamW after a step, which has tensors for each parameter."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=0.0)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    return optimiser.state_dict()


ARGS = argparse.Namespace(lr=0.1, output=Path("out"))
# What is saved, where the weights are in it, what is before their names, and what else is there.
Saved = tuple[Callable[[Network], Any], str, str, list[str]]
AVERAGE = "(an average of the weights, which fits too)"
SAVED: dict[str, Saved] = {
    "torch's tutorial of checkpoints": (
        lambda net: {"epoch": 3, "model_state_dict": net.state_dict(), "optimizer": optimiser_of(net)},
        *("model_state_dict", "", ["epoch", "optimizer"]),
    ),
    "torch's example of ImageNet": (
        lambda net: {"state_dict": DDP(net).state_dict(), "best_acc1": torch.tensor(70.0), "arch": "own"},
        *("state_dict", "module.", ["arch", "best_acc1"]),
    ),
    "torchvision's references": (
        lambda net: {"model": net.state_dict(), "args": ARGS, "model_ema": averaged(net).state_dict()},
        *("model", "", ["args", "model_ema"]),
    ),
    "timm's checkpoints": (
        lambda net: {"state_dict": net.state_dict(), "state_dict_ema": of_another(net.state_dict()), "epoch": 3},
        *("state_dict", "", ["epoch", f"state_dict_ema {AVERAGE}"]),
    ),
    "several models in one file": (
        lambda net: {"generator": nn.Linear(2, 2).state_dict(), "discriminator": net.state_dict()},
        *("discriminator", "", ["generator"]),
    ),
    "dicts in dicts": (
        lambda net: {"checkpoint": {"model": {"state_dict": net.state_dict()}, "epoch": np.float64(3)}},
        *("checkpoint.model.state_dict", "", ["epoch"]),
    ),
    "an epoch among the weights": (lambda net: net.state_dict() | {"epoch": 3}, "", "", ["epoch"]),
    "DDP of a compiled module": (lambda net: DDP(compiled(net)).state_dict(), "", "module._orig_mod.", []),
    "compiled layers": (
        lambda net: {name.replace("s.0.", "s.0._orig_mod."): value for name, value in net.state_dict().items()},
        *("", "", []),
    ),
    "SWA of DDP, compiled": (
        lambda net: {"swa_model": compiled(averaged(DDP(net))).state_dict()},
        *("swa_model", "_orig_mod.module.module.", ["_orig_mod.n_averaged"]),
    ),
    "an attribute of any name, compiled, in DDP": (
        lambda net: DDP(compiled(Module("my_net", net))).state_dict(),
        *("", "module._orig_mod.my_net.", ["module._orig_mod.criterion.weight"]),
    ),
    "double precision": (
        lambda net: {n: v.double() if v.is_floating_point() else v for n, v in net.state_dict().items()},
        *("", "", []),
    ),
}


@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.filterwarnings("ignore:.*reduce op.*")
@pytest.mark.parametrize(("saved", "key", "prefix", "unused"), SAVED.values(), ids=SAVED)
def test_weights_as_others_save_them_are_the_same_weights(
    tmp_path: Path, saved: Callable[[Network], Any], key: str, prefix: str, unused: list[str]
) -> None:
    earlier = trained(1)
    expected = copied(earlier)
    network, start = loaded(saved(earlier), tmp_path / "weights.pth.tar")
    assert same(network.state_dict(), expected)
    assert (start.key, start.prefix, start.tensors, start.classifier) == (key, prefix, 9, True)
    assert sorted(start.unused) == unused


def sequential(network: Network) -> nn.Sequential:
    return nn.Sequential(*network.features, nn.Flatten(), network.classifier)


class Split(nn.Module):
    """Layers and a head under any names."""

    def __init__(self, body: str, head: str, network: Network) -> None:
        super().__init__()
        setattr(self, body, network.features)
        setattr(self, head, nn.Sequential(nn.Flatten(), network.classifier) if head == "head" else network.classifier)


PLACED: dict[str, tuple[Callable[[Network], nn.Module], str]] = {
    "a plain nn.Sequential": (sequential, ""),
    "an nn.Sequential in DDP": (lambda net: DDP(sequential(net)), "module."),
    "an nn.Sequential as Lightning has it, with a weighted loss": (lambda net: Module("net", sequential(net)), "net."),
    "features.* and fc": (lambda net: Split("features", "fc", net), ""),
    "conv.* and a head that is an nn.Sequential": (lambda net: Split("conv", "head", net), ""),
    "features.* and fc, in DDP of a LightningModule": (
        lambda net: DDP(Module("model", Split("features", "fc", net))),
        "module.model.",
    ),
}


@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.parametrize("name", PLACED)
def test_other_names_are_matched_by_order_and_shape(tmp_path: Path, name: str) -> None:
    earlier, (made, prefix) = trained(1), PLACED[name]
    expected, state = copied(earlier), made(earlier).state_dict()
    # The names of safetensors come back sorted as text.
    for suffix, held in (("pth", {"model_state_dict": state, "epoch": 3}), ("safetensors", state)):
        network, start = loaded(held, tmp_path / f"weights.{suffix}")
        assert same(network.state_dict(), expected)
        assert (start.tensors, start.classifier, start.by_position, start.prefix) == (9, True, True, prefix)
        assert "matched by their order and shapes" in describe_start(start)


def test_by_order_more_than_ten_layers_are_in_order(tmp_path: Path) -> None:
    conv = layer("Conv2d", in_channels=3, out_channels=3, kernel_size=1)
    params = Params.from_dict(color(*[conv] * 12))
    earlier, network = network_of(params), network_of(params)
    save_file(sequential(earlier).state_dict(), tmp_path / "w.safetensors")
    load_initial_weights(network, tmp_path / "w.safetensors")
    assert same(network.state_dict(), earlier.state_dict())


def test_by_order_another_number_of_classes_leaves_the_classifying_layer(tmp_path: Path) -> None:
    earlier = trained(1)
    layers = nn.Sequential(*earlier.features, nn.Flatten(), nn.Linear(earlier.classifier.in_features, 7))
    network, start = loaded(layers.state_dict(), tmp_path / "w.pth")
    assert not start.classifier
    assert same(network.features.state_dict(), earlier.features.state_dict())
    assert same(network.classifier.state_dict(), trained(3).classifier.state_dict())


def test_by_order_all_must_fit(tmp_path: Path) -> None:
    net = trained(1)
    inputs = net.classifier.in_features
    expected = (
        "names are expected as the network's (features.0.weight, …, classifier.weight), as those of an nn.Sequential "
        "of its layers (0.weight, …), or as those of an architecture of torchvision in net_arch"
    )
    for layers in (
        [nn.Conv2d(3, 4, 5), *net.features[1:], nn.Flatten(), net.classifier],
        [*net.features, nn.Conv2d(4, 4, 1), nn.Flatten(), net.classifier],
        [*net.features[:1], nn.Flatten(), net.classifier],
        [net.features[1], net.features[0], nn.Flatten(), net.classifier],
        [*net.features, nn.Flatten(), nn.Linear(inputs + 1, 3)],
        [*net.features, nn.Flatten(), nn.Linear(inputs, 3, bias=False)],
        [*net.features],
    ):
        assert refusal(nn.Sequential(*layers).state_dict(), tmp_path).endswith(expected)
    # The first layers of a deeper network, whose own head is beside them.
    refusal(behind("body.", sequential(net).state_dict()) | {"fc.weight": torch.ones(2, 3)}, tmp_path)


NAME = "shufflenet_v2_x0_5"
BEHIND_ONE = [layer("Conv2d", in_channels=3, out_channels=3, kernel_size=1), backbone(NAME)]


@pytest.fixture(scope="session")
def original() -> State:
    """The weights of an architecture of torchvision."""
    torch.manual_seed(1)
    state: State = getattr(torchvision.models, NAME)(num_classes=7).state_dict()
    return state


def is_in(original: State, features: nn.Module) -> bool:
    own = features.state_dict()
    return all(torch.equal(own[name], value) for name, value in original.items() if not name.startswith("fc."))


def network_with(*arch: Any, **changes: Any) -> Network:
    torch.manual_seed(2)
    return network_of(Params.from_dict(color(*arch, **changes)))


def test_a_file_of_torchvision_goes_into_the_backbone(tmp_path: Path, original: State) -> None:
    torch.save({name: value for name, value in original.items() if "num_batches" not in name}, tmp_path / "r.pth")
    network = network_with(*BEHIND_ONE)
    before = copied(network)

    start = load_initial_weights(network, tmp_path / "r.pth")

    assert is_in(original, network.features[1])
    assert same(network.state_dict(), before, "features.0.")
    assert same(network.state_dict(), before, "classifier.")
    counters = sum("num_batches" in name for name in original)
    assert (start.tensors, start.classifier) == (len(original) - counters - 2, False)  # without the head's two
    assert start.initialised == len(before) - start.tensors


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_1", pytest.param("vit_b_32", marks=pytest.mark.slow)])
def test_names_that_begin_like_ours_and_names_of_old_files(tmp_path: Path, name: str) -> None:
    kwargs = {"image_size": 32} if name == "vit_b_32" else {}
    torch.manual_seed(1)
    weights: State = getattr(torchvision.models, name)(**kwargs).state_dict()
    old = {}
    for key, value in weights.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):  # denselayer1.norm1.weight was denselayer1.norm.1.weight
            key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in key else key
        old[key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")] = value
    torch.save(old, tmp_path / "old.pth")
    network = network_with(backbone(name, **kwargs))
    load_initial_weights(network, tmp_path / "old.pth")
    own = network.features[0].state_dict()
    assert len(own) == len(weights) - 2
    assert all(torch.equal(value, weights[key]) for key, value in own.items())


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


def refusal(held: Any, folder: Path) -> str:
    """Why a file that holds this is refused."""
    torch.save(held, folder / "refused.pth")
    return failure(trained(3), folder / "refused.pth")


def test_weights_that_do_not_fit_are_named_with_their_shapes(tmp_path: Path) -> None:
    state = copied(trained(1))
    state.pop("features.1.running_mean")
    state["features.0.weight"] = torch.zeros(4, 1, 3, 3)
    state |= {f"features.{index}.weight": torch.zeros(1) for index in range(4, 9)}
    assert refusal(state, tmp_path) == (
        "does not fit net_arch: 1 is missing (features.1.running_mean); 5 are not of this network (features.4.weight, "
        "features.5.weight, features.6.weight, …); 1 is of another shape (features.0.weight must be 4×3×3×3 and is "
        "4×1×3×3)"
    )


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_0().state_dict(), tmp_path / "w.pth")
    message = failure(network_with(*BEHIND_ONE), tmp_path / "w.pth")
    assert message.startswith("does not fit net_arch: ")
    assert "are not of this network (features." in message
    assert "4 are missing (features.1.weight, features.1.bias" in failure(trained(1), tmp_path / "w.pth")


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of a stranger ran",)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    network = trained(1)
    assert failure(network, tmp_path / "none.pth") == "there is no such file or model directory"
    (tmp_path / "notes.txt").write_text("x")
    assert "its name must end with .safetensors, .pth, .pt" in failure(network, tmp_path / "notes.txt")
    assert "save the module's state_dict()" in refusal(torch.nn.Linear(2, 2), tmp_path)
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
        assert message in refusal(held, tmp_path)


def test_a_damaged_model_directory_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model", trained(1))
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    network = trained(3)
    before = copied(network)
    with pytest.raises(ArtifactError, match="SHA-256 is not the manifest's"):
        load_initial_weights(network, tmp_path / "model")
    (tmp_path / "model" / "model.json").unlink()
    (tmp_path / "model" / "learning-curves.html").touch()
    with pytest.raises(ArtifactError, match="is not a complete model"):
        load_initial_weights(network, tmp_path / "model")
    assert same(network.state_dict(), before)


def test_a_model_of_an_earlier_version_gives_its_weights_and_its_other_files_go_with_it(tmp_path: Path) -> None:
    path, earlier = tmp_path / "model", trained(1)
    write_model(path, earlier)
    document = json.loads((path / "model.json").read_text())
    assert document.keys().isdisjoint({"last_weights", "export", "program", "earlier_files"})
    del document["onnx"], document["provenance"]["started_from"]
    for key, name in (("last_weights", "last.safetensors"), ("export", "model.pt2")):
        (path / name).write_text(name)
        size = (path / name).stat().st_size
        document[key] = {"file": name, "bytes": size, "sha256": sha256_of(path / name)}
    (path / "model.json").write_text(json.dumps(document | {"program": None}))
    network = trained(3)

    assert load_initial_weights(network, path).classifier
    assert same(network.state_dict(), earlier.state_dict())
    write_model(path, earlier)
    assert sorted(file.name for file in path.iterdir()) == ["model.json", "model.safetensors"]


def test_params_name_a_path_or_a_bucket() -> None:
    assert start_network(trained(1), PARAMS) is None
    for value, message in (
        ("https://example.com/w.pth", "https:// is not known here; allowed are a local path"),
        ("gs://", "it names no bucket"),
    ):
        assert message in refused(Params.from_dict, small(initial_weights=value))["initial_weights"]
    params = Params.from_dict(PARAMS.to_dict() | {"initial_weights": "gs://bucket/w.pth"})
    with pytest.raises(ParamsError, match=r"gs://bucket/w\.pth is in a bucket"):
        start_network(trained(1), params)


def test_of_several_that_fit_none_is_guessed(tmp_path: Path) -> None:
    earlier, file = trained(1), tmp_path / "weights.pth"
    state = copied(earlier)
    assert refusal({"student": of_another(state), "net": state}, tmp_path) == (
        "holds several sets of weights that fit (student, net); save the one that is meant in a file of its own"
    )
    loaded(behind("a.", state) | behind("b.", state), file)  # they are equal
    assert "that fit (a.*, b.*)" in refusal(behind("a.", state) | behind("b.", of_another(state)), tmp_path)
    for prefix in ("momentum_encoder.", "_orig_mod.", "module."):
        found = refusal(behind(prefix, of_another(state)) | state, tmp_path)
        assert f"that fit (the file's own names, {prefix}*); save" in found

    network, start = loaded({"ema": of_another(state), "net": state}, file)
    assert same(network.state_dict(), state)
    assert describe_start(start) == (
        f"starting from weights.pth (its net): 9 weights, with the classifying layer; not used of it: ema {AVERAGE}"
    )
    _, start = loaded({"model_ema": averaged(earlier).state_dict(), "epoch": 3}, file)
    assert describe_start(start) == (
        "starting from weights.pth (its model_ema): 9 weights, without module. before their names, with the "
        "classifying layer; not used of it: epoch, n_averaged"
    )
    # An average that has the head that the weights lack is no less than they are.
    student = {name: value for name, value in of_another(state).items() if not name.startswith("classifier.")}
    assert "sets of weights that fit (student, teacher)" in refusal({"teacher": state, "student": student}, tmp_path)


@pytest.mark.parametrize(
    ("before", "rest"),
    [
        ("", {"head.weight": 3, "head.bias": 3}),
        ("backbone.", {"head.weight": 3, "projector.0.weight": 4, "projector.0.bias": 4}),
        ("module.model.", {"module.model.head.fc.weight": 3, "module.model.head.fc.bias": 3}),
        ("backbone.body.", {"backbone.fpn.inner.weight": 3, "rpn.head.weight": 5}),
    ],
)
def test_a_backbone_of_others_is_found(tmp_path: Path, original: State, before: str, rest: dict[str, int]) -> None:
    state = behind(before, {name: value for name, value in original.items() if not name.startswith("fc.")})
    torch.save({"state_dict": state | {name: torch.ones(size) for name, size in rest.items()}}, tmp_path / "r.ckpt")
    network = network_with(backbone(NAME), frozen_layers=1)

    start = load_initial_weights(network, tmp_path / "r.ckpt")

    assert is_in(original, network.features[0])
    assert (start.key, start.prefix) == ("state_dict", before)


def test_a_file_without_weights_of_a_frozen_layer_is_refused(tmp_path: Path, original: State) -> None:
    torch.save(original, tmp_path / "r.pth")
    assert failure(network_with(*BEHIND_ONE, frozen_layers=2), tmp_path / "r.pth") == (
        "has nothing for net_arch[0], which frozen_layers: 2 would keep random (2 are missing (features.0.weight, "
        "features.0.bias)); freeze only layers that it has weights for"
    )


def test_the_directory_of_a_run_means_its_model(tmp_path: Path) -> None:
    earlier, run = trained(1), tmp_path / "run"
    write_model(run / "tasks" / "made", earlier)
    (run / "model").symlink_to("tasks/made")
    network = trained(3)
    assert load_initial_weights(network, run).name == "run"
    assert same(network.state_dict(), earlier.state_dict())


def test_other_directories_are_refused_with_what_to_give(tmp_path: Path) -> None:
    for file, message in (
        ("dataset.json", "is a dataset; name a model directory or a file of weights"),
        ("epoch-00003-batch-000000.pt", "holds checkpoints, from which the training that wrote them goes on by --ch"),
        ("__0_0.distcp", "holds a distributed checkpoint; torch.distributed.checkpoint.format_utils.dcp_to_torch_save"),
        ("pytorch_model.bin", "is no model directory; name the file of weights in it: pytorch_model.bin"),
    ):
        directory = tmp_path / file.partition(".")[0]
        directory.mkdir()
        (directory / file).write_bytes(b"")
        assert failure(trained(1), directory).startswith(message)
    (tmp_path / "none").mkdir()
    with pytest.raises(ArtifactError, match="is not a complete model"):
        load_initial_weights(trained(1), tmp_path / "none")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_beside_weights_is_refused_and_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], legacy: bool
) -> None:
    network, file = trained(1), tmp_path / "weights.pth"
    held = {"state_dict": network.state_dict(), "callback": Code()}
    torch.save(held, file, _use_new_zipfile_serialization=not legacy)
    assert failure(network, file) == (
        "holds more than tensors, and reading it could run code (print); save the module's state_dict() alone"
    )
    assert capsys.readouterr().out == ""


def test_what_is_read_as_nothing_is_never_what_it_was(tmp_path: Path) -> None:
    """Objects of the standard library and numpy in a checkpoint are read, and none of them is made."""
    earlier = trained(1)
    odd = [argparse.Namespace(a=1), Path("x"), np.float64(1), np.ones(3), np.dtype("f4")]
    network, start = loaded({"state_dict": earlier.state_dict(), "odd": odd}, tmp_path / "weights.pth")
    assert start.unused == ["odd"]
    assert same(network.state_dict(), earlier.state_dict())
    assert not set(torch.serialization.get_safe_globals()) & {argparse.Namespace, np.dtype}


@pytest.mark.usefixtures("alone_in_a_group")
def test_parts_of_tensors_are_refused(tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    network = trained(1)
    fully_shard(network, mesh=init_device_mesh("cpu", (1,)))
    torch.save(network.state_dict(), tmp_path / "sharded.pth")
    assert failure(trained(2), tmp_path / "sharded.pth").startswith("holds DTensors, parts of tensors of a group; save")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightning(tmp_path: Path) -> None:
    import pytorch_lightning as lightning

    earlier = trained(1)

    class Lit(lightning.LightningModule):
        def __init__(self, options: argparse.Namespace) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.compile(earlier, backend="eager")
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))

        def training_step(self, batch: Any, _index: int) -> Any:
            return self.criterion(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(Lit(argparse.Namespace(lr=0.1)), torch.utils.data.DataLoader(data, batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    network = trained(3)

    start = load_initial_weights(network, tmp_path / "last.ckpt")

    assert same(network.state_dict(), earlier.state_dict())
    assert (start.key, start.prefix) == ("state_dict", "net._orig_mod.")
    assert {"epoch", "optimizer_states", "criterion.weight"} <= set(start.unused)


@pytest.mark.parametrize("prefix", ["ema.", "ema_model.module.", "module.ema._orig_mod."])
def test_a_module_that_keeps_its_average_is_not_read_as_the_average(tmp_path: Path, prefix: str) -> None:
    state = copied(trained(1))
    outer = "module." if prefix.startswith("module.") else ""
    beside = {"ema_model.n_averaged": torch.tensor(1), "criterion.weight": torch.ones(3)}
    held = behind(prefix, of_another(state)) | behind(outer, state | beside)
    network, start = loaded({"state_dict": held, "epoch": 3}, tmp_path / "w.pth")
    assert same(network.state_dict(), state)
    assert f"{prefix}* {AVERAGE}" in describe_start(start)


def test_wrapped_weights_beside_an_average_with_plain_names_are_the_weights(tmp_path: Path) -> None:
    state = copied(trained(1))
    wrapped_state = {name.replace("features.0.", "features.0._orig_mod."): value for name, value in state.items()}
    network, _ = loaded(behind("net.", wrapped_state) | behind("ema.", of_another(state)), tmp_path / "w.pth")
    assert same(network.state_dict(), state)


def test_two_sets_are_not_mixed_where_names_collide_without_wrappers(tmp_path: Path) -> None:
    state, name = copied(trained(1)), "features._orig_mod.0.weight"
    other = {name: state["features.0.weight"] + 1}
    for held in (other | state, state | other):
        assert refusal(held, tmp_path) == f"does not fit net_arch: 1 is not of this network ({name})"


def test_a_backbone_beside_its_average_is_the_weights(tmp_path: Path, original: State) -> None:
    torch.save(behind("ema.", of_another(original)) | original, tmp_path / "w.pth")
    network = network_with(backbone(NAME))
    load_initial_weights(network, tmp_path / "w.pth")
    assert is_in(original, network.features[0])


def holding_itself(state: State) -> dict[str, Any]:
    held: dict[str, Any] = behind("_orig_mod.x.", {k: v for k, v in state.items() if k != "features.0.weight"})
    held["me"] = held
    return held


def with_first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: state | {"features.0.weight": change(state["features.0.weight"])}


def twice(form: Callable[[State], State]) -> Callable[[State], Any]:
    return lambda state: {"a": form(state), "b": form(state)}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("form", "message"),
    [
        (twice(with_first(torch.Tensor.to_sparse)), "a features.0.weight is no dense tensor with values"),
        (
            lambda state: {"a": state, "b": with_first(torch.Tensor.to_sparse)(state)},
            "b features.0.weight is no dense tensor with values",
        ),
        (with_first(lambda value: torch.zeros(1).expand(value.shape)), "features.0.weight is expanded, "),
        (holding_itself, "does not fit net_arch: 1 is missing (features.0.weight)"),
        (
            with_first(lambda value: value.double() + 1e300),
            "features.0.weight has values that are not finite in torch.float32",
        ),
        (
            lambda state: state | {"features.1.running_var": -state["features.1.running_var"]},
            "features.1.running_var has values below 0, and is a variance",
        ),
    ],
    ids=["sparse twice", "sparse beside dense", "expanded", "a dict in itself", "beyond float32", "variance"],
)
def test_odd_files_are_refused_in_one_message(tmp_path: Path, form: Callable[[State], Any], message: str) -> None:
    assert refusal(form(copied(trained(1))), tmp_path).startswith(message)


def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    state, file = copied(trained(1)), tmp_path / "w.pth"

    def compress(beside: int) -> None:
        torch.save({"state_dict": state, "x": {"zz": torch.zeros(beside)}}, tmp_path / "plain.pth")
        with (
            zipfile.ZipFile(tmp_path / "plain.pth") as plain,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))

    compress(10_000_000)
    assert re.fullmatch(
        r"unpacks to 4\d{7} bytes, more than 100 times its size; save it with torch.save, which compresses nothing",
        failure(trained(3), file),
    )
    compress(1)
    assert load_initial_weights(trained(3), file).tensors == 9


def test_names_of_a_file_are_logged_in_one_printable_line(tmp_path: Path) -> None:
    state = copied(trained(1))
    odd = "\x1b[31mEVIL\nERROR x"
    _, start = loaded({odd: behind(f"{odd}{odd}.", state), f"u{odd}": 1, "y" * 1000: 2}, tmp_path / "w.pth")
    assert describe_start(start).isprintable()
    assert len(describe_start(start)) < 700
    assert r"(its \x1b[31mEVIL\nERROR x)" in describe_start(start)
    assert refusal({odd: state, f"b{odd}": of_another(state)}, tmp_path).isprintable()
    assert refusal({odd: 1}, tmp_path).isprintable()
