"""The network as a program: what evaluation runs where torchvision is not installed.

A network with an architecture of torchvision cannot be built in the evaluation image, which holds torch alone. So
training writes its graph beside its weights, ``network.pt2``: float images (batch, channels, height, width) in, logits
out, in evaluation mode, for any batch size. The file holds operators and shapes; weights come from the model's
safetensors.

``torch.export.load`` was not made for files of strangers: it unpickles, and it runs texts of the graph as Python. A
model directory is data, so :func:`load_program` first looks through the file, and lets through only operators of
torch's ATen library, plain names, and symbols for sizes.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from components.classifier.network import Network
from components.shared.artifacts.artifact import ImageShape
from components.shared.files import writing
from components.shared.text import first_line

_VALUES_FILE = "values_per_image"

_OPERATOR = re.compile(r"torch\.ops\.aten\.[a-z_0-9]+\.[A-Za-z_0-9]+|_operator\.(getitem|add|sub|mul|floordiv)")
_NAME = re.compile(r"[A-Za-z_0-9]*")
# Of a weight or a module, such as RegNet's features.0.trunk_output.block1.block1-0.proj.0.weight.
_PATH = re.compile(r"[A-Za-z_0-9.-]*")
# Sizes: s77, Mul(Integer(4), Symbol('s77', positive=True, integer=True)).
_SIZE = re.compile(
    r"(Symbol\('[su][0-9]+'(, (positive|integer)=True)*\)|[su][0-9]+|[0-9]+"
    r"|(Mul|Add|Min|Max|FloorDiv|Integer)\(|[-+*/(), ])*"
)
_PATHS = ("parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name", "fqn")


class ProgramNetwork(Network):
    """A network that runs as its program: it gives logits, and cannot be trained."""

    def __init__(self, program: nn.Module, n_classes: int, values_per_image: int) -> None:
        nn.Module.__init__(self)
        self.n_classes = n_classes
        self.values_per_image = values_per_image
        self.frozen_layers = 0
        self.program = program
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.program(images)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> ProgramNetwork:
        """Refuse training mode, by ValueError."""
        if mode:
            raise ValueError("a program has no training mode; install torchvision to train this network")
        return self


def write_program(network: Network, image: ImageShape, file: Path) -> str:
    """Write the graph of a network on the CPU to a ``.pt2`` file; the network is left in evaluation mode.

    Returns:
        Empty, or the reason why this network cannot be written; then there is no file.

    Raises:
        OSError: The file cannot be written.
    """
    network.eval()
    example = torch.zeros(2, image.channels, image.height, image.width)
    archive = io.BytesIO()  # where torch.export.save cannot write, it ends the process (torch 2.15)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
            torch.backends.mha.set_fastpath_enabled(False)  # attention by operators that every torch has
            program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            _only_the_graph(program)
            torch.export.save(program, archive, extra_files={_VALUES_FILE: str(network.values_per_image)})
            _look_through(archive)
    except Exception as error:  # an operator the exporter does not know; the model itself is fine
        return first_line(error)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    with writing(file) as output:
        output.write(archive.getbuffer())
    return ""


def _only_the_graph(program: torch.export.ExportedProgram) -> None:
    """Take out what evaluation does not need: weights, the example, and where in the source each operator was."""
    for name, value in program.state_dict.items():
        one = torch.zeros((), dtype=value.dtype).expand(value.shape)
        program.state_dict[name] = nn.Parameter(one, False) if isinstance(value, nn.Parameter) else one
    program.example_inputs = None
    for node in program.graph.nodes:
        for what in ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node"):
            node.meta.pop(what, None)


def load_program(file: Path, weights: dict[str, Tensor], n_classes: int) -> ProgramNetwork:
    """The network of a program with its weights, on the CPU, in evaluation mode.

    Raises:
        ValueError: The file is no such program, or the weights are another network's.
        RuntimeError: The weights' names or shapes are not the network's; or torch cannot read the file.
    """
    _look_through(file)
    extra = {_VALUES_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(file, extra_files=extra).module()
    for name, tensor in module.state_dict().items():
        if name in weights and weights[name].dtype != tensor.dtype:
            raise ValueError(f"{name} is {weights[name].dtype} and must be {tensor.dtype}")
    module.load_state_dict(weights, assign=True)
    module.requires_grad_(False)
    return ProgramNetwork(module, n_classes, int(extra[_VALUES_FILE]))


def _look_through(file: Path | io.BytesIO) -> None:
    """Refuse, by ValueError, pickled objects, code, operators outside ATen, and what is no program at all."""
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no program of torch.export")
    graphs = 0
    with zipfile.ZipFile(file) as archive:
        for entry in archive.namelist():
            path = PurePosixPath(*PurePosixPath(entry).parts[1:])  # below the archive's own folder
            folder, content = path.parent.as_posix(), archive.read(entry)
            if folder == "models":
                graphs += 1
                _look_through_graph(json.loads(content))
            elif path.name.endswith("_config.json") and folder in ("data/weights", "data/constants"):
                for payload in json.loads(content)["config"].values():
                    if payload["use_pickle"] or not payload["path_name"].startswith(("weight_", "tensor_")):
                        raise ValueError("it holds a pickled object")
            elif folder == "data/sample_inputs":
                if content:
                    raise ValueError("it holds example inputs, which are pickled")
            elif path.suffix in (".pt", ".pkl", ".so", ".py") or folder.startswith("data/aotinductor"):
                raise ValueError(f"it holds {path}, which is no part of a graph")
    if graphs != 1:
        raise ValueError(f"it holds {graphs} graphs and must hold one")


def _look_through_graph(document: dict[str, Any]) -> None:
    if document.get("guards_code"):
        raise ValueError("it holds code to run before the graph")
    for key, text in _texts(document):
        if key == "target":
            allowed = _OPERATOR.fullmatch(text) is not None
        elif key in ("expr_str", "range_constraints"):
            allowed = _SIZE.fullmatch(text) is not None
        elif key == "name":
            allowed = _NAME.fullmatch(text) is not None
        elif key in _PATHS:
            allowed = _PATH.fullmatch(text) is not None
        else:
            allowed = True
        if not allowed:
            raise ValueError(f"its {key} {text[:60]!r} is not one that a network's graph has")


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON document with the key it stands under; keys of ``range_constraints`` are texts, too."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, dict):
        if key == "range_constraints":
            yield from ((key, name) for name in value)
        for name, item in value.items():
            yield from _texts(item, name)
