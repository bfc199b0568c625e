"""How the network's arithmetic is made fast: its precision, and whether it is compiled; each with the reason."""

from __future__ import annotations

import importlib.util
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch

from components.classifier.network import LayerTable
from components.shared.errors import DeviceError, ParamsError, Problem
from components.shared.params.params import Params

# Compiling takes a minute or so and saves a part of every step. A GPU of today does this much in ten minutes or more;
# counted in work and not in seconds, so that the same run decides the same way every time.
_WORTH_COMPILING_FLOPS = 1e16


class Precision(NamedTuple):
    """The precision of the forward pass, and why, for the log; weights, gradients and the loss are float32."""

    name: Literal["fp32", "bf16"]
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """What the forward pass runs in."""
        return torch.autocast(device.type, torch.bfloat16) if self.name == "bf16" else nullcontext()


def choose_precision(params: Params, device: torch.device) -> Precision:
    """The precision of a run."""
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if params.precision == "bf16" and not has_bf16:
        raise DeviceError(f'precision: "bf16" was asked for, and {device} has none; set precision to "auto" or "fp32"')
    if params.precision != "auto":
        return Precision(params.precision, "as precision says")
    if device.type == "cpu":
        return Precision("fp32", "on the CPU")
    return Precision("bf16", "this GPU has it") if has_bf16 else Precision("fp32", "this GPU has no bf16")


def flops_of_training(table: LayerTable) -> int:
    """Floating-point operations of one image's forward and backward pass, a multiply-add as two.

    A layer's forward pass, the gradient of its weights and the gradient of its inputs are a product each, of the same
    size. The second there is only where the weights are trained, the third where an earlier layer's are.
    """
    multiply_adds, is_behind = 0, False
    for row in table.rows:
        multiply_adds += row.multiply_adds * (1 + bool(row.trainable) + is_behind)
        is_behind = is_behind or bool(row.trainable)
    return 2 * multiply_adds


class Compiling(NamedTuple):
    """Whether the network is compiled, and why, for the log."""

    is_on: bool
    reason: str


def choose_compiling(params: Params, device: torch.device, table: LayerTable, images: float) -> Compiling:
    """Whether a network is compiled that trains on so many images, epochs counted, in each process."""
    missing = ""
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++", "gcc", "cc")):
        missing = "there is no C++ compiler, which torch.compile needs"
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing = "triton is not installed, which torch.compile needs on a GPU"
    if params.compile == "always" and missing:
        raise ParamsError([Problem("compile", f'is "always", and {missing}; set "auto" or "never"')])
    if params.compile != "auto":
        return Compiling(params.compile == "always", "as compile says")
    if device.type == "cpu":
        return Compiling(False, "on the CPU")
    if (flops := flops_of_training(table) * images) < _WORTH_COMPILING_FLOPS:
        return Compiling(False, f"the run is short: {flops:.1e} FLOP, and it pays from {_WORTH_COMPILING_FLOPS:.0e}")
    return Compiling(False, missing) if missing else Compiling(True, f"the run is long: {flops:.1e} FLOP")
