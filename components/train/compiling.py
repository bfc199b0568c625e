"""Whether the network is compiled, with the reason, and how."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.classifier.network import LayerTable
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params

# Compiling takes a minute or so and saves a part of every step. An H100 does this much in ten minutes (a ResNet-50 in
# bf16, 85 TFLOP/s), other GPUs in more; what compiling takes and saves on a GPU was not measured with it. Counted in
# work and not in seconds, so that the same run decides the same way every time.
_WORTH_COMPILING_FLOPS = 5e16
# A step of less is bound by the host that issues it, which compiling does not shorten: on an H100 a compiled network of
# 1.6e10 FLOP a step was slower than uncompiled, 108,600 images/s after 126,600 in bf16 and 135,400 after 174,900 in
# fp32. Its host needed 4 ms for a step, in which that GPU does about this much (85 TFLOP/s of a ResNet-50 in bf16).
_HOST_BOUND_FLOPS = 3e11


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
    """Whether a network is compiled that trains on so many images, epochs counted, in each process.

    Raises:
        ParamsError: It must be, and cannot.
    """
    missing = ""
    if params.gradient_checkpointing:
        missing = "gradient_checkpointing is true, whose recomputed layers are not compiled"
    elif not any(shutil.which(name) for name in ("g++", "clang++", "c++", "gcc", "cc")):
        missing = "there is no C++ compiler, which torch.compile needs"
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing = "triton is not installed, which torch.compile needs on a GPU"
    if params.compile == "always" and missing:
        raise ParamsError([Problem("compile", f'is "always", and {missing}; set "auto" or "never"')])
    if params.compile != "auto":
        return Compiling(params.compile == "always", "as compile says")
    if device.type == "cpu":
        return Compiling(False, "on the CPU")
    of_image = flops_of_training(table)
    if (flops := of_image * images) < _WORTH_COMPILING_FLOPS:
        return Compiling(False, f"the run is short: {flops:.1e} FLOP, and it pays from {_WORTH_COMPILING_FLOPS:.0e}")
    step = of_image * params.images_per_batch
    if step < _HOST_BOUND_FLOPS and params.step != "graph":  # a captured step is not the host's
        bound = f"{step:.1e} FLOP, below {_HOST_BOUND_FLOPS:.0e}"
        return Compiling(False, f"the host is the bound of so small a step: {bound}")
    return Compiling(False, missing) if missing else Compiling(True, f"the run is long: {flops:.1e} FLOP")


class Compiled:
    """A model compiled for batches of one shape; a batch of any other, as an epoch's last, is computed uncompiled.

    Args:
        model: The network, or what shares it among processes, as it trains.
        shape: Of the batches that are compiled for: (batch, channels, height, width).
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int, int]) -> None:
        self._model, self._shape = model, torch.Size(shape)
        # torch's own graphs would be captured beside a step's, and their memory is not shared.
        options: dict[str, Any] = {"triton.cudagraphs": False}
        self._compiled: Callable[[Tensor], Any] = torch.compile(model, dynamic=False, options=options)

    def __call__(self, images: Tensor) -> Any:
        """What the model gives for a batch, float32."""
        return (self._compiled if images.shape == self._shape else self._model)(_in_one_layout(images))

    def compile(self, device: torch.device, autocast: AbstractContextManager[object]) -> None:
        """Compile forward and backward pass, once, by black images; no gradients may be there yet.

        Batch statistics and generators stay as they are, and no gradient is left. In a group every process does it.
        `autocast` is what the forward pass runs in.
        """
        kept = [buffer.clone() for buffer in self._model.buffers()]
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                with autocast:
                    output = self(torch.zeros(self._shape, device=device))
                output.float().sum().backward()
        finally:
            self._model.zero_grad(set_to_none=True)
            for buffer, before in zip(self._model.buffers(), kept, strict=True):
                buffer.copy_(before)
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _in_one_layout(images: Tensor) -> Tensor:
    """Images channels_last; a dimension of one value has the stride that follows, by which a compiled network tells."""
    _, channels, height, width = images.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return images.contiguous(memory_format=torch.channels_last).as_strided(images.shape, strides)
