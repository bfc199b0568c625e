"""Gradient checkpointing: activations of feature layers are computed again in the backward pass instead of kept."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from components.classifier.building import is_backbone, is_known
from components.classifier.network import Network

_RANDOM = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
# Of plain layers in one part: a convolution, its normalisation and its activation belong together.
_SHORTEST = 3


class _Part(NamedTuple):
    """Layers whose input alone is kept: some that follow each other in `owner`, or one block."""

    owner: nn.Sequential | None
    layers: tuple[nn.Module, ...]


class Recomputing:
    """The parts of a network that are computed again; by :meth:`forward_pass` a forward pass keeps only their inputs.

    A part is a block, as torchvision's architectures have them in ``nn.Sequential``, or about the square root of as
    many plain layers as follow each other. The last part is kept: it would be computed again at once. Gradients, batch
    statistics and random numbers are those of a network that keeps everything.

    Args:
        network: On its device, and with SyncBatchNorm where it is to have that.

    Attributes:
        parts: How many parts are computed again.
        draws: Whether one of them draws random numbers, as dropout does. Their generators are then set back for the
            second pass, on the host, which no CUDA graph captures.
        note: Why there is no effect, or less; empty: there is.
    """

    def __init__(self, network: Network) -> None:
        # Now, and not within the first step: torch's checkpoint asks its compiler to leave it alone.
        importlib.import_module("torch._dynamo")
        layers = list(network.features)
        # Layers of other origin may keep what a second forward pass would change.
        frozen, foreign = network.frozen_layers, [not is_known(layer) for layer in layers]
        # What is frozen keeps nothing for a backward pass.
        left_out = {layer for index, layer in enumerate(layers) if index < frozen or foreign[index]}
        parts = list(_parts_of(network.features, left_out))[:-1]
        self.parts = len(parts)
        self.draws = any(_draws(module) for part in parts for layer in part.layers for module in layer.modules())
        self.note = _note(self.parts, sum(foreign[frozen:]), len(layers) - frozen)
        self._forwards: dict[nn.Module, Callable[..., Any]] = {}
        for part in parts:
            if part.owner is None:
                (block,) = part.layers
                self._forwards[block] = self._again(partial(type(block).forward, block), part.layers)
        for owner in {part.owner: None for part in parts if part.owner is not None}:
            firsts = {part.layers[0]: part.layers for part in parts if part.owner is owner}
            later = {layer for run in firsts.values() for layer in run[1:]}
            steps = [
                self._again(partial(_run, run), run) if (run := firsts.get(layer)) else layer
                for layer in owner
                if layer not in later
            ]
            self._forwards[owner] = partial(_run, steps)

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Have the parts of a forward pass within computed again in its backward pass, which may come after this."""
        for module, forward in self._forwards.items():
            module.__dict__["forward"] = forward
        try:
            yield
        finally:
            for module in self._forwards:
                del module.__dict__["forward"]

    def _again(self, function: Callable[..., Any], layers: Iterable[nn.Module]) -> Callable[..., Any]:
        """`function`, which runs `layers`, as one that keeps its inputs alone."""
        norms = [module for layer in layers for module in layer.modules() if isinstance(module, _NormBase)]
        spare = {norm: {name: torch.zeros_like(value) for name, value in norm.named_buffers()} for norm in norms}

        def call(*inputs: Any) -> Any:
            versions = [value._version for value in inputs if isinstance(value, Tensor)]
            output = checkpoint(
                function,
                *inputs,
                use_reentrant=False,
                preserve_rng_state=self.draws,
                context_fn=lambda: (nullcontext(), _replaced(spare)),
            )
            if versions != [value._version for value in inputs if isinstance(value, Tensor)]:
                raise RuntimeError("a part that is computed again has changed its input in place")
            return output

        return call


def _draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training."""
    if isinstance(module, _DropoutNd) or type(module).__name__ == "StochasticDepth":
        return bool(module.p)
    # Attention, recurrent layers, and blocks of torchvision that call torch's functions.
    shares = [value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
    return isinstance(module, _RANDOM) or any(shares)


def _note(parts: int, foreign: int, trained: int) -> str:
    others = f"{foreign} layer(s) of other modules than torch's and torchvision's, which may keep state, are kept whole"
    if parts:
        return f"gradient_checkpointing: {others}" if foreign else ""
    why = others if foreign else "of so few layers nothing is saved" if trained else "all feature layers are frozen"
    return f"gradient_checkpointing has no effect: {why}"


def _parts_of(module: nn.Module, left_out: Iterable[nn.Module] = ()) -> Iterator[_Part]:
    """The parts of a module of modules, in their order."""
    owner = module if type(module).forward is nn.Sequential.forward else None
    run: list[nn.Module] = []
    for child in module.children():
        if owner is not None and child not in left_out and not any(child.children()):
            run.append(child)
            continue
        yield from _runs(owner, run)
        run = []
        if child in left_out or not any(child.children()):
            continue
        is_whole = owner is not None or not _has_blocks(child)
        if is_whole and type(child).forward is not nn.Sequential.forward and not is_backbone(child):
            yield _Part(None, (child,))
        else:
            yield from _parts_of(child)
    yield from _runs(owner, run)


def _has_blocks(module: nn.Module) -> bool:
    """Whether a module has a sequence, however deep, of more than plain layers."""
    sequences = (inner for inner in module.modules() if isinstance(inner, nn.Sequential))
    return any(any(child.children()) for sequence in sequences for child in sequence)


def _runs(owner: nn.Module | None, layers: Sequence[nn.Module]) -> Iterator[_Part]:
    """Plain layers that follow each other, in parts of about the square root of their number."""
    count = math.ceil(len(layers) / max(_SHORTEST, math.isqrt(len(layers))))
    begin = 0
    for number in range(1, count + 1):
        end = len(layers) * number // count
        # No part changes its input in place, which the second pass needs as it was: by its first layer, or by one
        # behind layers that may give their input as it is, as Identity does, or a view of it.
        own = next((at for at in range(begin, end) if any(True for _ in layers[at].parameters())), end)
        begin = max((at + 1 for at in range(begin, own) if getattr(layers[at], "inplace", False)), default=begin)
        if end - begin > 1 and isinstance(owner, nn.Sequential):
            yield _Part(owner, tuple(layers[begin:end]))
        begin = end


def _run(layers: Iterable[Callable[[Any], Any]], images: Any) -> Any:
    for layer in layers:
        images = layer(images)
    return images


@contextmanager
def _replaced(spare: dict[_NormBase, dict[str, Tensor]]) -> Iterator[None]:
    """Have batch statistics go into spare buffers: those of the run have had this batch's.

    Without any, by ``track_running_stats = False``, the layers would keep other tensors than in the first pass, which
    torch refuses.
    """
    own = {norm: dict(norm._buffers) for norm in spare}
    for norm, buffers in spare.items():
        norm._buffers.update(buffers)
    try:
        yield
    finally:
        for norm, kept in own.items():
            norm._buffers.update(kept)
