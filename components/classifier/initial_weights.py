"""Where training starts from: an earlier model or run of ours, or a file of weights, as whoever trained has saved it.

A file's names are those of our network (``features.0.weight``, ``classifier.bias``), or the own names of an
architecture of torchvision (``layer1.0.conv1.weight``), which then go into the first such layer; or those of a plain
Sequential of the same layers (``0.weight``, ``5.bias``), whose order says which is which. Around them there may be
what others put there: a dict with epoch and optimiser (``model_state_dict``, ``state_dict``, ``model`` or any other
key), and names of wrappers before every name in any order (DistributedDataParallel's ``module.``, torch.compile's
``_orig_mod.``, a LightningModule's attribute, an AveragedModel's ``module.`` beside its ``n_averaged``). What fits is
found by its names and shapes. Everything fits or nothing is loaded; only the classifying layer, which another number
of classes makes another one, may stay behind.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.classifier.backbones import head_name, is_backbone
from components.classifier.network import Network
from components.classifier.shape_errors import spelled_shape
from components.shared.artifacts.artifact import sha256_of
from components.shared.artifacts.dataset import DATASET
from components.shared.artifacts.model import MODEL, StartedFrom, open_model, starting_weights
from components.shared.errors import ParamsError, Problem
from components.shared.params.allowed_classes import shortened
from components.shared.params.params import Params
from components.shared.params.types import described, first_line
from components.shared.storage.location import Location, place

# Lightning writes .ckpt, Hugging Face .bin, torch's example of ImageNet .pth.tar, and .th is an old one.
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".th")

_KEY = "initial_weights"
_LAST = "last.safetensors"
_SHOWN, _UNUSED_SHOWN = 3, 12  # names in a message
_DEPTH = 4  # of dicts within each other in a file
_DICTS = 10_000  # in a file; an optimiser's state has one of each parameter
_BESIDE = 200  # names of a dict, each kept for each of the dicts in it
_PREFIXES = 16  # before a name, one within another
_UNPACKED = 100  # times its size; weights hardly compress
_NAME = 200  # characters of a file's name that are shown

_SHARDED = (
    "holds DTensors, parts of tensors of a group; save what get_model_state_dict of "
    "torch.distributed.checkpoint.state_dict gives with StateDictOptions(full_state_dict=True)"
)

# What torch puts into names, wherever the module that it wraps is.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# A classifying layer by its usual names, which says nothing to another number of classes.
_HEAD = re.compile(r"(fc|heads?|head\.fc|classifier|linear|last_linear)\.(weight|bias)")
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|average|averaged|teacher)([._]|$)", re.IGNORECASE)
# A layer of a Sequential: what that is called, its place, and its tensor's name within the layer.
_INDEXED = re.compile(r"(?:([A-Za-z_]\w*)\.)?(\d+)\.(.+)")
# A part of a file with fewer of its tensors is not looked into for the network.
_PART = 0.1

# What checkpoints hold beside tensors and does nothing; each is read as an object without any content or code.
_INERT = (
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
    *(f"pathlib.{kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"pathlib._local.{kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.ndarray", "numpy.dtype"),
)
_REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+)")

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
        path: A model directory, the directory of a run, or a file that ends with one of :data:`WEIGHT_FILES`.

    Returns:
        What was taken.

    Raises:
        ParamsError: At ``initial_weights``: there is no such file, it holds no weights, it cannot be read without
            running code, its weights are not those of this network or leave a frozen layer random, or several sets of
            weights fit.
        ArtifactError: The model directory is incomplete or damaged.
    """
    file = _file_of(path)
    target = network.state_dict()
    part, naming = _matched(network, target, _read(file), path)
    chosen = naming.chosen(target)
    _require_frozen(network, chosen, path)
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
        key=shortened(part.key, _NAME),
        prefix=shortened(part.prefix, _NAME),
        by_position=naming.by_position,
        unused=[shortened(name, _NAME) for name in part.unused],
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
    source = f" (its {start.key})" if start.key else ""
    prefix = f", without {start.prefix} before their names" if start.prefix else ""
    left = f"; {start.initialised} start at random" if start.initialised else ""
    shown = ", ".join(start.unused[:_UNUSED_SHOWN])
    more = f" and {len(start.unused) - _UNUSED_SHOWN} more" if len(start.unused) > _UNUSED_SHOWN else ""
    unused = f"; not used of it: {shown}{more}" if start.unused else ""
    prefix += ", matched by their order and shapes, having other names" if start.by_position else ""
    taken = f"{start.tensors} weights{prefix}, {layer} the classifying layer"
    return f"starting from {shortened(start.name, _NAME)}{source}: {taken}{left}{unused}"


def _refused(path: Path, message: str) -> ParamsError:
    return ParamsError([Problem(_KEY, f"{path}: {message}")])


def _file_of(path: Path) -> Path:
    """The file that the weights are in; of a model directory it is checked.

    Raises:
        ParamsError: It is a directory of something else.
        ArtifactError: The model directory is incomplete or damaged.
    """
    if not path.is_dir():
        return path
    if not (path / MODEL.manifest_file).exists():
        if (path / MODEL.name / MODEL.manifest_file).exists():  # the directory of a run
            return _file_of(path / MODEL.name)
        if (path / DATASET.manifest_file).exists():
            raise _refused(path, "is a dataset; name a model directory or a file of weights")
        if any(path.glob("epoch-*-batch-*.pt")):
            message = (
                "holds checkpoints, from which the training that wrote them goes on by --checkpoints; name a model"
            )
            raise _refused(path, message)
        if any(path.glob("*.distcp")):
            message = "holds a distributed checkpoint; torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
            raise _refused(path, f"{message} makes one file of it, which can be named")
        files = sorted(file.name for file in path.iterdir() if file.suffix.lower() in WEIGHT_FILES)
        if files and _LAST not in files:  # which only a model of ours has
            raise _refused(path, f"is no model directory; name the file of weights in it: {', '.join(files)}")
    return path / open_model(path, starting_weights).manifest.weights.file


def _read(file: Path) -> Mapping[Any, Any]:
    """What a file holds: tensors by name, or dicts of them."""
    if not file.exists():
        raise _refused(file, "there is no such file or model directory")
    if not file.is_file():  # torch would wait for a pipe's other end
        raise _refused(file, "is a pipe or a device, not a file")
    if file.suffix.lower() not in WEIGHT_FILES:
        raise _refused(file, f"is no file of weights; its name must end with {', '.join(WEIGHT_FILES)}")
    try:
        _require_unpackable(file)
        held = load_file(file) if file.suffix.lower() == ".safetensors" else _torch_file(file)
    except ParamsError:
        raise
    except Exception as error:  # torch's reader raises what it likes on bytes that torch did not write
        if "DTensor" in str(error):
            raise _refused(file, _SHARDED) from error
        named = _REFUSED_GLOBAL.search(str(error))
        if named or (isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(file)):
            message = f"holds more than tensors, and reading it could run code{f' ({named[1]})' if named else ''}"
            raise _refused(file, f"{message}; save the module's state_dict() alone") from error
        raise _refused(file, f"cannot be read: {first_line(error)}; it is damaged, or no file of weights") from error
    if not isinstance(held, Mapping) or not held:
        raise _refused(file, f"must hold tensors by name, as state_dict() gives them, got {described(held)}")
    return held


def _require_unpackable(file: Path) -> None:
    """Refuse a small file that would fill the memory."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > _UNPACKED * file.stat().st_size:
        message = f"unpacks to {unpacked} bytes, more than {_UNPACKED} times its size"
        raise _refused(file, f"{message}; save it with torch.save, which compresses nothing")


class _Inert:
    """Stands for an object that is not needed: made of anything, it keeps nothing."""

    def __new__(cls, *_arguments: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _torch_file(file: Path) -> Any:
    with torch.serialization.safe_globals([(_Inert, name) for name in _INERT]):
        return torch.load(file, map_location="cpu", weights_only=True)


@dataclass(frozen=True)
class _Part:
    """Tensors of a file that may be a network's.

    Attributes:
        key: Where in the file their dict is, such as ``state_dict``; empty: the file itself.
        prefix: What was before each of their names.
        tensors: By the names behind that.
        unused: What is beside them in the file.
        is_whole: Whether no weight of another layer is among what the prefix left out.
        is_unwrapped: Whether what torch puts into names was taken out of them.
        collisions: Two names in the file, of tensors that differ, by the one that they become without that.
    """

    key: str
    prefix: str
    tensors: Mapping[str, Tensor]
    unused: tuple[str, ...]
    is_whole: bool = True
    is_unwrapped: bool = False
    collisions: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        shown = " ".join(filter(None, (self.key, self.prefix and f"{self.prefix}*")))
        return shortened(shown, _NAME) or "the file's own names"

    @property
    def collision(self) -> tuple[str, str] | None:
        """Two names that are one of its names."""
        return next((both for name, both in self.collisions.items() if self._has(name)), None)

    def _has(self, name: str) -> bool:
        return name.startswith(self.prefix) and name.removeprefix(self.prefix) in self.tensors

    @property
    def is_average(self) -> bool:
        """Whether it is called an average of the weights."""
        return _AVERAGE.search(self.key) is not None or _AVERAGE.search(self.prefix) is not None


def _parts(held: Mapping[Any, Any], path: Path) -> Iterator[_Part]:
    """All tensors of a file that may be a network's: of each dict the whole, then what has a prefix in common.

    Raises:
        ParamsError: There are too many dicts to look into.
    """
    seen = {id(held)}  # a dict may hold itself
    level: list[tuple[Mapping[Any, Any], str, tuple[str, ...]]] = [(held, "", ())]
    for _ in range(_DEPTH + 1):
        inner = []
        for of, key, unused in level:
            tensors = {name: value for name, value in of.items() if isinstance(name, str) and isinstance(value, Tensor)}
            if tensors:
                beside = (*unused, *(shown for name in of if (shown := _shown(name)) not in tensors))
                part = _Part(key, "", tensors, beside)
                yield from _prefixed(part)
                if any(_WRAPPERS & set(name.split(".")) for name in tensors):
                    yield from _prefixed(_unwrapped(part))
            for name, value in of.items():
                if isinstance(name, str) and isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    if len(seen) > _DICTS:
                        raise _refused(path, f"holds more than {_DICTS} dicts; save the module's state_dict() alone")
                    inner.append((of, name, value, key, unused))
        level = [
            (value, f"{key}.{name}" if key else name, (*unused, *_beside(of, name)))
            for of, name, value, key, unused in inner
        ]


def _beside(held: Mapping[Any, Any], name: str) -> Iterator[str]:
    """The other names of a dict; how many, where it has one of each parameter."""
    if len(held) > _BESIDE:
        yield f"{len(held) - 1} names beside {name}"
    else:
        yield from (_shown(other) for other in held if other != name)


def _shown(name: object) -> str:
    return name if isinstance(name, str) else shortened(name)


def _prefixed(part: _Part, depth: int = 0) -> Iterator[_Part]:
    """A part, and what is left of it behind each prefix that many of its names have."""
    yield part
    if depth == _PREFIXES:
        return
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in part.tensors.items():
        first, dot, rest = name.partition(".")
        if dot and not first.isdigit():  # a number is a place within a network, and no wrapper's
            groups.setdefault(first, {})[rest] = value
    for first, inner in groups.items():
        if len(inner) >= _PART * len(part.tensors):
            others = {name: value for name, value in part.tensors.items() if not name.startswith(f"{first}.")}
            unused = (*part.unused, *_grouped(others))
            is_whole = part.is_whole and all(value.ndim < 2 for value in others.values())
            behind = replace(part, prefix=f"{part.prefix}{first}.", tensors=inner, unused=unused, is_whole=is_whole)
            yield from _prefixed(behind, depth + 1)


def _unwrapped(part: _Part) -> _Part:
    """A part without what torch puts into the middle of names where layers are wrapped one by one."""
    tensors: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    collisions = {}
    for name, value in part.tensors.items():
        plain = ".".join(piece for piece in name.split(".") if piece not in _WRAPPERS)
        if plain in tensors and not _is_same(tensors[plain], value):
            collisions[plain] = (origins[plain], name)
        tensors.setdefault(plain, value)
        origins.setdefault(plain, name)
    return replace(part, tensors=tensors, is_unwrapped=True, collisions=collisions)


def _rests(parts: list[_Part], fitting: list[_Part]) -> Iterator[_Part]:
    """What is beside the prefixes behind which weights fit: the weights of a module that keeps an average of itself."""
    for part in parts:
        inner = [
            fits
            for fits in fitting
            if (fits.key, fits.is_unwrapped) == (part.key, part.is_unwrapped)
            and fits.prefix.startswith(part.prefix)
            and fits.prefix != part.prefix
        ]
        firsts = {fits.prefix.removeprefix(part.prefix).partition(".")[0] for fits in inner}
        rest = {name: value for name, value in part.tensors.items() if name.partition(".")[0] not in firsts}
        # All of it, and of it what has the names of those that fit, where a loss's weights are beside it.
        for twin in [rest, *({name: rest[name] for name in fits.tensors if name in rest} for fits in inner)]:
            if inner and twin:
                others = [name for name in part.tensors if name not in twin]
                yield replace(part, tensors=twin, unused=(*part.unused, *_grouped(others)))


def _grouped(names: Iterable[str]) -> list[str]:
    """Names of tensors, those with a beginning in common as one: ``criterion.weight``, ``decoder.* (12)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return [of[0] if len(of) == 1 else f"{first}.* ({len(of)})" for first, of in groups.items()]


def _matched(
    network: Network, target: Mapping[str, Tensor], held: Mapping[Any, Any], path: Path
) -> tuple[_Part, _Naming]:
    """The part of a file to load, and how its names are read.

    Raises:
        ParamsError: Nothing is this network's, or several parts are.
    """
    parts = list(_parts(held, path))
    if not parts:
        name, value = next(iter(held.items()))
        raise _refused(path, f"must hold tensors by name, and {described(name)} names {described(value)}")
    readings = [(part, naming) for part in parts for naming in _namings(network, target, part)]
    fitting = [(part, naming) for part, naming in readings if not naming.problems(target)]
    if not fitting:
        part, naming = max(readings, key=lambda reading: (reading[1].known, len(reading[0].tensors)))
        _require_values(part, target, path)
        message = f"does not fit net_arch: {'; '.join(naming.problems(target))}"
        raise _refused(path, message if naming.known else f"{message}; {_expected(target)}")
    whole = {id(part) for part, _ in fitting}
    rests = _rests([part for part in parts if id(part) not in whole], [part for part, _ in fitting])
    beside = [(part, naming) for part in rests for naming in _namings(network, target, part)]
    fitting = [(part, naming) for part, naming in beside if not naming.problems(target)] + fitting
    for part, naming in fitting:
        _require_dense(part, naming.chosen(target), path)
    collided = [part for part, _ in fitting if part.collision]
    fitting = [reading for reading in fitting if not reading[0].collision]
    fitting.sort(key=lambda reading: (reading[0].is_average, reading[0].is_unwrapped))
    if fitting:
        chosen, naming = fitting[0]
        taken = naming.chosen(target)
        _require_values(chosen, target, path)
        others = [
            (part, weights) for part, other in fitting[1:] if not _equal(taken, weights := other.chosen(target), target)
        ]
        rivals = [
            part.name
            for part, weights in others
            # An average that has the classifying layer, too, is more than the weights that lack it.
            if part.is_average == chosen.is_average
            or ("classifier.weight" in weights and "classifier.weight" not in taken)
        ]
        if rivals:
            message = f"holds several sets of weights that fit ({', '.join(dict.fromkeys([chosen.name, *rivals]))})"
            raise _refused(path, f"{message}; save the one that is meant in a file of its own")
    for part in collided:
        one, other = (shortened(name, _NAME) for name in part.collision or ())
        message = f"holds two sets of weights: {one} and {other} are one name without what torch.compile and FSDP add"
        raise _refused(path, f"{message}, and differ; save the one that is meant in a file of its own")
    left = {part.key for part, _ in others} | {
        part.prefix.removeprefix(chosen.prefix).partition(".")[0] for part, _ in others if part.key == chosen.key
    }
    rest = [name for name in chosen.unused if name.partition(".* (")[0] not in left]
    rest += [name for name in naming.found if name not in taken and name not in naming.of_head]
    averages = dict.fromkeys(part.name for part, _ in others)
    rest += [f"{name} (an average of the weights, which fits too)" for name in averages]
    return replace(chosen, unused=tuple(rest)), naming


def _expected(target: Mapping[str, Tensor]) -> str:
    """The names that a file may have."""
    first = next(name for name in target if name.endswith(".weight"))
    return (
        f"names are expected as the network's ({first}, …, classifier.weight), as those of an nn.Sequential of its "
        "layers (0.weight, …), or as those of an architecture of torchvision in net_arch"
    )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> bool:
    """Whether the network would be the same, of whatever precision both are."""
    if one.keys() != other.keys():
        return False
    try:
        return all(
            torch.equal(value.to(target[name].dtype), other[name].to(target[name].dtype)) for name, value in one.items()
        )
    except RuntimeError:  # of a type that torch cannot compute with
        return False


def _is_same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or _why_not_dense(one) or _why_not_dense(other):
        return False
    try:
        return torch.equal(one, other)
    except RuntimeError:
        return False


def _why_not_dense(value: Tensor) -> str:
    """Why a tensor's values cannot be looked at; empty where they can."""
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return "is no dense tensor with values"
    held = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > held:
        return f"is expanded, {value.numel()} values of {held} bytes; save its contiguous()"
    return ""


def _require_dense(part: _Part, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors whose values cannot be looked at."""
    for name, value in tensors.items():
        if type(value).__name__ == "DTensor":
            raise _refused(path, _SHARDED)
        if why := _why_not_dense(value):
            raise _refused(path, f"{' '.join(filter(None, (shortened(part.key), _full(part, name))))} {why}")


def _full(part: _Part, name: str) -> str:
    return shortened(f"{part.prefix}{name}", _NAME)


def _require_values(part: _Part, target: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that cannot be weights, or not as the network keeps them."""
    _require_dense(part, part.tensors, path)
    for name, value in part.tensors.items():
        if not value.is_floating_point():
            continue
        dtype = next(own.dtype for own in target.values() if own.is_floating_point())
        try:
            cast = value.to(dtype)
            is_finite = bool(torch.isfinite(cast).all())
        except RuntimeError as error:  # float4 and the like
            raise _refused(path, f"{_full(part, name)} is {value.dtype}, which torch cannot make {dtype}") from error
        if not is_finite:
            raise _refused(path, f"{_full(part, name)} has values that are not finite in {dtype}")
        if name.endswith("running_var") and bool((cast < 0).any()):
            raise _refused(path, f"{_full(part, name)} has values below 0, and is a variance")


def _require_frozen(network: Network, chosen: Mapping[str, Tensor], path: Path) -> None:
    """Refuse to freeze layers that the file has no weights for."""
    for index, layer in enumerate(network.features[: network.frozen_layers]):
        left = [
            name
            for name in (f"features.{index}.{own}" for own in layer.state_dict())
            if name not in chosen and not name.endswith(".num_batches_tracked")
        ]
        if left:
            message = (
                f"has nothing for net_arch[{index}], which frozen_layers: {network.frozen_layers} would keep random "
                f"({_listed('missing', left)}); freeze only layers that it has weights for"
            )
            raise _refused(path, message)


def _namings(network: Network, target: Mapping[str, Tensor], part: _Part) -> Iterator[_Naming]:
    """The ways to read names: as our network's, by position, and as those of its first architecture of torchvision."""
    found = part.tensors
    own_names = _Naming(target.keys(), found, "classifier", whole=True)
    yield own_names
    if part.is_whole and own_names.problems(target) and len(placed := list(_by_position(network, found))) == 1:
        yield _Naming(target.keys(), placed[0], "classifier", whole=True, by_position=True)
    backbone = next(((index, layer) for index, layer in enumerate(network.features) if is_backbone(layer)), None)
    if backbone is not None:
        index, layer = backbone
        start = f"features.{index}."
        own = layer.state_dict().keys()
        moved = {
            f"{start}{name}": value
            for name, value in _current_names(layer, found).items()
            if name in own or not _HEAD.fullmatch(name)
        }
        wanted = [name for name in target if name.startswith(start)]
        yield _Naming(wanted, moved, f"{start}{head_name(layer)}", whole=False)


def _by_position(network: Network, found: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors of a Sequential under our names, where each of its layers has the tensors of ours in that position."""
    ours = [
        (f"features.{index}.", layer.state_dict()) for index, layer in enumerate(network.features) if layer.state_dict()
    ]
    for body, head in _sequences(found):
        if len(body) != len(ours) or head.keys() != {"weight", "bias"} or not _is_head_of(network, head["weight"]):
            continue
        pairs = list(zip(ours, body, strict=True))
        if all(_are_alike(own, layer) for (_, own), layer in pairs):
            named = {f"{start}{name}": value for (start, _), layer in pairs for name, value in layer.items()}
            yield named | {f"classifier.{name}": value for name, value in head.items()}


def _sequences(found: Mapping[str, Tensor]) -> Iterator[tuple[list[dict[str, Tensor]], dict[str, Tensor]]]:
    """The ways to take tensors for the layers of one Sequential and a classifying layer, its last or one beside it."""
    sequences: dict[str, dict[int, dict[str, Tensor]]] = {}
    single: dict[str, dict[str, Tensor]] = {}
    for name, value in found.items():
        if place := _INDEXED.fullmatch(name):
            sequences.setdefault(place[1] or "", {}).setdefault(int(place[2]), {})[place[3]] = value
        else:
            module, _, own = name.rpartition(".")
            single.setdefault(module, {})[own] = value
    ordered = {name: [layers[index] for index in sorted(layers)] for name, layers in sequences.items()}
    for name, layers in ordered.items():
        rest = [*single.values(), *(layer for other in ordered if other != name for layer in ordered[other])]
        if not rest and not name:  # behind its name it is a part of its own
            yield layers[:-1], layers[-1]
        elif len(rest) == 1:
            yield layers, rest[0]


def _is_head_of(network: Network, weight: Tensor) -> bool:
    """Whether a weight may be a classifying layer's, if of another number of classes."""
    return weight.ndim == 2 and weight.shape[1] == network.classifier.in_features


def _are_alike(own: Mapping[str, Tensor], layer: Mapping[str, Tensor]) -> bool:
    """Whether a layer's tensors have the names and the shapes of another's; a counter of batches may be left out."""
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    return needed <= layer.keys() <= own.keys() and not any(_other(own, layer, name) for name in own)


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
        by_position: Whether the names were others, and the order says which tensor is which.
    """

    wanted: Any
    found: Mapping[str, Tensor]
    head: str
    whole: bool
    by_position: bool = False

    @property
    def of_head(self) -> tuple[str, str]:
        """The names of the classifying layer's tensors."""
        return f"{self.head}.weight", f"{self.head}.bias"

    @property
    def known(self) -> int:
        """How many of the names are the network's."""
        return len(self.found.keys() & set(self.wanted))

    @property
    def _body(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.found.items() if not name.startswith(f"{self.head}.")}

    def problems(self, target: Mapping[str, Tensor]) -> list[str]:
        """What is missing, unexpected, or of another shape or type; empty where all fit."""
        body = self._body
        wanted = [name for name in self.wanted if not (self.whole and name.startswith(f"{self.head}."))]
        # Files from before torch counted batches lack the counter, and torch starts it at 0 then, too.
        missing = [name for name in wanted if name not in body and not name.endswith(".num_batches_tracked")]
        problems = [
            _listed("missing", missing),
            _listed("not of this network", [name for name in body if name not in target]),
            _listed("of another shape", [f"{name} {why}" for name in wanted if (why := _other(target, body, name))]),
            "" if body else "it has no weights of this network",
        ]
        return [problem for problem in problems if problem]

    def chosen(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors to load, where all fit."""
        head = {name: value for name, value in self.found.items() if self.whole and name.startswith(f"{self.head}.")}
        fits = head.keys() == set(self.of_head)
        if fits and not any(_other(target, head, name) for name in head):
            return self._body | head
        return self._body


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
    shown = ", ".join(shortened(name, _NAME) for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} {'are' if len(names) > 1 else 'is'} {what} ({shown})"
