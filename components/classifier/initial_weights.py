"""Where training starts from: an earlier model or run of ours, or a file of weights, as others have saved it.

A file's names are those of our network (``features.0.weight``, ``classifier.bias``), or the own names of an
architecture of torchvision (``layer1.0.conv1.weight``), which then go into the first such layer; or those of a plain
Sequential of the same layers (``0.weight``, ``5.bias``), whose order says which is which. What fits is found by its
names and shapes. Everything fits or nothing is loaded; only the classifying layer, which another number of classes
makes another one, may stay behind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.classifier.backbones import head_name, is_backbone
from components.classifier.network import Network
from components.classifier.shape_errors import spelled_shape
from components.classifier.weight_files import (
    find_file,
    grouped,
    prefixes,
    read_file,
    refused,
    relative,
    require_dense,
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
# A layer of a Sequential: what is before it, what that is called, its index, and its tensor's name within the layer.
_INDEXED = re.compile(r"((?:[A-Za-z_]\w*\.)*?)([A-Za-z_]\w*\.)?(\d+)\.(.+)")
# What torch puts into names, wherever the module that it wraps is.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|average|averaged|teacher)([._]|$)", re.IGNORECASE)
# Names of old files of torchvision, which its own loading renames, too: DenseNet's and the vision transformers'.
_OLD_NAMES = (
    (re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)"), r"\1\2"),
    (re.compile(r"(.*\.mlp)\.linear_1\.(.+)"), r"\1.0.\2"),
    (re.compile(r"(.*\.mlp)\.linear_2\.(.+)"), r"\1.3.\2"),
)

Tensors = Mapping[str, Tensor]


def load_initial_weights(network: Network, path: Path) -> StartedFrom:
    """Put weights into a network, all that fit its layers or none.

    Args:
        network: As it was initialised; on any device. Frozen layers take their weights, too.
        path: A model directory, the directory of a run, or a file that ends with one of
            :data:`~components.classifier.weight_files.WEIGHT_FILES`.

    Returns:
        What was taken.

    Raises:
        ParamsError: At ``initial_weights``: there is no such file, it holds no weights, it cannot be read without
            running code, its weights are not those of this network or leave a frozen layer random, or several sets of
            weights fit.
        ArtifactError: The model directory is incomplete or damaged.
    """
    file = find_file(path)
    target = network.state_dict()
    reading = _chosen_reading(network, target, path, read_file(file))
    chosen = reading.chosen(target)
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
        key=short(reading.key),
        prefix=short(reading.prefix),
        by_position=reading.by_position,
        unused=[short(name) for name in reading.unused],
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
    """One way to read the names of tensors of a file.

    Attributes:
        key: Where in the file their dict is, such as ``state_dict``; empty: the file itself.
        prefix: What was before each of their names.
        wanted: Names of the network that must be there.
        found: The tensors by those names; also others in the same modules.
        unused: What is beside them in the file.
        head: What the classifying layer of the file is called.
        has_head: Whether that is the network's classifying layer, too.
        by_position: Whether the names were others, and the order says which tensor is which.
        is_unwrapped: Whether what torch puts into names was taken out of them.
    """

    key: str
    prefix: str
    wanted: Collection[str]
    found: Tensors
    unused: list[str]
    head: str = "classifier"
    has_head: bool = True
    by_position: bool = False
    is_unwrapped: bool = False

    @property
    def name(self) -> str:
        return short(" ".join(filter(None, (self.key, self.prefix and f"{self.prefix}*")))) or "the file's own names"

    @property
    def start(self) -> str:
        return f"{self.key} {self.prefix}".lstrip()

    @property
    def is_average(self) -> bool:
        return _AVERAGE.search(self.key) is not None or _AVERAGE.search(self.prefix) is not None

    @property
    def known(self) -> int:
        """How many of the names are the network's."""
        return len(self.found.keys() & set(self.wanted))

    def _is_head(self, name: str) -> bool:
        return name.startswith(f"{self.head}.")

    def problems(self, target: Tensors) -> list[str]:
        """What is missing, unexpected, or of another shape or type; empty where all fit."""
        body = {name for name in self.found if not self._is_head(name)}
        wanted = [name for name in self.wanted if not (self.has_head and self._is_head(name))]
        differing = [f"{name} {why}" for name in wanted if name in body and (why := _differs(target, self.found, name))]
        found = [
            _listed("missing", [name for name in wanted if name not in body and not _is_counter(name)]),
            _listed("not of this network", [name for name in self.found if name in body and name not in target]),
            _listed("of another shape", differing),
            "" if body else "it has no weights of this network",
        ]
        return [problem for problem in found if problem]

    def chosen(self, target: Tensors) -> dict[str, Tensor]:
        """The tensors to load, where all fit."""
        head = [name for name in self.found if self._is_head(name)]
        takes_head = (
            self.has_head
            and {f"{self.head}.weight", f"{self.head}.bias"} == set(head)
            and not any(_differs(target, self.found, name) for name in head)
        )
        return {name: value for name, value in self.found.items() if takes_head or not self._is_head(name)}


def _is_counter(name: str) -> bool:
    # Files from before torch counted batches lack the counter, and torch starts it at 0 then, too.
    return name.endswith("num_batches_tracked")


def _chosen_reading(network: Network, target: Tensors, path: Path, held: Mapping[Any, Any]) -> _Reading:
    """How the names of a file are read; its `unused` is what is left, averages named as such."""
    readings = [
        reading
        for key, tensors, beside in tensor_dicts(held, path)
        for reading in _readings(network, target, key, tensors, beside)
    ]
    if not readings:
        name, value = next(iter(held.items()))
        raise refused(path, f"must hold tensors by name, and {described(name)} names {described(value)}")
    fitting = [reading for reading in readings if not reading.problems(target)]
    dtype = next(own.dtype for own in target.values() if own.is_floating_point())
    best = max(readings, key=lambda reading: (reading.known, len(reading.found)))
    if not fitting:
        require_values(best.found, best.start, dtype, path)
        message = f"does not fit net_arch: {'; '.join(best.problems(target))}"
        first = next(name for name in target if name.endswith(".weight"))
        expected = (
            f"names are expected as the network's ({first}, …, classifier.weight), as those of an nn.Sequential of its "
            "layers (0.weight, …), or as those of an architecture of torchvision in net_arch"
        )
        raise refused(path, message if best.known else f"{message}; {expected}")
    for reading in fitting:
        require_dense(reading.chosen(target), reading.start, path)
    best, *rest = sorted(fitting, key=lambda reading: (reading.is_average, reading.is_unwrapped))
    taken = best.chosen(target)
    require_values(best.found, best.start, dtype, path)
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
    left = {other.key for other, _ in others} | {
        relative(other.prefix, best.prefix).partition(".")[0] for other, _ in others if other.key == best.key
    }
    unused = [name for name in best.unused if name.partition(".* (")[0] not in left]
    of_head = (f"{best.head}.weight", f"{best.head}.bias")
    unused += [name for name in best.found if name not in taken and name not in of_head]
    averages = dict.fromkeys(other.name for other, _ in others)
    unused += [f"{name} (an average of the weights, which fits too)" for name in averages]
    return replace(best, unused=unused)


def _equal(one: Tensors, other: Tensors, target: Tensors) -> bool:
    """Whether the network would be the same, of whatever precision both are."""
    if one.keys() != other.keys():
        return False
    try:
        return all(torch.equal(one[name].to(target[name].dtype), other[name].to(target[name].dtype)) for name in one)
    except RuntimeError:  # of a type that torch cannot compute with
        return False


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


def _readings(network: Network, target: Tensors, key: str, tensors: Tensors, beside: list[str]) -> Iterator[_Reading]:
    """The ways to read a dict's names: as our network's, by position, and as those of its first architecture.

    Before every name may be what others put there, in any order: DistributedDataParallel's ``module.``,
    torch.compile's ``_orig_mod.``, a LightningModule's attribute, an AveragedModel's ``module.``.
    """
    yield from _variant_readings(network, target, _Reading(key, "", target.keys(), tensors, beside))
    plain = {".".join(piece for piece in name.split(".") if piece not in _WRAPPERS): name for name in tensors}
    if len(plain) == len(tensors) and plain.keys() != tensors.keys():  # fewer would be two sets of weights
        renamed = {name: tensors[origin] for name, origin in plain.items()}
        whole = _Reading(key, "", target.keys(), renamed, beside, is_unwrapped=True)
        yield from _variant_readings(network, target, whole)


def _variant_readings(network: Network, target: Tensors, whole: _Reading) -> Iterator[_Reading]:
    for prefix in prefixes(whole.found, target):
        yield _behind(whole, prefix, target)
    positions = [match for name in whole.found if (match := _INDEXED.fullmatch(name))]
    for prefix in dict.fromkeys(prefix for match in positions for prefix in (match[1] + (match[2] or ""), match[1])):
        inside = _behind(whole, prefix)
        left_out = [value for name, value in whole.found.items() if not name.startswith(prefix)]
        # No weight of another layer may be left out.
        if all(value.ndim < 2 for value in left_out):
            named = list(_by_position(network, inside.found))
            if len(named) == 1:
                yield replace(inside, found=named[0], by_position=True)
    backbone = next(((index, layer) for index, layer in enumerate(network.features) if is_backbone(layer)), None)
    if backbone is not None:
        index, layer = backbone
        start, own = f"features.{index}.", layer.state_dict()
        whole = replace(whole, found={_current_name(name, own): value for name, value in whole.found.items()})
        for prefix in prefixes(whole.found, own):
            inside = _behind(whole, prefix, own)
            kept = {n: value for n, value in inside.found.items() if n in own or not _HEAD.fullmatch(n)}
            yield replace(
                inside,
                wanted=[name for name in target if name.startswith(start)],
                found={f"{start}{name}": value for name, value in kept.items()},
                head=f"{start}{head_name(layer)}",
                has_head=False,
            )


def _behind(whole: _Reading, prefix: str, wanted: Tensors | None = None) -> _Reading:
    """What is behind a prefix, of it the modules that are wanted, if any is there; the rest is unused."""
    found = {name.removeprefix(prefix): value for name, value in whole.found.items() if name.startswith(prefix)}
    if wanted is not None:
        modules = {name.partition(".")[0] for name in wanted}
        own = {name: value for name, value in found.items() if name.partition(".")[0] in modules}
        # Without a classifying layer what is beside them may be one by another name.
        is_all = "classifier.weight" not in wanted or "classifier.weight" in own
        if own and (is_all or all(value.ndim < 2 for name, value in found.items() if name not in own)):
            found = own
    left_out = [n for n in whole.found if not (n.startswith(prefix) and n.removeprefix(prefix) in found)]
    unused = [*whole.unused, *grouped(relative(name, prefix) for name in left_out)]
    return replace(whole, prefix=prefix, found=found, unused=unused)


def _current_name(name: str, own: Collection[str]) -> str:
    for pattern, now in _OLD_NAMES:
        if name not in own:
            name = pattern.sub(now, name)
    return name


def _by_position(network: Network, found: Tensors) -> Iterator[dict[str, Tensor]]:
    """Tensors of a Sequential under our names, where each of its layers has the tensors of ours in that position."""
    ours = [
        (f"features.{index}.", state) for index, layer in enumerate(network.features) if (state := layer.state_dict())
    ]
    for body, head in _sequences(found):
        if len(body) != len(ours) or head.keys() != {"weight", "bias"}:
            continue
        if head["weight"].ndim != 2 or head["weight"].shape[1] != network.classifier.in_features:
            continue
        pairs = list(zip(ours, body, strict=True))
        if all(_are_alike(own, layer) for (_, own), layer in pairs):
            named = {f"{start}{name}": value for (start, _), layer in pairs for name, value in layer.items()}
            yield named | {f"classifier.{name}": value for name, value in head.items()}


def _sequences(found: Tensors) -> Iterator[tuple[list[dict[str, Tensor]], dict[str, Tensor]]]:
    """The ways to take tensors for the layers of one Sequential and a classifying layer, its last or one beside it."""
    sequences: dict[str, dict[int, dict[str, Tensor]]] = {}
    single: dict[str, dict[str, Tensor]] = {}
    for name, value in found.items():
        if (indexed := _INDEXED.fullmatch(name)) and not indexed[1]:
            sequences.setdefault(indexed[2] or "", {}).setdefault(int(indexed[3]), {})[indexed[4]] = value
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


def _are_alike(own: Tensors, layer: Tensors) -> bool:
    """Whether a layer's tensors have the names and the shapes of another's; a counter of batches may be left out."""
    needed = {name for name in own if not _is_counter(name)}
    return needed <= layer.keys() <= own.keys() and not any(_differs(own, layer, name) for name in layer)


def _differs(target: Tensors, found: Tensors, name: str) -> str:
    """How a tensor differs from the network's of that name; empty if it does not."""
    wanted, got = target[name], found[name]
    if wanted.shape != got.shape:
        sizes = [spelled_shape(tuple(tensor.shape)) or "a single number" for tensor in (wanted, got)]
        return f"must be {sizes[0]} and is {sizes[1]}"
    if wanted.is_floating_point() != got.is_floating_point():
        return f"must be {wanted.dtype} and is {got.dtype}"
    return ""


def _listed(what: str, names: list[str]) -> str:
    """``3 are missing (a, b, …)``; empty for none."""
    if not names:
        return ""
    shown = ", ".join(short(name) for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} {'are' if len(names) > 1 else 'is'} {what} ({shown})"
