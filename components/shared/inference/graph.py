"""A model.onnx as a list of nodes: what it holds, in bounds, without the contents of its weights.

onnx's parser takes several times the file in memory before anything can be looked at, and makes an object of a hundred
bytes of an empty part of two. So the outer levels are read by :mod:`.protobuf` from a memory map, and only parts of
bounded size and number are handed to onnx's classes.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    StringStringEntryProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
)
from onnx.helper import make_tensor_type_proto, tensor_dtype_to_np_dtype

from components.shared.artifacts.model import MAX_ONNX_BYTES
from components.shared.files import open_regular
from components.shared.inference.protobuf import Value, fields_of, numbers_of
from components.shared.text import shortened

OWN_DOMAINS = ("", "ai.onnx")

# The largest networks of torchvision have 10,000 nodes of 500 bytes at most, as many shapes, and 1,000 weights.
_MAX_PARTS = 50_000
_MAX_PART_BYTES = 2**16
_MAX_STRUCTURE_BYTES = 2**24
_MAX_FIELDS = 10 * _MAX_PARTS
_MAX_NAME_BYTES = 1000
_MAX_METADATA_BYTES = 2**23  # a million classes
MAX_RANK = 8
# Values of a tensor that may be the shape of another one, and are kept.
MAX_SHAPE_VALUES = 1024

_KINDS = "FLOAT DOUBLE FLOAT16 BOOL UINT8 INT8 INT16 UINT16 INT32 UINT32 INT64 UINT64"
DTYPES = {
    number: np.dtype(tensor_dtype_to_np_dtype(number)) for number in map(TensorProto.DataType.Value, _KINDS.split())
}
_Part = TypeVar("_Part", bound=Message)


@dataclass
class Graph:
    """The nodes of a model.onnx, with the types of its weights and the values of those that may be shapes."""

    opset: int = 0
    ir_version: int = 0
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    types: dict[str, TypeProto] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read_graph(file: Path) -> Graph:
    """The graph of an ONNX file; ValueError: it is none, or beyond what a classifier's may hold; or OSError."""
    with open_regular(file) as stream:
        size = stream.seek(0, 2)
        if not 0 < size <= MAX_ONNX_BYTES:
            raise ValueError(f"it has {size:,} bytes, and may have 1 to {MAX_ONNX_BYTES:,}")
        return graph_of(memoryview(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ)))


def graph_of(content: memoryview) -> Graph:
    """The graph of an ONNX file's content; ValueError as :func:`read_graph`."""
    try:
        return _Reader().model(content)
    except DecodeError:
        raise ValueError("it is damaged, or no ONNX file") from None


class _Reader:
    """Reads one file, and counts what it has read."""

    def __init__(self) -> None:
        self._graph = Graph()
        self._fields = self._parts = self._bytes = 0

    def model(self, content: memoryview) -> Graph:
        graph, graphs = self._graph, 0
        for name, value in self._fields_of(content, ModelProto):
            match name:
                case "graph":
                    graphs += 1
                    self._read_graph(value)
                case "opset_import":
                    imported = self._part(OperatorSetIdProto, value)
                    if imported.domain not in OWN_DOMAINS or graph.opset:
                        raise ValueError(f"it uses operators of {shortened(imported.domain)!r}, not ONNX's own alone")
                    graph.opset = imported.version
                case "ir_version" if isinstance(value, int):
                    graph.ir_version = value
                case "metadata_props":
                    entry = self._part(StringStringEntryProto, value, _MAX_METADATA_BYTES)
                    if bytes in map(type, (entry.key, entry.value)):  # what protobuf gives of a text that is no UTF-8
                        raise ValueError("its metadata is no UTF-8")
                    if entry.key in graph.metadata:
                        raise ValueError(f"its metadata has {shortened(entry.key)} twice")
                    graph.metadata[entry.key] = entry.value
                case "producer_name" | "producer_version" | "domain" | "model_version" | "doc_string":
                    pass
                case _:
                    raise ValueError(f"it holds {name}, which no exported classifier does")
        if graphs != 1:
            raise ValueError(f"it holds {graphs} graphs, and must hold one")
        return graph

    def _read_graph(self, content: Value) -> None:
        graph = self._graph
        for name, value in self._fields_of(content, GraphProto):
            match name:
                case "node":
                    graph.nodes.append(self._part(NodeProto, value))
                case "initializer":
                    self._add_weight(value)
                case "input" | "output" | "value_info":
                    info = self._part(ValueInfoProto, value)
                    tensor = tensor_type(info.type)
                    if tensor is None or len(tensor.shape.dim) > MAX_RANK or info.metadata_props:
                        raise ValueError(
                            f"its {name} {shortened(info.name)} is no tensor of {MAX_RANK} dimensions at most"
                        )
                    if name != "value_info":  # claims, which ONNX Runtime compares with what it finds itself
                        (graph.inputs if name == "input" else graph.outputs).append(info)
                case "name" | "doc_string":
                    pass
                case _:
                    raise ValueError(f"its graph holds {name}, which no exported classifier's does")

    def _add_weight(self, content: Value) -> None:
        name, kind, raw = "", 0, memoryview(b"")
        shape: list[int] = []
        for what, value in self._fields_of(content, TensorProto):
            match what:
                case "name" if isinstance(value, memoryview) and len(value) <= _MAX_NAME_BYTES:
                    name = str(value, "utf-8")
                case "data_type" if isinstance(value, int):
                    kind = value
                case "dims" if isinstance(value, int) or len(value) <= 10 * MAX_RANK:
                    shape += numbers_of(value)
                case "raw_data" if isinstance(value, memoryview):
                    raw = value
                case "doc_string" if isinstance(value, memoryview) and not value:
                    pass
                case _:
                    raise ValueError(
                        f"its weight {shortened(name)!r} holds {what}, which no exported classifier's does"
                    )
        dtype = DTYPES.get(kind)
        if dtype is None or len(shape) > MAX_RANK or math.prod(shape) * dtype.itemsize != len(raw):
            raise ValueError(f"its weight {shortened(name)!r} has other bytes than its type and shape have")
        if name in self._graph.types:
            raise ValueError(f"it has two weights of the name {shortened(name)!r}")
        self._graph.types[name] = make_tensor_type_proto(kind, shape)
        # Of floats, what may be the scale of each dimension in a resize.
        if math.prod(shape) <= (MAX_RANK if dtype.kind == "f" else MAX_SHAPE_VALUES):
            self._graph.constants[name] = np.frombuffer(bytes(raw), dtype).reshape(shape)
        self._count(0)

    def _fields_of(self, content: Value, message: type[Message]) -> Iterator[tuple[str, Value]]:
        """The fields of a message by name; ValueError: one that ONNX has not, or too many."""
        known = message.DESCRIPTOR.fields_by_number
        if isinstance(content, int):
            raise ValueError(f"its {message.DESCRIPTOR.name} is damaged")
        for number, value in fields_of(content):
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise ValueError(f"it has more than {_MAX_FIELDS:,} fields")
            if number not in known:
                raise ValueError(f"its {message.DESCRIPTOR.name} has a field {number}, which ONNX has not")
            yield known[number].name, value

    def _part(self, message: type[_Part], content: Value, limit: int = _MAX_PART_BYTES) -> _Part:
        """A whole part, by onnx's class."""
        if isinstance(content, int) or len(content) > limit:
            raise ValueError(f"its {message.DESCRIPTOR.name} has more than {limit:,} bytes")
        self._count(len(content))
        part: _Part = message.FromString(bytes(content))
        return part

    def _count(self, size: int) -> None:
        self._parts, self._bytes = self._parts + 1, self._bytes + size
        if self._parts > _MAX_PARTS or self._bytes > _MAX_STRUCTURE_BYTES:
            raise ValueError(
                f"it has more than {_MAX_PARTS:,} nodes, weights and shapes, or {_MAX_STRUCTURE_BYTES:,} bytes of them"
            )


def tensor_type(kind: TypeProto) -> TypeProto.Tensor | None:
    """Of a tensor its own type, of a sequence that of its tensors; None: of anything else."""
    if kind.HasField("sequence_type"):
        kind = kind.sequence_type.elem_type
    return kind.tensor_type if kind.HasField("tensor_type") else None
