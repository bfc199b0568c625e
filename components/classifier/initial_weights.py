"""Where training starts from: an earlier model of ours, or a file of weights.

A file's names are those of our network (``features.0.weight``, ``classifier.bias``), or the own names of an
architecture of torchvision (``layer1.0.conv1.weight``), which then go into the first such layer. Everything fits or
nothing is loaded; only the classifying layer, which another number of classes makes another one, may stay behind.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.classifier.backbones import head_name, is_backbone
from components.classifier.misfits import spelled_shape
from components.classifier.network import Network
from components.shared.artifacts import sha256_of
from components.shared.errors import ParamsError, Problem
from components.shared.model import StartedFrom, open_model, starting_weights
from components.shared.params import Params
from components.shared.params_types import described, first_line
from components.shared.storage.location import Location, place

WEIGHT_FILES = (".safetensors", ".pth", ".pt")

_KEY = "initial_weights"
_SHOWN = 3  # names of tensors in a message

# What wraps a state dict in a checkpoint, and what wrappers of a module put before every name.
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")

# Names of old files of torchvision, which its own loading renames, too: DenseNet's and the vision transformers'.
_OLD_NAMES = (
    (re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)"), r"\1\2"),
    (re.compile(r"(.*\.mlp)\.linear_1\.(.+)"), r"\1.0.\2"),
    (re.compile(r"(.*\.mlp)\.linear_2\.(.+)"), r"\1.3.\2"),
)


def load_initial_weights(network: Network, path: Path) -> StartedFrom:
    """Put weights into a network, all that fit its layers or none.

    Args:
        network: As it was initialised; on any device. Frozen layers take their weights, too.
        path: A model directory, or a file that ends with one of :data:`WEIGHT_FILES`.

    Returns:
        What was taken.

    Raises:
        ParamsError: At ``initial_weights``: there is no such file, it holds no weights, it cannot be read without
            running code, or its weights are not those of this network.
        ArtifactError: The model directory is incomplete or damaged.
    """
    file = path
    if path.is_dir():
        model = open_model(path, starting_weights)
        file = path / model.manifest.weights.file
    found = _read(file)
    target = network.state_dict()
    chosen = _matched(network, target, found, path)
    digest = sha256_of(file)
    with torch.no_grad():
        for name, tensor in chosen.items():
            target[name].copy_(tensor)
    return StartedFrom(
        name=path.name,
        sha256=digest,
        tensors=len(chosen),
        initialised=len(target) - len(chosen),
        classifier="classifier.weight" in chosen,
    )


def start_network(network: Network, params: Params, fetched: Path | None = None) -> StartedFrom | None:
    """Put the weights that params name into a network; nothing where they name none.

    Args:
        network: As :func:`load_initial_weights`.
        params: The run's options.
        fetched: What ``initial_weights`` names, on this machine; by default the path that it is.

    Raises:
        ParamsError: As :func:`load_initial_weights`; or it lies in a bucket, and nobody has fetched it.
        ArtifactError: The model directory is incomplete or damaged.
    """
    if params.initial_weights is None:
        return None
    where = fetched if fetched is not None else place(params.initial_weights)
    if isinstance(where, Location):
        raise ParamsError([Problem(_KEY, f"{where} lies in a bucket; fetch it, and give its path to train()")])
    return load_initial_weights(network, where)


def told(start: StartedFrom) -> str:
    """What was taken, for the log."""
    layer = "with" if start.classifier else "without"
    left = f"; {start.initialised} start at random" if start.initialised else ""
    return f"starting from {start.name}: {start.tensors} weights, {layer} the classifying layer{left}"


def _refused(path: Path, message: str) -> ParamsError:
    return ParamsError([Problem(_KEY, f"{path}: {message}")])


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, by the names of the module that they belong to."""
    if not file.exists():
        raise _refused(file, "there is no such file or model directory")
    if not file.is_file():  # torch would wait for a pipe's other end
        raise _refused(file, "is no file")
    readers: dict[str, Callable[[Path], Any]] = {".safetensors": load_file, ".pth": _torch_file, ".pt": _torch_file}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise _refused(file, f"is no file of weights; its name must end with {', '.join(WEIGHT_FILES)}")
    try:
        held = reader(file)
    except Exception as error:  # torch's reader raises what it likes on bytes that torch did not write
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(file):
            message = "holds more than tensors, and reading it could run code; save the module's state_dict() alone"
            raise _refused(file, message) from error
        raise _refused(file, f"cannot be read: {first_line(error)}; it is damaged, or no file of weights") from error
    for wrapper in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
    if not isinstance(held, Mapping) or not held:
        raise _refused(file, f"must hold tensors by name, as state_dict() gives them, got {described(held)}")
    for name, value in held.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _refused(file, f"must hold tensors by name, and {described(name)} names {described(value)}")
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise _refused(file, f"{name} is no dense tensor with values")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise _refused(file, f"{name} has values that are not finite")
    tensors: dict[str, Tensor] = dict(held)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _torch_file(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _matched(
    network: Network, target: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The tensors to load, by their names in the network.

    Raises:
        ParamsError: They are not this network's.
    """
    as_ours = _Naming(target.keys(), found, "classifier", whole=True)
    namings = [as_ours]
    backbone = next(((index, layer) for index, layer in enumerate(network.features) if is_backbone(layer)), None)
    if backbone is not None:
        index, layer = backbone
        start = f"features.{index}."
        moved = {f"{start}{name}": value for name, value in _current_names(layer, found).items()}
        wanted = [name for name in target if name.startswith(start)]
        namings.append(_Naming(wanted, moved, f"{start}{head_name(layer)}", whole=False))
    return max(namings, key=lambda naming: naming.known).chosen(target, path)


def _current_names(layer: nn.Module, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = layer.state_dict().keys()
    names = {}
    for name, value in found.items():
        for pattern, now in _OLD_NAMES:
            if name not in own:
                name = pattern.sub(now, name)
        names[name] = value
    return names


@dataclass(frozen=True)
class _Naming:
    """One way to read the names of a file.

    Attributes:
        wanted: Names of the network that must be there.
        found: The file's tensors by those names.
        head: What the classifying layer of the file is called.
        whole: Whether that layer has its place in the network.
    """

    wanted: Any
    found: Mapping[str, Tensor]
    head: str
    whole: bool

    @property
    def known(self) -> int:
        """How many of the names are the network's."""
        return len(self.found.keys() & set(self.wanted))

    def chosen(self, target: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """The tensors to load.

        Raises:
            ParamsError: Some are missing, unexpected, or of another shape or type.
        """
        body = {name: value for name, value in self.found.items() if not name.startswith(f"{self.head}.")}
        wanted = [name for name in self.wanted if not (self.whole and name.startswith(f"{self.head}."))]
        # Files from before torch counted batches lack the counter, and torch starts it at 0 then, too.
        missing = [name for name in wanted if name not in body and not name.endswith(".num_batches_tracked")]
        problems = [
            _listed("missing", missing),
            _listed("not of this network", [name for name in body if name not in target]),
            _listed("of another shape", [f"{name} {why}" for name in wanted if (why := _other(target, body, name))]),
        ]
        if any(problems) or not body:
            raise _refused(path, f"does not fit net_arch: {'; '.join(filter(None, problems))}")
        head = {name: value for name, value in self.found.items() if self.whole and name.startswith(f"{self.head}.")}
        fits = head.keys() == {f"{self.head}.weight", f"{self.head}.bias"}
        if fits and not any(_other(target, head, name) for name in head):
            return body | head
        return body


def _other(target: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str) -> str:
    """How a tensor differs from the network's of that name; empty if it does not, or is not there."""
    if name not in found:
        return ""
    wanted, got = target[name], found[name]
    if wanted.shape != got.shape:
        return f"must be {_spelled(wanted)} and is {_spelled(got)}"
    if wanted.is_floating_point() != got.is_floating_point():
        return f"must be {wanted.dtype} and is {got.dtype}"
    return ""


def _spelled(tensor: Tensor) -> str:
    return spelled_shape(tuple(tensor.shape)) or "a single number"


def _listed(what: str, names: list[str]) -> str:
    """``3 are missing (a, b, …)``; empty for none."""
    if not names:
        return ""
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} {'are' if len(names) > 1 else 'is'} {what} ({shown})"
