"""Files of weights as others write them: found, and read without running code."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from components.shared.artifacts.dataset import DATASET
from components.shared.artifacts.model import LEARNING_CURVES, MODEL, model_directory, open_model, starting_weights
from components.shared.errors import ParamsError, Problem
from components.shared.text import described, first_line, shortened

# Lightning writes .ckpt, Hugging Face .bin, torch's example of ImageNet .pth.tar, and .th is an old one.
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".th")
_SHARDED = (
    "holds DTensors, parts of tensors of a group; save what get_model_state_dict of "
    "torch.distributed.checkpoint.state_dict gives with StateDictOptions(full_state_dict=True)"
)
# Directories that are no model, by a file in them.
_OTHER_DIRECTORIES = {
    DATASET.manifest_file: "is a dataset; name a model directory or a file of weights",
    "epoch-*-batch-*.pt": "holds checkpoints, from which the training that wrote them goes on by --checkpoints; name a "
    "model",
    "*.distcp": "holds a distributed checkpoint; torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes one "
    "file of it, which can be named",
}
_DEPTH = 4  # of dicts within each other in a file
_UNPACKED = 100  # times its size; weights hardly compress
_NAME = 200  # characters of a file's name that are shown
# What checkpoints hold beside tensors and does nothing; each is read as an object without any content or code.
_INERT = (
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
    *(f"pathlib.{kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"pathlib._local.{kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.ndarray", "numpy.dtype"),
)
_REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+)")


def refused(path: Path, message: str) -> ParamsError:
    """The error that a file of weights is refused with."""
    return ParamsError([Problem("initial_weights", f"{path}: {message}")])


def short(name: object) -> str:
    """A name of a file's for people: printable, and not too long."""
    return shortened(name, _NAME)


def find_file(path: Path) -> Path:
    """The file that the weights are in, of a file, a model directory (which is checked) or the directory of a run.

    Raises:
        ParamsError: It is a directory of something else.
        ArtifactError: The model directory is incomplete or damaged.
    """
    if not path.is_dir():
        return path
    path = model_directory(path)
    if not (path / MODEL.manifest_file).exists():
        for pattern, message in _OTHER_DIRECTORIES.items():
            if any(path.glob(pattern)):
                raise refused(path, message)
        files = sorted(file.name for file in path.iterdir() if file.suffix.lower() in WEIGHT_FILES)
        if files and not (path / LEARNING_CURVES).exists():  # which only a model of ours has
            raise refused(path, f"is no model directory; name the file of weights in it: {', '.join(files)}")
    return path / open_model(path, starting_weights).manifest.weights.file


def read_file(file: Path) -> Mapping[Any, Any]:
    """What a file holds: tensors by name, or dicts of them.

    Raises:
        ParamsError: There is no such file, or it cannot be read without running code.
    """
    if not file.exists():
        raise refused(file, "there is no such file or model directory")
    if not file.is_file():  # torch would wait for a pipe's other end
        raise refused(file, "is a pipe or a device, not a file")
    if file.suffix.lower() not in WEIGHT_FILES:
        raise refused(file, f"is no file of weights; its name must end with {', '.join(WEIGHT_FILES)}")
    try:
        if zipfile.is_zipfile(file):  # a small one might fill the memory
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > _UNPACKED * file.stat().st_size:
                message = f"unpacks to {unpacked} bytes, more than {_UNPACKED} times its size"
                raise refused(file, f"{message}; save it with torch.save, which compresses nothing")
        if file.suffix.lower() == ".safetensors":
            held: Any = load_file(file)
        else:
            with torch.serialization.safe_globals([(_Inert, name) for name in _INERT]):
                held = torch.load(file, map_location="cpu", weights_only=True)
    except ParamsError:
        raise
    except Exception as error:  # torch's reader raises what it likes on bytes that torch did not write
        if "DTensor" in str(error):
            raise refused(file, _SHARDED) from error
        named = _REFUSED_GLOBAL.search(str(error))
        if named or (isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(file)):
            message = f"holds more than tensors, and reading it could run code{f' ({named[1]})' if named else ''}"
            raise refused(file, f"{message}; save the module's state_dict() alone") from error
        raise refused(file, f"cannot be read: {first_line(error)}; it is damaged, or no file of weights") from error
    if not isinstance(held, Mapping) or not held:
        raise refused(file, f"must hold tensors by name, as state_dict() gives them, got {described(held)}")
    return held


class _Inert:
    """An object that is not needed: made of anything, it keeps nothing."""

    def __new__(cls, *_arguments: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def tensor_dicts(held: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dict of a file that has tensors: the keys that lead to it, such as ``state_dict``, and its tensors."""
    seen = {id(held)}  # a dict may hold itself
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), held)]
    for _ in range(_DEPTH + 1):
        following = []
        for path, outer in level:
            named = {name: value for name, value in outer.items() if isinstance(name, str)}
            if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
                yield path, tensors
            for name, value in named.items():
                if isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    following.append(((*path, name), value))
        level = following


def names_beside(held: Mapping[Any, Any], path: Sequence[str]) -> list[str]:
    """What a file holds beside the tensors of one of its dicts."""
    names = []
    for key in path:
        names += [name for name in held if name != key]
        held = held[key]
    names += [name for name, value in held.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    return [name if isinstance(name, str) else shortened(name) for name in names]


def require_values(tensors: Mapping[str, Tensor], start: str, dtype: torch.dtype, path: Path) -> None:
    """Refuse tensors that are no weights as the network keeps them, as `dtype`; `start` is before their names.

    Raises:
        ParamsError: One is sharded, sparse, expanded, not finite, or a variance below 0.
    """
    for name, value in tensors.items():
        full = short(start + name)
        if type(value).__name__ == "DTensor":
            raise refused(path, _SHARDED)
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise refused(path, f"{full} is no dense tensor with values")
        held = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > held:
            raise refused(path, f"{full} is expanded, {value.numel()} values of {held} bytes; save its contiguous()")
        if not value.is_floating_point():
            continue
        cast = value.to(dtype)
        if not torch.isfinite(cast).all():
            raise refused(path, f"{full} has values that are not finite in {dtype}")
        if name.endswith("running_var") and bool((cast < 0).any()):
            raise refused(path, f"{full} has values below 0, and is a variance")
