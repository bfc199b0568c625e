"""Where training starts from: an earlier model or run of ours, or a file of weights, as others have saved it.

A file's names are those of our network (``features.0.weight``, ``classifier.bias``), or the own names of an
architecture of torchvision (``layer1.0.conv1.weight``), which then go into the first such layer; or others, such as
those of a plain Sequential of the same layers, whose order says which is which. What fits is found by its names and
shapes. Everything fits or nothing is loaded; only the classifying layer, which another number of classes makes another
one, may stay behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.classifier.building import head_name, is_backbone
from components.classifier.network import Network
from components.classifier.shape_errors import spelled_shape
from components.classifier.weight_files import (
    find_file,
    names_beside,
    read_file,
    refused,
    require_values,
    short,
    tensor_dicts,
)
from components.shared.artifacts.model import StartedFrom
from components.shared.errors import ParamsError, Problem
from components.shared.files import sha256_of
from components.shared.params.params import Params
from components.shared.storage.location import Location, parse_location
from components.shared.text import described

_SHOWN, _UNUSED_SHOWN = 3, 12  # names in a message
# A classifying layer by its usual names, which says nothing to another number of classes.
_HEAD = re.compile(r"(fc|heads?|head\.fc|classifier|linear|last_linear)\.(weight|bias)")
# What torch puts into names, wherever the module that it wraps is.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|average|averaged|teacher)([._]|$)", re.IGNORECASE)
_IS_AVERAGE = "(an average of the weights, which fits too)"
# Names of old files of torchvision, which its own loading renames, too: DenseNet's and the vision transformers'.
_OLD_NAMES = (
    (re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)"), r"\1\2"),
    (re.compile(r"(.*\.mlp)\.linear_1\.(.+)"), r"\1.0.\2"),
    (re.compile(r"(.*\.mlp)\.linear_2\.(.+)"), r"\1.3.\2"),
)

Tensors = Mapping[str, Tensor]
# Names in a file by names of ours, or of a module of ours.
_Names = Mapping[str, str]


def load_initial_weights(network: Network, path: Path) -> StartedFrom:
    """Put weights into a network, all that fit its layers or none.

    Args:
        network: As it was initialised; on any device. Frozen layers take their weights, too.
        path: A model directory, the directory of a run, or a file that ends with one of
            :data:`~components.classifier.weight_files.WEIGHT_FILES`.

    Raises:
        ParamsError: At ``initial_weights``: there is no such file, it holds no weights, it cannot be read without
            running code, its weights are not those of this network or leave a frozen layer random, or several sets of
            weights fit.
        ArtifactError: The model directory is incomplete or damaged.
    """
    file = find_file(path)
    target, held = network.state_dict(), read_file(file)
    reading, averages = _chosen_reading(network, target, path, held)
    chosen = reading.chosen(target)
    _require_frozen(network, chosen, path)
    digest = sha256_of(file)
    with torch.no_grad():
        for name, tensor in chosen.items():
            target[name].copy_(tensor)
    used = {origin for name, origin in reading.names.items() if name in chosen or reading.is_head(name)}
    listed_apart = {key for other in averages for key in other.path}
    unused = [name for name in names_beside(held, reading.path) if name not in listed_apart]
    unused += _grouped(name for name in reading.tensors if name not in used)
    unused += [f"{name} {_IS_AVERAGE}" for name in dict.fromkeys(other.name for other in averages)]
    return StartedFrom(
        name=path.name,
        sha256=digest,
        tensors=len(chosen),
        initialised=len(target) - len(chosen),
        classifier="classifier.weight" in chosen,
        key=short(reading.key),
        prefix=short(reading.prefix),
        by_position=reading.by_position,
        unused=[short(name) for name in unused],
    )


def start_network(network: Network, params: Params, fetched: Path | None = None) -> StartedFrom | None:
    """Put the weights that params name into a network; nothing where they name none.

    Raises as :func:`load_initial_weights`; and ParamsError where they are in a bucket and were not `fetched`.
    """
    if params.initial_weights is None:
        return None
    path = fetched if fetched is not None else parse_location(params.initial_weights)
    if isinstance(path, Location):
        message = f"{path} is in a bucket; fetch it, and give its path to train()"
        raise ParamsError([Problem("initial_weights", message)])
    return load_initial_weights(network, path)


def describe_start(start: StartedFrom) -> str:
    """What was taken, for the log."""
    layer = "with" if start.classifier else "without"
    source = f" (its {start.key})" if start.key else ""
    prefix = f", without {start.prefix} before their names" if start.prefix else ""
    prefix += ", matched by their order and shapes, having other names" if start.by_position else ""
    left = f"; {start.initialised} start at random" if start.initialised else ""
    more = f" and {len(start.unused) - _UNUSED_SHOWN} more" if len(start.unused) > _UNUSED_SHOWN else ""
    unused = f"; not used of it: {', '.join(start.unused[:_UNUSED_SHOWN])}{more}" if start.unused else ""
    taken = f"{start.tensors} weights{prefix}, {layer} the classifying layer"
    return f"starting from {short(start.name)}{source}: {taken}{left}{unused}"


@dataclass(frozen=True)
class _Reading:
    """One way to read the names of the tensors of a dict in a file.

    Attributes:
        path: The keys that lead to the dict.
        tensors: By their names in the file.
        names: Of those that may be the network's, and of others in the same modules.
        prefix: What was before each of these names.
        backbone: What is before the names of the one layer of ours that these are of; empty: all layers.
        head: What the classifying layer of the file is called.
        by_position: Whether the names were others, and the order says which tensor is which.
    """

    path: tuple[str, ...]
    tensors: Tensors
    names: _Names
    prefix: str = ""
    backbone: str = ""
    head: str = "classifier"
    by_position: bool = False

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def found(self) -> dict[str, Tensor]:
        return {name: self.tensors[origin] for name, origin in self.names.items()}

    @property
    def name(self) -> str:
        return short(" ".join(filter(None, (self.key, self.prefix and f"{self.prefix}*")))) or "the file's own names"

    @property
    def is_average(self) -> bool:
        return _AVERAGE.search(self.key) is not None or _AVERAGE.search(self.prefix) is not None

    def require_values(self, target: Tensors, path: Path) -> None:
        dtype = next(own.dtype for own in target.values() if own.is_floating_point())
        require_values(self.found, f"{self.key} {self.prefix}".lstrip(), dtype, path)

    def is_head(self, name: str) -> bool:
        return name in (f"{self.head}.weight", f"{self.head}.bias")

    def known(self, target: Tensors) -> int:
        """How many of the names are the network's."""
        return len(self.names.keys() & target.keys())

    def problems(self, target: Tensors) -> list[str]:
        """What is missing, unexpected, or of another shape or type; empty where all fit."""
        body = {name: value for name, value in self.found.items() if not name.startswith(f"{self.head}.")}
        wanted = [n for n in target if n.startswith(self.backbone) and (self.backbone or not self.is_head(n))]
        differing = [f"{name} {why}" for name in wanted if name in body and (why := _differs(target[name], body[name]))]
        found = [
            _listed("missing", [name for name in wanted if name not in body and not _is_counter(name)]),
            _listed("not of this network", [name for name in body if name not in target]),
            _listed("of another shape", differing),
            "" if body else "it has no weights of this network",
        ]
        return [problem for problem in found if problem]

    def chosen(self, target: Tensors) -> dict[str, Tensor]:
        """The tensors to load, where all fit."""
        found = self.found
        head = [name for name in found if name.startswith(f"{self.head}.")]
        fits = not self.backbone and {f"{self.head}.weight", f"{self.head}.bias"} == set(head)
        fits = fits and not any(_differs(target[name], found[name]) for name in head)
        return {name: value for name, value in found.items() if fits or name not in head}


def _is_counter(name: str) -> bool:
    # Files from before torch counted batches lack the counter, and torch starts it at 0 then, too.
    return name.endswith("num_batches_tracked")


def _chosen_reading(
    network: Network, target: Tensors, path: Path, held: Mapping[Any, Any]
) -> tuple[_Reading, list[_Reading]]:
    """How the names of a file are read, and what else of it fits and is an average of the weights."""
    readings = [reading for key, tensors in tensor_dicts(held) for reading in _readings(network, target, key, tensors)]
    if not readings:
        name, value = next(iter(held.items()))
        raise refused(path, f"must hold tensors by name, and {described(name)} names {described(value)}")
    fitting = [reading for reading in readings if not reading.problems(target)]
    if not fitting:
        best = max(readings, key=lambda reading: (reading.known(target), len(reading.names)))
        best.require_values(target, path)
        message = f"does not fit net_arch: {'; '.join(best.problems(target))}"
        first = next(name for name in target if name.endswith(".weight"))
        expected = (
            f"names are expected as the network's ({first}, …, classifier.weight), as those of an nn.Sequential of its "
            "layers (0.weight, …), or as those of an architecture of torchvision in net_arch"
        )
        raise refused(path, message if best.known(target) else f"{message}; {expected}")
    for reading in fitting:
        reading.require_values(target, path)
    best, *rest = sorted(fitting, key=lambda reading: reading.is_average)
    taken = best.chosen(target)
    others = [(other, weights) for other in rest if not _equal(taken, weights := other.chosen(target), target)]
    rivals = [
        other.name
        for other, weights in others
        # An average that has the classifying layer, too, is more than the weights that lack it.
        if other.is_average == best.is_average or ("classifier.weight" in weights and "classifier.weight" not in taken)
    ]
    if rivals:
        message = f"holds several sets of weights that fit ({', '.join(dict.fromkeys([best.name, *rivals]))})"
        raise refused(path, f"{message}; save the one that is meant in a file of its own")
    return best, [other for other, _ in others]


def _equal(one: Tensors, other: Tensors, target: Tensors) -> bool:
    """Whether the network would be the same, of whatever precision both are."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].to(target[name].dtype), other[name].to(target[name].dtype)) for name in one
    )


def _require_frozen(network: Network, chosen: Tensors, path: Path) -> None:
    """Refuse to freeze layers that the file has no weights for."""
    for index, layer in enumerate(network.features[: network.frozen_layers]):
        names = [f"features.{index}.{own}" for own in layer.state_dict()]
        left = [name for name in names if name not in chosen and not _is_counter(name)]
        if left:
            message = (
                f"has nothing for net_arch[{index}], which frozen_layers: {network.frozen_layers} would keep random "
                f"({_listed('missing', left)}); freeze only layers that it has weights for"
            )
            raise refused(path, message)


def _readings(network: Network, target: Tensors, path: tuple[str, ...], tensors: Tensors) -> Iterator[_Reading]:
    """The ways to read a dict's names: as our network's, by position, and as those of its first architecture.

    Before every name may be what others put there, in any order: DistributedDataParallel's ``module.``,
    torch.compile's ``_orig_mod.``, a LightningModule's attribute, an AveragedModel's ``module.``.
    """
    plain = {".".join(piece for piece in name.split(".") if piece not in _WRAPPERS): name for name in tensors}
    ways: list[_Names] = [{name: name for name in tensors}]
    if len(plain) == len(tensors) and plain.keys() != tensors.keys():  # fewer would be two sets of weights
        ways.append(plain)
    backbone = next(((index, layer) for index, layer in enumerate(network.features) if is_backbone(layer)), None)
    for names in ways:
        for prefix in _prefixes(names, target):
            yield _Reading(path, tensors, _behind(names, prefix, target, tensors), prefix)
        prefix, by_position = _by_position(network, names, tensors)
        if by_position:
            yield _Reading(path, tensors, by_position, prefix, by_position=True)
        if backbone is not None:
            index, layer = backbone
            start, own = f"features.{index}.", layer.state_dict()
            current = {_current_name(name, own): origin for name, origin in names.items()}
            for prefix in _prefixes(current, own):
                inside = _behind(current, prefix, own, tensors)
                kept = {f"{start}{n}": origin for n, origin in inside.items() if n in own or not _HEAD.fullmatch(n)}
                yield _Reading(path, tensors, kept, prefix, start, f"{start}{head_name(layer)}")


def _prefixes(names: Iterable[str], wanted: Tensors) -> list[str]:
    """What there is before any name that is wanted, and nothing."""
    pieces = (name.split(".") for name in names)
    cuts = ((".".join(each[:at]), ".".join(each[at:])) for each in pieces for at in range(1, len(each)))
    return ["", *dict.fromkeys(f"{before}." for before, name in cuts if name in wanted)]


def _behind(names: _Names, prefix: str, wanted: Tensors, tensors: Tensors) -> _Names:
    """What is behind a prefix, of it the modules that are wanted, if any is there."""
    found = {name.removeprefix(prefix): origin for name, origin in names.items() if name.startswith(prefix)}
    modules = {name.partition(".")[0] for name in wanted}
    own = {name: origin for name, origin in found.items() if name.partition(".")[0] in modules}
    # Without a classifying layer what is beside them may be one by another name.
    is_all = "classifier.weight" not in wanted or "classifier.weight" in own
    others = (tensors[origin] for name, origin in found.items() if name not in own)
    return own if own and (is_all or all(value.ndim < 2 for value in others)) else found


def _current_name(name: str, own: Tensors) -> str:
    for pattern, now in _OLD_NAMES:
        if name not in own:
            name = pattern.sub(now, name)
    return name


def _by_position(network: Network, names: _Names, tensors: Tensors) -> tuple[str, _Names]:
    """Names of other layers in our order, the classifying layer the first or the last; and what was before each."""
    # No weight of another layer may be left out.
    layers = zip(*(name.split(".")[:-1] for name, origin in names.items() if tensors[origin].ndim > 1), strict=False)
    common = takewhile(lambda pieces: len(set(pieces)) == 1 and not pieces[0].isdigit(), layers)
    prefix = "".join(f"{pieces[0]}." for pieces in common)
    theirs = _modules({name.removeprefix(prefix): o for name, o in names.items() if name.startswith(prefix)})
    ours = _modules({name: name for name in network.features.state_dict(prefix="features.")})
    target, found = network.state_dict(), []
    for position in sorted({0, len(theirs) - 1}) if len(theirs) == len(ours) + 1 else ():
        head, pairs = theirs[position], list(zip(ours, theirs[:position] + theirs[position + 1 :], strict=True))
        are_alike = all({n for n in own if not _is_counter(n)} <= layer.keys() <= own.keys() for own, layer in pairs)
        if not are_alike or head.keys() != {"weight", "bias"}:
            continue
        named = {own[name]: origin for own, layer in pairs for name, origin in layer.items()}
        differ = any(_differs(target[name], tensors[origin]) for name, origin in named.items())
        if tensors[head["weight"]].shape[1:] == (network.classifier.in_features,) and not differ:
            found.append(named | {f"classifier.{name}": origin for name, origin in head.items()})
    return prefix, found[0] if len(found) == 1 else {}


def _modules(names: _Names) -> list[dict[str, str]]:
    """Names by module, in their order, 10 after 9."""
    modules: dict[str, dict[str, str]] = {}
    for name in sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]):
        module, _, own = name.rpartition(".")
        modules.setdefault(module, {})[own] = names[name]
    return list(modules.values())


def _differs(wanted: Tensor, got: Tensor) -> str:
    """How a tensor differs from the network's; empty if it does not."""
    if wanted.shape != got.shape:
        sizes = [spelled_shape(tuple(tensor.shape)) or "a single number" for tensor in (wanted, got)]
        return f"must be {sizes[0]} and is {sizes[1]}"
    if wanted.is_floating_point() != got.is_floating_point():
        return f"must be {wanted.dtype} and is {got.dtype}"
    return ""


def _grouped(names: Iterable[str]) -> list[str]:
    """Names of tensors, those with a beginning in common as one: ``criterion.weight``, ``decoder.* (12)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return [of[0] if len(of) == 1 else f"{first}.* ({len(of)})" for first, of in groups.items()]


def _listed(what: str, names: list[str]) -> str:
    """``3 are missing (a, b, …)``; empty for none."""
    if not names:
        return ""
    shown = ", ".join(short(name) for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} {'are' if len(names) > 1 else 'is'} {what} ({shown})"
