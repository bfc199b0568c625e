"""The network: feature layers from ``net_arch``, then Flatten and Linear(n_classes); it gives logits.

Shapes are found by running each layer on torch's meta device, where tensors have shapes and no data, so a network of
any size is checked in milliseconds without memory.
"""

from __future__ import annotations

import atexit
import gc
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from components.classifier.building import build
from components.classifier.live_values import LiveValues
from components.classifier.meta_shapes import MetaShapes
from components.classifier.shape_errors import misfit, spelled_shape
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params
from components.shared.params.types import LayerSpec
from components.shared.text import first_line


@atexit.register
def _leave_modules_alone() -> None:
    """Spare Python collecting torch's modules as garbage at its end, 0.35 s; triton would print what is left of it."""
    if "triton" not in sys.modules:
        gc.freeze()


# The examined batch: more than one image, because batch statistics of one value are refused by torch.
_BATCH = 2


class Network(nn.Module):
    """Feature layers, Flatten, Linear: logits (batch, classes) of float images (batch, channels, height, width).

    Attributes:
        live_values: The most values alive at one time in evaluating one image; what its chunks are sized by.
        frozen_layers: How many of the first feature layers are frozen; :func:`freeze` sets it.
    """

    def __init__(self, features: nn.Sequential, in_features: int, n_classes: int, live_values: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.live_values = live_values
        self.frozen_layers = 0
        self.features = features
        self.classifier = nn.Linear(in_features, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.classifier(torch.flatten(self.features(images), 1))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of every layer; frozen ones stay in evaluation mode."""
        super().train(mode)
        for layer in self.features[: self.frozen_layers]:
            layer.eval()
        return self


def freeze(network: Network, layers: int) -> None:
    """Keep so many of the first feature layers as they are: no gradients, no new batch statistics, no dropout."""
    network.frozen_layers = layers
    for index, layer in enumerate(network.features):
        layer.requires_grad_(index >= layers)
    network.train(network.training)


@dataclass(frozen=True)
class LayerRow:
    """One line of the layer table.

    Attributes:
        place: ``net_arch[0]``, or ``appended``.
        output_shape: For one image.
        trainable: How many parameters are trained: none in a frozen layer.
        buffers: Number of values that it keeps besides, such as batch statistics.
        multiply_adds: For one image, as torch's FLOP counter counts them (convolutions and products).
        values: What the layer, or all modules within it, give for one image.
        live_values: The most alive at one time while the layer evaluates one image, its input and output included.
    """

    place: str
    name: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable: int
    buffers: int
    multiply_adds: int
    values: int
    live_values: int


class LayerTable:
    """Every layer of a network with its shape and cost, and the sums; `features` are the classifying layer's inputs."""

    def __init__(self, input_shape: tuple[int, ...], rows: Sequence[LayerRow]) -> None:
        self.input_shape = input_shape
        self.rows = tuple(rows)
        self.parameters = sum(row.parameters for row in rows)
        self.trainable = sum(row.trainable for row in rows)
        self.multiply_adds = sum(row.multiply_adds for row in rows)
        self.values = sum(row.values for row in rows)
        # The images are held to the end by the network's caller; in the first layer they are counted already.
        held = [0, *[math.prod(input_shape)] * (len(rows) - 1)]
        self.live_values = max(row.live_values + images for row, images in zip(rows, held, strict=True))
        self.features = rows[-2].output_shape[0]

    def lines(self) -> list[str]:
        """The table as text for people."""
        body = [("input", "", spelled_shape(self.input_shape), "", "")]
        for row in self.rows:
            shape = spelled_shape(row.output_shape)
            body.append((row.place, row.name, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}"))
        body.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"))
        body.append(("trainable", "", "", f"{self.trainable:,}", ""))
        table = [("layer", "class", "output", "parameters", "multiply-adds"), *body]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        pads = [str.ljust] * 3 + [str.rjust] * 2
        lines = ["  ".join(map(lambda pad, *cell: pad(*cell), pads, line, widths)).rstrip() for line in table]
        rule = "  ".join("-" * width for width in widths)
        return [lines[0], rule, *lines[1:-2], rule, *lines[-2:]]


def examine(
    net_arch: Sequence[LayerSpec],
    image_shape: tuple[int, int, int],
    n_classes: int,
    batch_size: int = _BATCH,
    frozen_layers: int = 0,
) -> LayerTable:
    """Build the network on the meta device and follow the shapes through it.

    Args:
        net_arch: The feature layers.
        image_shape: Height, width, channels.
        n_classes: Classes of the appended Linear.
        batch_size: Images in a training batch; for batch statistics 1 is another kind of batch.
        frozen_layers: How many of the first layers have no trainable parameters.

    Raises:
        ParamsError: Naming the first layer that does not fit, with what it gets and what it needs.
    """
    height, width, channels = image_shape
    rows: list[LayerRow] = []
    layers: list[nn.Module] = []
    with MetaShapes() as shapes, torch.device("meta"), torch.no_grad():
        current = torch.empty(min(batch_size, _BATCH), channels, height, width)
        before = "the images"
        for index, spec in enumerate(net_arch):
            path = f"net_arch[{index}]"
            layer: nn.Module = build(spec, path)
            if not isinstance(layer, nn.Module):  # of a module that an operator named
                raise ParamsError([Problem(path, f"{spec.class_} is not a torch.nn.Module")])
            if isinstance(layer, _NormBase) and layer.momentum is None:
                layer.momentum = 0.1  # for None torch reads a counter's value, which a meta tensor does not have
            if index < frozen_layers:
                layer.requires_grad_(False).eval()
            layers.append(layer)
            output = _run(layer, spec, path, current, before)
            try:
                rows.append(_row(path, layer, spec.short_name, current, output, shapes))
            except Exception as error:  # evaluation cuts batches of its own, and the last may be of a single image
                message = f"{spec.class_} does not take every number of images at evaluation: {first_line(error)}"
                raise ParamsError([Problem(path, message)]) from error
            current, before = output, f"{path} ({spec.class_})"
        flat = torch.flatten(current, 1)
        if flat.shape[1] > 2**31:
            raise ParamsError([Problem(f"net_arch[{len(rows) - 1}]", f"gives {flat.shape[1]:,} features, too many")])
        rows.append(_row("appended", nn.Flatten(), "Flatten", current, flat, shapes))
        linear = nn.Linear(flat.shape[1], n_classes)
        rows.append(_row("appended", linear, "Linear", flat, linear(flat), shapes))
    if any(getattr(layer, "inplace", False) for layer in layers):
        _differentiate(layers, min(batch_size, _BATCH), (channels, height, width))
    return LayerTable((channels, height, width), tuple(rows))


def _run(layer: nn.Module, spec: LayerSpec, path: str, given: Tensor, before: str) -> Tensor:
    shape = tuple(given.shape[1:])
    if (found := misfit(layer, shape, before)) is not None:
        argument, message = found
        where = f"{path}.kwargs.{argument}" if argument else path
        raise ParamsError([Problem(where, f"{spec.class_}: {message}")])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = layer(given)
    except Exception as error:  # torch's own message, where we have no better one
        message = f"{spec.class_} gets {spelled_shape(shape)} from {before} and refuses it: {first_line(error)}"
        raise ParamsError([Problem(path, message)]) from error
    wrong = wrong_output(output, given.shape[0])
    if wrong:
        raise ParamsError([Problem(path, f"{spec.class_} {wrong}")])
    return output  # type: ignore[no-any-return]


def _differentiate(layers: list[nn.Module], batch: int, shape: tuple[int, ...]) -> None:
    """Refuse a layer that overwrites (``inplace``) what an earlier one needs; torch does not know which it is."""
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            current = torch.empty(batch, *shape)
            for layer in layers:
                current = layer(current)
            current.sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # some layers have no gradient on the meta device, and have one elsewhere
        if "inplace operation" in str(error):
            message = "a layer with inplace: true overwrites what the layer before it needs for its gradient; set false"
            raise ParamsError([Problem("net_arch", message)]) from error


def wrong_output(output: object, batch: int) -> str | None:
    """Why an output cannot be passed on, if it cannot."""
    if not isinstance(output, Tensor):
        return f"gives a {type(output).__name__}, and a layer must give one tensor"
    if output.ndim < 2 or output.shape[0] != batch:
        return "mixes the images of a batch; a layer must keep the batch as the first dimension"
    if 0 in output.shape:
        return f"gives an empty output, {spelled_shape(tuple(output.shape[1:]))}"
    return None


def _row(path: str, layer: nn.Module, name: str, given: Tensor, output: Tensor, shapes: MetaShapes) -> LayerRow:
    """A table row; the layer runs again in evaluation mode, on two images and on one, which is counted."""
    training, fast = layer.training, torch.backends.mha.get_fastpath_enabled()
    layer.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer(given.new_empty(2, *given.shape[1:]))
        torch.backends.mha.set_fastpath_enabled(False)  # attention by operations that the FLOP counter knows
        try:
            shapes.multiply_adds, shapes.is_exact = 0, True
            with _counted_values(layer) as values, LiveValues() as live:
                layer(given[:1])
            multiply_adds = shapes.multiply_adds
            if not shapes.is_exact:
                with _flop_counter() as counter:
                    layer(given[:1])
                multiply_adds = counter.get_total_flops() // 2
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
    layer.train(training)
    return LayerRow(
        place=path,
        name=name,
        output_shape=tuple(output.shape[1:]),
        parameters=sum(parameter.numel() for parameter in layer.parameters()),
        trainable=sum(parameter.numel() for parameter in layer.parameters() if parameter.requires_grad),
        buffers=sum(buffer.numel() for buffer in layer.buffers()),
        multiply_adds=multiply_adds,
        values=sum(values),
        live_values=given[:1].numel() + live.most,
    )


def _flop_counter() -> Any:
    from torch.utils import flop_counter  # imports triton

    # The first call of this function would import torch's compiler, 1 s, to be left alone by it.
    counted = getattr(flop_counter._FlopCounterMode.__torch_dispatch__, "__wrapped__", None)
    if counted is not None:
        setattr(counted, "__dynamo_disable", counted)
    return flop_counter.FlopCounterMode(display=False)


@contextmanager
def _counted_values(layer: nn.Module) -> Iterator[list[int]]:
    """The number of values that every module without modules of its own gives, call by call, while this is open."""
    counts: list[int] = []

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            counts.append(output.numel())

    hooks = [module.register_forward_hook(count) for module in layer.modules() if not any(module.children())]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def build_network(
    net_arch: Sequence[LayerSpec], image_shape: tuple[int, int, int], n_classes: int, table: LayerTable | None = None
) -> Network:
    """The network on the current default device, initialised from torch's global generator.

    `table` is what :func:`examine` has found of it; by default it is called, and what it raises is raised.
    """
    table = table or examine(net_arch, image_shape, n_classes)
    layers: list[Any] = [build(spec, f"net_arch[{index}]") for index, spec in enumerate(net_arch)]
    return Network(nn.Sequential(*layers), table.features, n_classes, table.live_values)


def network_of(params: Params, table: LayerTable | None = None) -> Network:
    """The network of a run's params, its ``frozen_layers`` frozen; `table` as for :func:`build_network`."""
    network = build_network(params.net_arch, params.image_shape, params.n_classes, table)
    freeze(network, params.frozen_layers)
    return network
