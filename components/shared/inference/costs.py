"""What a run of a network costs, from its shapes alone: bytes of memory, and operations.

onnx infers shapes an operator at a time. What a shape is computed from (the number of images, times something) is
computed here along the way, so that for a given number of images every shape is known; a network of which one is not
is refused. Nothing is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, TypeProto, defs
from onnx.helper import make_opsetid, make_tensor_type_proto
from onnx.numpy_helper import from_array
from onnx.shape_inference import infer_node_outputs

from components.shared.inference.graph import DTYPES, MAX_RANK, Graph
from components.shared.inference.shape_values import Array, Attributes, attributes_of, shape_value
from components.shared.text import first_line, shortened

Shape = tuple[int, ...]
# Operations for a value that is read or written, where that is more than one: an antialiased resize reads its
# neighbours, a sort compares.
_FACTORS = {"Resize": 64, "TopK": 32, "GridSample": 16, "Gelu": 8}

_DIMENSIONS = {"axes", "axis", "batch_axis", "batch_dims", "perm", "time_axis"}


@dataclass(frozen=True)
class Costs:
    """Of one run: the most bytes of memory that values take at one time, without weights; operations."""

    bytes: int
    operations: int


def costs_of(graph: Graph, images: int) -> tuple[Costs, TypeProto]:
    """The costs of a run on so many images, and the type of its result.

    ValueError: A shape cannot be known beforehand, or is none that can be.
    """
    walk = _Walk(graph, images)
    for node in graph.nodes:
        walk.step(node)
    return Costs(walk.most, walk.operations), walk.types[graph.outputs[0].name]


class _Walk:
    """A run, as far as it can be known without weights and images."""

    def __init__(self, graph: Graph, images: int) -> None:
        kind = graph.inputs[0].type
        given = make_tensor_type_proto(
            kind.tensor_type.elem_type, [images, *(dim.dim_value for dim in kind.tensor_type.shape.dim[1:])]
        )
        self._graph = graph
        self._opsets = [make_opsetid("", graph.opset)]
        self.types: dict[str, TypeProto] = {**graph.types, graph.inputs[0].name: given}
        self._values: dict[str, Array] = dict(graph.constants)
        self._tensors: dict[str, TensorProto] = {}
        self._sequences: dict[str, list[TypeProto]] = {}
        self._last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.input}
        self._shapes = {name: shape_of(kind) for name, kind in self.types.items()}
        self._held = {graph.inputs[0].name: self._bytes(graph.inputs[0].name)}
        self._now = self.most = sum(self._held.values())
        self._index = self.operations = 0

    def step(self, node: NodeProto) -> None:
        inputs, attributes = [name for name in node.input if name], attributes_of(node)
        try:
            self._check_dimensions(node, attributes)
            outputs = self._outputs(node, inputs, attributes)
            self.types |= outputs
            self._shapes |= {name: shape_of(kind) for name, kind in outputs.items()}
            sizes = {name: self._bytes(name) for name in outputs}
            self.operations += self._operations_of(node, inputs, attributes)
            self._keep_value(node, attributes)
        except Exception as error:  # onnx's own have no common base
            raise ValueError(
                f"the shapes of its {node.op_type} {shortened(node.name)!r} cannot be known before it runs: "
                f"{first_line(error)}"
            ) from None
        self._held |= sizes
        self._now += sum(sizes.values())
        self.most = max(self.most, self._now)
        for name in {*inputs, *outputs}:
            if self._last_use.get(name, -1) <= self._index:
                self._now -= self._held.pop(name, 0)
        self._index += 1

    def _bytes(self, name: str) -> int:
        kind = self.types[name].tensor_type.elem_type
        if kind not in DTYPES:
            raise ValueError("it gives what is no tensor of numbers")
        return math.prod(self._shapes[name]) * DTYPES[kind].itemsize

    def _check_dimensions(self, node: NodeProto, attributes: Attributes) -> None:
        """Refuse dimensions that the first input has not, and parts that nothing gets."""
        # onnx's inference looks both up unchecked, and ends the process (1.23).
        if node.op_type == "Split":
            lengths = self._values.get(node.input[1]) if len(node.input) > 1 else None
            if len(node.output) not in (attributes.get("num_outputs"), None if lengths is None else lengths.size):
                raise ValueError(f"its parts are not the {len(node.output)} that it gives")
        rank = len(self._shapes[node.input[0]]) if node.input and node.input[0] else 0
        # Flatten may name what is behind the last one, and OneHot adds one.
        lowest, beyond = -rank - (node.op_type == "OneHot"), rank + (node.op_type in ("Flatten", "OneHot"))
        for name in _DIMENSIONS & attributes.keys():
            given = attributes[name]
            for value in given if isinstance(given, list) else [given]:
                if not (0 if name == "batch_dims" else lowest) <= value < beyond:
                    raise ValueError(f"its {name} {value} is none of {rank} dimensions")

    def _outputs(self, node: NodeProto, inputs: list[str], attributes: Attributes) -> dict[str, TypeProto]:
        """The types of what an operator gives; of a sequence, the whole of what it is cut from."""
        match node.op_type:
            case "SplitToSequence":
                self._sequences[node.output[0]] = list(self._parts(node, attributes))
                return {node.output[0]: self.types[inputs[0]]}
            case "Div" | "Mod" if DTYPES[self.types[inputs[0]].tensor_type.elem_type].kind in "iu":
                # Dividing a whole number by 0 ends the process.
                if inputs[1] not in self._values or (self._values[inputs[1]] < 1).any():
                    raise ValueError("it divides whole numbers by what may be 0")
            case "SequenceAt":
                return {node.output[0]: self._sequences[inputs[0]][int(self._values[inputs[1]])]}
        found = infer_node_outputs(
            defs.get_schema(node.op_type, self._graph.opset, ""),
            node,
            {name: self.types[name] for name in inputs},
            {name: self._tensor(name) for name in inputs if name in self._values},
            opset_imports=self._opsets,
            ir_version=self._graph.ir_version,
        )
        return {name: found[name] for name in node.output if name}

    def _tensor(self, name: str) -> TensorProto:
        """A value that is known, as onnx takes it."""
        if name not in self._tensors:
            self._tensors[name] = from_array(self._values[name], name)
        return self._tensors[name]

    def _parts(self, node: NodeProto, attributes: Attributes) -> Iterator[TypeProto]:
        """What SplitToSequence makes; a part has one dimension less where its length is no input and not kept."""
        kind = self.types[node.input[0]].tensor_type
        shape = self._shapes[node.input[0]]
        axis = range(len(shape))[attributes.get("axis", 0)]
        given = self._values[node.input[1]] if len(node.input) > 1 and node.input[1] else None
        lengths = [1] * shape[axis] if given is None else given.tolist()
        if isinstance(lengths, int):
            lengths = [min(lengths, shape[axis] - start) for start in range(0, shape[axis], lengths)]
        if sum(lengths) != shape[axis] or min(lengths) < 0:
            raise ValueError("its parts are not the whole")
        for length in lengths:
            kept = [length] if given is not None or attributes.get("keepdims", 1) else []
            yield make_tensor_type_proto(kind.elem_type, [*shape[:axis], *kept, *shape[axis + 1 :]])

    def _keep_value(self, node: NodeProto, attributes: Attributes) -> None:
        """Compute what may be a shape, of values that are known."""
        if len(node.output) == 1 and node.op_type != "SplitToSequence":
            output = node.output[0]
            values = [self._values.get(name) for name in node.input]
            shape = self._shapes[node.input[0]] if node.input and node.input[0] else ()
            value = shape_value(
                node, attributes, values, shape, self.types[output].tensor_type.elem_type, self._shapes[output]
            )
            if value is not None:
                self._values[output] = value

    def _operations_of(self, node: NodeProto, inputs: list[str], attributes: Attributes) -> int:
        given = [self._shapes[name] for name in inputs]
        sizes = [math.prod(shape) for shape in given]
        made = sum(math.prod(self._shapes[name]) for name in node.output if name)
        match node.op_type:
            case "Conv":
                each = made * (sizes[1] // max(1, given[1][0]))
            case "ConvTranspose":
                each = sizes[0] * (sizes[1] // max(1, given[1][0]))
            case "MatMul":
                each = made * given[0][-1]
            case "Gemm":
                each = made * given[0][0 if attributes.get("transA", 0) else 1]
            case "Einsum":
                each = made * _summed(attributes["equation"].decode(), given)
            case "MaxPool" | "AveragePool" | "LpPool":
                each = made * math.prod(attributes["kernel_shape"])
            case "LRN":
                each = made * attributes["size"]
            case "RNN" | "GRU" | "LSTM":
                each = given[0][0] * given[0][1] * (sizes[1] + sizes[2])
            case _:
                each = 0
        return each + (sum(sizes) + made) * _FACTORS.get(node.op_type, 1)


def _summed(equation: str, shapes: list[Shape]) -> int:
    """Over how many products each value of an einsum is a sum."""
    terms, _, result = equation.replace(" ", "").partition("->")
    lengths: dict[str, int] = {}
    for term, shape in zip(terms.split(","), shapes, strict=True):
        before, _, after = term.partition("...")
        lengths |= zip(before, shape, strict=False)
        lengths |= zip(reversed(after), reversed(shape), strict=False)
    return math.prod(length for letter, length in lengths.items() if letter not in result)


def shape_of(kind: TypeProto) -> Shape:
    """The shape of a tensor; ValueError: it is not wholly known."""
    tensor = kind.tensor_type
    shape = tuple([dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim])
    if not tensor.HasField("shape") or -1 in shape:
        raise ValueError("it is computed from what is in images")
    if len(shape) > MAX_RANK or (shape and min(shape) < 0):
        raise ValueError(f"no tensor can have {shape}")
    return shape
