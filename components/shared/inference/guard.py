"""What a model.onnx may hold before a session is made of it: a stranger's file is data, and of bounded size.

Nothing of a file that is refused is run, no other file is opened for it, and refusing takes little memory however large
the file. What passes is a list of ONNX's own operators without control flow, texts, images, random numbers or code of
its own, whose memory and arithmetic are known from its shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from onnx import AttributeProto, NodeProto, TensorProto, defs
from pydantic import Field, Json, PositiveInt, ValidationError, ValidationInfo, field_validator

from components.shared.artifacts.artifact import ClassNames, Color, Record
from components.shared.artifacts.model import ModelManifest
from components.shared.cropping import can_hold
from components.shared.errors import ArtifactError
from components.shared.inference.costs import Costs, costs_of, shape_of
from components.shared.inference.graph import MAX_RANK, OWN_DOMAINS, Graph, graph_of, read_graph
from components.shared.params.types import Fit, Interpolation
from components.shared.text import first_line, shortened

INPUT, OUTPUT = "images", "probabilities"
_PREFIX = "shutterline."
# Softmax and its like have another default axis before 13; what torch exports has 18 to 23, and IR 8 to 11.
_OPSETS, _IR_VERSIONS = range(13, 25), range(7, 13)

# Those of torchvision have 10,000 and 30,000 at most.
_MAX_NODES, _MAX_NAMES = 20_000, 200_000
# For one image: the largest network of torchvision takes 10^12 operations for 512×512 pixels, minutes of a CPU.
_MAX_OPERATIONS = 2**42
_MAX_BYTES = 2**32
# Bytes that the values of one run may take, where an image takes less.
_CHUNK_BYTES = 2**28
_CHUNK_IMAGES = 512

_OPERATORS = frozenset(
    # A value from a value, or from one of each input.
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
    "Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity "
    "IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round "
    "Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor "
    # Sums of products.
    "AveragePool Conv ConvTranspose Einsum GRU Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool LSTM LpPool MatMul "
    "MaxPool RNN "
    # Over a dimension.
    "ArgMax ArgMin BatchNormalization CumSum GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization "
    "LogSoftmax LpNormalization MeanVarianceNormalization RMSNormalization ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax TopK "
    # Moving values.
    "CenterCropPad Col2Im Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements "
    "GatherND GridSample OneHot Pad Range Reshape Resize ScatterElements ScatterND SequenceAt Shape Size Slice "
    "SpaceToDepth Split SplitToSequence Squeeze Tile Transpose Trilu Unsqueeze".split()
)
# A kernel divides by some of these.
_POSITIVE = frozenset(
    "blocksize dilations group hidden_size kernel_shape num_groups num_outputs size stash_type strides to".split()
)
_MAX_NUMBER = 2**16
# Where the value of an attribute of each type is; none of them holds a graph.
_FIELDS = {
    "FLOAT": "f",
    "INT": "i",
    "STRING": "s",
    "TENSOR": "t",
    "FLOATS": "floats",
    "INTS": "ints",
    "STRINGS": "strings",
}
_OF_A_TENSOR = {"dims", "data_type", "name", "raw_data"} | {
    f"{kind}_data" for kind in ("float", "double", "int32", "int64", "uint64")
}


_Shape = tuple[int, int, int]


class OnnxMetadata(Record):
    """The metadata of a model.onnx."""

    version: str = Field(max_length=100)
    classes: Json[ClassNames]
    image: Json[tuple[PositiveInt, PositiveInt, Literal[1, 3]]]
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    stored_image: Json[tuple[PositiveInt, PositiveInt, Literal[1, 3]]] | None = None
    # Only where they are others, and in files of versions that had the choice.
    image_fit: Fit = "stretch"
    image_interpolation: Interpolation = "bilinear"
    alpha_background: Json[Color] = Field(default_factory=lambda: [255, 255, 255])

    @field_validator("stored_image")
    @classmethod
    def _holds_image(cls, stored: _Shape, info: ValidationInfo) -> _Shape:
        """What is decoded at this size must be in bounds, too; the graph's own bound the image."""
        image = info.data.get("image")
        if image is not None and not (can_hold(stored, image) and math.prod(stored) <= _MAX_BYTES):
            raise ValueError(f"{stored} cannot be cropped to {image}, or takes more than {_MAX_BYTES:,} bytes")
        return stored

    @property
    def resized(self) -> _Shape:
        """What images are resized to: height, width, channels."""
        return self.stored_image or self.image


@dataclass(frozen=True)
class CheckedOnnx:
    """A file that passed.

    Attributes:
        metadata: Its own.
        batch_size: Images of one run, so that its values stay in bounds; by network and image size alone.
    """

    file: Path
    metadata: OnnxMetadata
    batch_size: int
    _graph: Graph = field(repr=False)
    _of_one: Costs
    _checked: set[int] = field(default_factory=set, repr=False)

    def check_batch(self, images: int) -> None:
        """Refuse, by ArtifactError, a network that costs more for so many images than so many times one image."""
        if images not in self._checked:
            try:
                _check_batch(self._graph, images, self._of_one)
            except ValueError as error:
                raise _refused(self.file, error) from error
            self._checked.add(images)


def check_onnx(file: Path, manifest: ModelManifest | None = None) -> CheckedOnnx:
    """Check a model.onnx before it is run.

    Args:
        file: The file.
        manifest: What its classes, image shape and weights must be; None: any that its metadata names.

    Raises:
        ArtifactError: The file is damaged, holds what no exported classifier does, or is another model's.
    """
    try:
        graph = read_graph(file)
        metadata = _metadata(graph)
        if manifest is not None:
            _require_same(metadata, manifest)
        costs = _check_graph(graph, metadata.image, len(metadata.classes))
    except (OSError, ValueError) as error:
        raise _refused(file, error) from error
    batch = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // max(1, costs.bytes)))
    return CheckedOnnx(file, metadata, batch, graph, costs, {1})


def require_runnable(content: bytes, image_shape: tuple[int, int, int], n_classes: int) -> None:
    """Refuse, by ValueError, an exported graph of which :func:`check_onnx` would refuse the file, metadata apart."""
    graph = graph_of(memoryview(content))
    _check_batch(graph, 7, _check_graph(graph, image_shape, n_classes))


def _check_graph(graph: Graph, image_shape: tuple[int, int, int], n_classes: int) -> Costs:
    """The costs of one image."""
    if graph.opset not in _OPSETS or graph.ir_version not in _IR_VERSIONS:
        raise ValueError(
            f"it has IR version {graph.ir_version} and operators of version {graph.opset}, and must have "
            f"{_IR_VERSIONS[0]} to {_IR_VERSIONS[-1]} and {_OPSETS[0]} to {_OPSETS[-1]}"
        )
    _check_ends(graph, image_shape, n_classes)
    _check_nodes(graph)
    costs, result = costs_of(graph, 1)
    if shape_of(result) != (1, n_classes) or result.tensor_type.elem_type != TensorProto.FLOAT:
        raise ValueError(f"for an image it gives {shape_of(result)}, and must give {(1, n_classes)}")
    if costs.bytes > _MAX_BYTES or costs.operations > _MAX_OPERATIONS:
        raise ValueError(
            f"an image takes {costs.bytes:,} bytes and {costs.operations:,} operations, and may take "
            f"{_MAX_BYTES:,} and {_MAX_OPERATIONS:,}"
        )
    return costs


def _check_batch(graph: Graph, images: int, of_one: Costs) -> None:
    costs, _ = costs_of(graph, images)
    if costs.operations > images * of_one.operations or costs.bytes > images * of_one.bytes:
        raise ValueError(f"{images} images at once cost more than one by one")


def _refused(file: Path, error: Exception) -> ArtifactError:
    reason = error.strerror if isinstance(error, OSError) else first_line(error)
    return ArtifactError(
        f"{file}: cannot be run: {reason}; use the model.onnx that training wrote, or train the model again"
    )


def _metadata(graph: Graph) -> OnnxMetadata:
    foreign = [key for key in graph.metadata if not key.startswith(_PREFIX)]
    if foreign:
        raise ValueError(f"its metadata has {shortened(foreign[0])!r}, which is none of a classifier's")
    try:
        return OnnxMetadata(**{key.removeprefix(_PREFIX): value for key, value in graph.metadata.items()})
    except ValidationError as error:
        where = error.errors(include_url=False)[0]["loc"][0]
        raise ValueError(f"its metadata {_PREFIX}{where}: {first_line(error)}") from None


def _require_same(metadata: OnnxMetadata, manifest: ModelManifest) -> None:
    for what, ours, theirs in (
        ("classes", metadata.classes, manifest.classes),
        ("image shape", metadata.image, manifest.image.as_tuple()),
        ("stored image", metadata.resized, manifest.resized.as_tuple()),
        ("image_fit", metadata.image_fit, manifest.image_fit),
        ("image_interpolation", metadata.image_interpolation, manifest.image_interpolation),
        ("weights", metadata.weights_sha256, manifest.weights.sha256),
    ):
        if ours != theirs:
            raise ValueError(f"its metadata names other {what} than model.json")


def _check_ends(graph: Graph, image_shape: tuple[int, int, int], n_classes: int) -> None:
    """Images in, probabilities out, for any number of images."""
    for what, ends, name, kind, rest in (
        ("input", graph.inputs, INPUT, TensorProto.UINT8, image_shape),
        ("output", graph.outputs, OUTPUT, TensorProto.FLOAT, (n_classes,)),
    ):
        found = [(end.name, end.type.tensor_type.elem_type) for end in ends]
        dims = [dim for end in ends for dim in end.type.tensor_type.shape.dim]
        sizes = tuple(dim.dim_value for dim in dims[1:])
        if found != [(name, kind)] or not dims or not dims[0].dim_param or sizes != rest or name in graph.types:
            wanted = ", ".join(map(str, ("batch", *rest)))
            raise ValueError(f"it must have one {what} {name!r} of {TensorProto.DataType.Name(kind)} [{wanted}]")


def _check_nodes(graph: Graph) -> None:
    names = sum(len(node.input) + len(node.output) for node in graph.nodes)
    if len(graph.nodes) > _MAX_NODES or names > _MAX_NAMES:
        raise ValueError(f"it has more than {_MAX_NODES:,} operators, or {_MAX_NAMES:,} inputs and outputs of them")
    known = {INPUT, *graph.types}
    for node in graph.nodes:
        what = f"its operator {shortened(node.op_type)} {shortened(node.name)!r}"
        # Protobuf gives a text that is no UTF-8 as bytes.
        if bytes in map(type, (node.name, node.op_type, *node.input, *node.output)):
            raise ValueError(f"{what} has a name that is no UTF-8")
        foreign = node.domain not in OWN_DOMAINS or node.op_type not in _OPERATORS
        if foreign or not defs.has(node.op_type, graph.opset, ""):
            raise ValueError(f"{what} is none that a classifier needs")
        schema = defs.get_schema(node.op_type, graph.opset, "")
        if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
            raise ValueError(f"{what} has {len(node.input)} inputs and {len(node.output)} outputs")
        if node.overload or node.metadata_props or node.device_configurations:
            raise ValueError(f"{what} holds more than ONNX's operators do")
        if missing := {name for name in node.input if name} - known:
            raise ValueError(f"{what} reads {shortened(min(missing))!r}, which nothing before it gives")
        outputs = [name for name in node.output if name]
        if len(set(outputs)) < len(outputs) or not known.isdisjoint(outputs):
            raise ValueError(f"{what} gives {shortened(', '.join(outputs))}, as something else does")
        known.update(outputs)
        _check_attributes(node, schema, what)
    if OUTPUT not in known:
        raise ValueError(f"nothing gives {OUTPUT!r}")


def _check_attributes(node: NodeProto, schema: defs.OpSchema, what: str) -> None:
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) < len(names) or not set(names) <= schema.attributes.keys():
        raise ValueError(f"{what} has an attribute twice, or one that is not its own")
    for attribute in node.attribute:
        kind = AttributeProto.AttributeType.Name(attribute.type)
        value = _FIELDS.get(kind, "")
        if not value or str(schema.attributes[attribute.name].type) != f"AttrType.{kind}":
            raise ValueError(f"{what} has an attribute {attribute.name} of a type that it cannot have")
        if not _set_in(attribute) <= {"name", "type", "doc_string", value} or (
            value == "t" and (not _set_in(attribute.t) <= _OF_A_TENSOR or len(attribute.t.dims) > MAX_RANK)
        ):
            raise ValueError(f"{what} has an attribute {attribute.name} that holds more than its value")
        if value in ("i", "ints") and node.op_type not in ("Constant", "Shape"):
            numbers = [attribute.i] if value == "i" else list(attribute.ints)
            lowest = 1 if attribute.name in _POSITIVE else -_MAX_NUMBER
            # In training mode, what one image gives depends on the others.
            highest = 0 if attribute.name == "training_mode" else _MAX_NUMBER
            if any(not lowest <= number <= highest for number in numbers):
                raise ValueError(f"{what} has {attribute.name} {shortened(numbers)}")


def _set_in(message: AttributeProto | TensorProto) -> set[str]:
    return {descriptor.name for descriptor, _ in message.ListFields()}
