"""Shapes and costs of the usual operations on the meta device, without torch's compiler.

For tensors without data torch runs Python functions that its compiler shares, and the first one imports the compiler
and sympy: 0.9 s, a third of what a training took to start. Here are the operations of the usual convolutional networks.
Whatever else is called, or called in another way, goes to torch itself, whose error messages stay its own. (torchvision
imports the compiler by itself, so that networks with its architectures gain nothing here.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# In place: they give what they are given.
_IN_PLACE = {
    getattr(_aten, f"{name}_").default
    for name in ("relu", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "silu", "sigmoid", "tanh")
} | {_aten.hardsigmoid_.default, _aten.celu_.default, _aten.div_.Scalar}
# They give a tensor of the shape that they are given.
_ELEMENTWISE = {
    getattr(_aten, name).default
    for name in (
        *("relu", "elu", "celu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "sigmoid"),
        *("silu", "softplus", "tanh", "empty_like"),
    )
}
# What else may cost multiplications, which torch's counter is asked for.
_COSTLY = ("conv", "mm", "attention", "linear")


class MetaShapes(TorchDispatchMode):  # type: ignore[no-untyped-call] # of its base
    """Within, the usual operations on meta tensors are computed here.

    Attributes:
        multiply_adds: Of the operations so far, as torch's FLOP counter counts them.
        is_exact: Whether the costs of all of them are in it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds, self.is_exact = 0, True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch's name: otherwise the first operation imports the compiler
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What an operation gives."""
        if kwargs or not (args and isinstance(args[0], Tensor) and args[0].is_meta):
            found = None
        elif func in _IN_PLACE:
            found = args[0]
        elif func in _ELEMENTWISE:
            found = _like(args[0], args[0].shape) if args[0].is_contiguous() else None
        else:
            known = _KNOWN.get(func)
            found = None if known is None else known(*args)
            if found is not None and func in _COSTS:
                self.multiply_adds += _COSTS[func](found, *args)
        if found is not None:
            return found
        self.is_exact = self.is_exact and not any(name in func.__name__ for name in _COSTLY)
        return func(*args, **(kwargs or {}))


def _like(given: Tensor, shape: Sequence[int]) -> Tensor:
    return given.new_empty(shape)


def _windows(given: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Any) -> Any:
    """Positions of a window along each dimension; None where torch may raise."""
    kernel, stride, padding, dilation = (
        [*value] * (len(kernel) if len(value) == 1 else 1) for value in (kernel, stride or kernel, padding, dilation)
    )
    lengths = given.shape[2:]
    if not len(kernel) == len(stride) == len(padding) == len(dilation) == len(lengths) == given.ndim - 2:
        return None
    if min((*kernel, *stride, *dilation)) < 1 or min(padding) < 0:
        return None
    every = zip(lengths, kernel, stride, padding, dilation, strict=True)
    found = [(long + 2 * pad - space * (wide - 1) - 1) // step + 1 for long, wide, step, pad, space in every]
    return found if min(found) > 0 and given.shape[1] > 0 else None


def _convolution(
    given: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    is_transposed: bool,
    _output_padding: list[int],
    groups: int,
) -> Tensor | None:
    if is_transposed or weight.ndim != given.ndim or weight.shape[1] * groups != given.shape[1]:
        return None
    if weight.shape[0] % groups or not (bias is None or bias.shape == weight.shape[:1]):
        return None
    positions = _windows(given, weight.shape[2:], stride, padding, dilation)
    return None if positions is None else _like(given, (given.shape[0], weight.shape[0], *positions))


def _batch_norm(
    given: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    is_training: bool,
    _momentum: float,
    _eps: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    channels = given.shape[1:2]
    given_each = [value for value in (weight, bias, mean, variance) if value is not None]
    if not given.is_contiguous() or any(value.shape != channels for value in given_each):
        return None
    if not is_training and (mean is None or variance is None):
        return None
    return _like(given, given.shape), _like(given, channels), _like(given, channels)


def _max_pool(
    given: Tensor,
    kernel: list[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    is_ceil: bool = False,
) -> tuple[Tensor, Tensor] | None:
    if given.ndim != 4 or is_ceil or 2 * max(padding) > min(kernel):
        return None
    positions = _windows(given, [*kernel] * (2 // len(kernel)), stride, padding, dilation)
    if positions is None:
        return None
    shape = (*given.shape[:2], *positions)
    return _like(given, shape), given.new_empty(shape, dtype=torch.int64)


def _average_pool(
    given: Tensor,
    kernel: list[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    is_ceil: bool = False,
    _counts_padding: bool = True,
    divisor: int | None = None,
) -> Tensor | None:
    found = _max_pool(given, kernel, stride, padding, (1,), is_ceil)
    return None if found is None or divisor == 0 else found[0]


def _adaptive_pool(given: Tensor, size: Sequence[int]) -> Tensor | None:
    is_usual = given.ndim == 4 and len(size) == 2 and min(size) > 0 and 0 not in given.shape
    return _like(given, (*given.shape[:2], *size)) if is_usual else None


def _mean(given: Tensor, dims: Sequence[int] | None, is_kept: bool = False) -> Tensor | None:
    if not dims or not {*dims} <= {*range(-given.ndim, given.ndim)} or 0 in given.shape:
        return None
    gone = {dim % given.ndim for dim in dims}
    kept = [1 if dim in gone else long for dim, long in enumerate(given.shape) if is_kept or dim not in gone]
    return _like(given, kept) if len(gone) == len(dims) else None


def _addmm(bias: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    is_usual = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0] and bias.shape == right.shape[1:]
    return _like(left, (left.shape[0], right.shape[1])) if is_usual else None


def _pair(left: Tensor, right: Any) -> Tensor | None:
    """As residual blocks add, and dropout and gates multiply."""
    if not (isinstance(right, Tensor) and right.is_meta and left.dtype == right.dtype and left.ndim == right.ndim):
        return None
    if not (left.is_contiguous() and right.is_contiguous()):
        return None
    sides = [*zip(left.shape, right.shape, strict=True)]
    return _like(left, [max(pair) for pair in sides]) if all(1 in pair or len({*pair}) == 1 for pair in sides) else None


def _pair_in_place(left: Tensor, right: Any) -> Tensor | None:
    found = _pair(left, right)
    return left if found is not None and found.shape == left.shape else None


def _layer_norm(
    given: Tensor, size: list[int], weight: Tensor | None, bias: Tensor | None, _eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    count = given.ndim - len(size)
    given_each = [value for value in (weight, bias) if value is not None]
    if not given.is_contiguous() or [*given.shape[count:]] != size or any([*one.shape] != size for one in given_each):
        return None
    each = (*given.shape[:count], *(1 for _ in size))
    return _like(given, given.shape), _like(given, each), _like(given, each)


_KNOWN: dict[Any, Callable[..., Any]] = {
    _aten.convolution.default: _convolution,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.max_pool2d_with_indices.default: _max_pool,
    _aten.avg_pool2d.default: _average_pool,
    _aten._adaptive_avg_pool2d.default: _adaptive_pool,
    _aten.mean.dim: _mean,
    _aten.addmm.default: _addmm,
    _aten.add.Tensor: _pair,
    _aten.add_.Tensor: _pair_in_place,
    _aten.mul.Tensor: _pair,
    _aten.mul_.Tensor: _pair_in_place,
    _aten.native_layer_norm.default: _layer_norm,
}
_COSTS: dict[Any, Callable[..., int]] = {
    _aten.convolution.default: lambda found, _given, weight, *_: prod(found.shape) * prod(weight.shape[1:]),
    _aten.addmm.default: lambda found, _bias, left, _right: prod(found.shape) * left.shape[1],
}
