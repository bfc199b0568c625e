"""The values from which an exported network computes shapes: small tensors of whole numbers, by numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto
from onnx.helper import get_attribute_value, tensor_dtype_to_np_dtype
from onnx.numpy_helper import to_array

from components.shared.inference.graph import MAX_SHAPE_VALUES

Array = NDArray[Any]
Shape = tuple[int, ...]
Attributes = dict[str, Any]


def attributes_of(node: NodeProto) -> Attributes:
    """The attributes of a node by name."""
    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def shape_value(
    node: NodeProto, attributes: Attributes, inputs: Sequence[Array | None], first: Shape, kind: int, result: Shape
) -> Array | None:
    """What a node gives, where it is small and known beforehand; else None.

    Args:
        node: The node.
        attributes: Its attributes.
        inputs: Its inputs, None for those that are not known.
        first: Shape of its first input, whether or not its values are known.
        kind: Element type of what it gives.
        result: Shape of what it gives.
    """
    if math.prod(result) > MAX_SHAPE_VALUES:
        return None
    if node.op_type == "Shape":
        return np.array(first[attributes.get("start", 0) : attributes.get("end", len(first))], np.int64)
    if node.op_type == "Constant":
        value = next(iter(attributes.values()))
        value = to_array(value) if "value" in attributes else np.array(value)
        return value.astype(tensor_dtype_to_np_dtype(kind), copy=False) if value.dtype.kind in "biuf" else None
    compute = _COMPUTED.get(node.op_type)
    if compute is None or any(each is None or each.dtype.kind not in "biu" for each in inputs):
        return None
    with np.errstate(all="ignore"):
        value = compute(attributes, result, *inputs)
    return np.asarray(value).astype(tensor_dtype_to_np_dtype(kind), copy=False).reshape(result)


def _sliced(_: Attributes, __: Shape, data: Array, *given: Array) -> Array:
    starts, ends, *more = (each.tolist() for each in given)
    axes = more[0] if more else range(len(starts))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    parts = [slice(None)] * data.ndim
    for axis, *part in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(*part)
    return data[tuple(parts)]


def _filled(attributes: Attributes, result: Shape, _: Array) -> Array:
    return np.full(result, to_array(attributes["value"]).item() if "value" in attributes else 0)


# From attributes, the shape of the result and inputs to the result, whose shape and type are set afterwards.
_COMPUTED: dict[str, Callable[..., Any]] = {
    "Identity": lambda attributes, result, data: data,
    "Cast": lambda attributes, result, data: data,
    "CastLike": lambda attributes, result, data, like: data,
    "Reshape": lambda attributes, result, data, shape: data,
    "Squeeze": lambda attributes, result, data, axes=None: data,
    "Unsqueeze": lambda attributes, result, data, axes: data,
    "Expand": lambda attributes, result, data, shape: np.broadcast_to(data, result),
    "ConstantOfShape": _filled,
    "Concat": lambda attributes, result, *data: np.concatenate(data, attributes["axis"]),
    "Gather": lambda attributes, result, data, where: np.take(data, where, attributes.get("axis", 0)),
    "Slice": _sliced,
    "Transpose": lambda attributes, result, data: data.transpose(attributes.get("perm")),
    "Range": lambda attributes, result, start, end, step: np.arange(start, end, step),
    "Add": lambda attributes, result, a, b: a + b,
    "Sub": lambda attributes, result, a, b: a - b,
    "Mul": lambda attributes, result, a, b: a * b,
    # Toward zero, as C does; the guard sees to it that nothing is divided by zero.
    "Div": lambda attributes, result, a, b: np.sign(a) * (abs(a) // b),
    "Mod": lambda attributes, result, a, b: np.fmod(a, b) if attributes.get("fmod") else np.mod(a, b),
    "Max": lambda attributes, result, *data: np.max(np.broadcast_arrays(*data), 0),
    "Min": lambda attributes, result, *data: np.min(np.broadcast_arrays(*data), 0),
    "Equal": lambda attributes, result, a, b: a == b,
    "Where": lambda attributes, result, condition, a, b: np.where(condition, a, b),
}
