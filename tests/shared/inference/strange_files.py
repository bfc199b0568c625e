"""Files that are no classifier's model.onnx: damaged, of other content, or large in one way or another."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node, make_tensor_value_info

from tests.onnx_models import SHAPE, metadata_of, onnx_model

Content = bytes | onnx.ModelProto
# By name: a part of the message, and what makes the content.
FILES: dict[str, tuple[str, Callable[[], Content]]] = {}
each = FILES.update


def whole() -> bytes:
    return bytes(onnx_model().SerializeToString())


def with_nodes(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = (), **changes: Any) -> onnx.ModelProto:
    """The classifier with nodes before its own, whose results nobody needs."""
    model = onnx_model(initialisers=weights, **changes)
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *own])
    return model


def changed(edit: Callable[[onnx.ModelProto], object], **changes: Any) -> onnx.ModelProto:
    model = onnx_model(**changes)
    edit(model)
    return model


def numbers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's wire format."""

    def varint(value: int) -> bytes:
        low, rest = value & 127, value >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])

    return varint(number << 3 | 2) + varint(len(content)) + content


def in_graph(content: bytes) -> bytes:
    """The classifier with more in its graph."""
    model = onnx_model()
    graph = model.graph.SerializeToString() + content
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + field(7, graph)


def external(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="outside", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def zipped() -> bytes:
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as file:
        file.writestr("model.onnx", whole())
    return archive.getvalue()


BROKEN = "it is cut short, or no ONNX file"
each(
    empty=("it has 0 bytes", lambda: b""),
    text=(BROKEN, lambda: b"this is no model\n" * 100),
    an_archive=("its ModelProto has a field 10, which ONNX has not", zipped),
    zeros=(BROKEN, lambda: bytes(2**20)),
    cut_in_half=(BROKEN, lambda: whole()[: len(whole()) // 2]),
    cut_at_its_end=(BROKEN, lambda: whole()[:-1]),
    a_group=(BROKEN, lambda: whole() + b"\x0b\x0c"),
    an_endless_number=(BROKEN, lambda: whole() + b"\xff" * 20),
    an_unknown_field=("its ModelProto has a field 99, which ONNX has not", lambda: whole() + field(99, b"code")),
    no_graph=("it holds 0 graphs", lambda: changed(lambda model: model.ClearField("graph"))),
    two_graphs=("it holds 2 graphs", lambda: whole() + field(7, b"")),
    a_graph_that_is_a_number=("its GraphProto is damaged", lambda: whole() + b"\x38\x01"),
    nested_too_deep=("it is damaged, or no ONNX file", lambda: in_graph(field(13, nested(1000)))),
)


def nested(depth: int) -> bytes:
    """A ValueInfoProto of a sequence of a sequence of …"""
    kind = b""
    for _ in range(depth):
        kind = field(4, field(1, kind))
    return field(2, kind)


OTHER = "is none that a classifier needs"
BRANCH = helper.make_graph([], "branch", [], [])
each(
    an_old_version=("operators of version 12", lambda: onnx_model(opset=12)),
    a_version_to_come=("operators of version 99", lambda: onnx_model(opset=99)),
    an_ir_to_come=("IR version 99", lambda: changed(lambda model: setattr(model, "ir_version", 99))),
    operators_of_another_domain=(
        "it uses operators of 'com.microsoft'",
        lambda: changed(lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1))),
    ),
    an_operator_of_another_domain=(
        f"FusedGemm 'x' {OTHER}",
        lambda: with_nodes(make_node("FusedGemm", ["images"], ["y"], "x", domain="com.microsoft")),
    ),
    an_unknown_operator=(f"System 'x' {OTHER}", lambda: with_nodes(make_node("System", ["images"], ["y"], "x"))),
    an_operator_of_a_later_version=(
        f"Swish 'x' {OTHER}",
        lambda: with_nodes(make_node("Swish", ["scale"], ["y"], "x")),
    ),
    a_branch=(
        f"If 'x' {OTHER}",
        lambda: with_nodes(make_node("If", ["images"], ["y"], "x", then_branch=BRANCH, else_branch=BRANCH)),
    ),
    a_loop=(f"Loop 'x' {OTHER}", lambda: with_nodes(make_node("Loop", ["", "", "images"], ["y"], "x", body=BRANCH))),
    random_numbers=(
        f"RandomNormal 'x' {OTHER}",
        lambda: with_nodes(make_node("RandomNormal", [], ["y"], "x", shape=[9])),
    ),
    a_decoder_of_images=(
        f"ImageDecoder 'x' {OTHER}",
        lambda: with_nodes(make_node("ImageDecoder", ["images"], ["y"], "x")),
    ),
    a_function_of_its_own=(
        "it holds functions",
        lambda: changed(lambda model: model.functions.add(name="Relu", domain="", output=["y"])),
    ),
    training=("it holds training_info", lambda: changed(lambda model: model.training_info.add())),
    a_sparse_weight=("its graph holds sparse_initializer", lambda: changed(lambda m: m.graph.sparse_initializer.add())),
    a_subgraph_in_an_attribute=(
        "has an attribute alpha of a type that it cannot have",
        lambda: with_nodes(make_node("Elu", ["scale"], ["y"], alpha=BRANCH)),
    ),
    an_attribute_of_none=(
        "has an attribute twice, or one that is not its own",
        lambda: with_nodes(make_node("Relu", ["scale"], ["y"], command="ls")),
    ),
    batch_statistics=(
        "has training_mode [1]",
        lambda: with_nodes(make_node("BatchNormalization", ["images", *["bias"] * 4], ["y"], training_mode=1)),
    ),
    a_dimension_that_is_not_there=(
        "its axis 2 is none of 2 dimensions",
        lambda: with_nodes(make_node("Softmax", ["linear"], ["y"], axis=2)),
    ),
    parts_that_nothing_gets=(
        "its parts are not the 2 that it gives",
        lambda: with_nodes(make_node("Split", ["linear"], ["y", "z"], axis=1, num_outputs=3)),
    ),
    steps_of_zero=(
        "has strides [0, 0]",
        lambda: with_nodes(make_node("Conv", ["images", "kernel"], ["y"], strides=[0, 0])),
    ),
)

OUTSIDE = ("outside.bin", "../outside.bin", "/etc/hostname")
for number, location in enumerate(OUTSIDE):
    FILES[f"a_weight_in_another_file_{number}"] = (
        "its weight 'outside' holds external_data, which no exported classifier's does",
        partial(with_nodes, weights=(external(location),)),
    )
    FILES[f"a_constant_in_another_file_{number}"] = (
        "has an attribute value that holds more than its value",
        partial(with_nodes, make_node("Constant", [], ["y"], value=external(location))),
    )


def end(name: str, *shape: int | str, kind: int = TensorProto.UINT8) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, kind, shape)


def with_input(*ends: onnx.ValueInfoProto) -> onnx.ModelProto:
    model = onnx_model()
    del model.graph.input[:]
    model.graph.input.extend(ends)
    return model


INPUT = "it must have one input 'images' of UINT8 [batch, 8, 8, 3]"
each(
    no_input=(INPUT, with_input),
    two_inputs=(INPUT, lambda: with_input(end("images", "batch", *SHAPE), end("more", 1))),
    an_input_of_another_name=(INPUT, lambda: with_input(end("pixels", "batch", *SHAPE))),
    an_input_of_floats=(INPUT, lambda: with_input(end("images", "batch", *SHAPE, kind=TensorProto.FLOAT))),
    an_input_of_another_size=(INPUT, lambda: with_input(end("images", "batch", 9, 8, 3))),
    an_input_of_one_image=(INPUT, lambda: with_input(end("images", 1, *SHAPE))),
    an_input_of_many_dimensions=("its input images is no tensor", lambda: with_input(end("images", *[1] * 100))),
    an_output_of_another_name=(
        "it must have one output 'probabilities' of FLOAT [batch, 3]",
        lambda: changed(lambda model: setattr(model.graph.output[0], "name", "logits")),
    ),
    an_output_of_other_classes=(
        "for an image it gives (1, 4), and must give (1, 3)",
        lambda: changed(
            lambda model: model.graph.node[-1].CopyFrom(make_node("Pad", ["logits", "pads"], ["probabilities"])),
            initialisers=[numbers("pads", 0, 0, 0, 1)],
        ),
    ),
    an_output_that_nothing_gives=("nothing gives 'probabilities'", lambda: changed(lambda m: m.graph.node.pop())),
    what_nothing_gives=(
        "reads 'nowhere', which nothing before it gives",
        lambda: with_nodes(make_node("Relu", ["nowhere"], ["y"])),
    ),
    what_comes_later=(
        "reads 'logits', which nothing before it gives",
        lambda: with_nodes(make_node("Relu", ["logits"], ["y"])),
    ),
    a_name_twice=("gives bias, as something else does", lambda: with_nodes(make_node("Relu", ["scale"], ["bias"]))),
    too_many_inputs=(
        "has 3 inputs and 1 outputs",
        lambda: with_nodes(make_node("Relu", ["scale", "scale", "bias"], ["y"])),
    ),
)


def metadata(**changes: str | None) -> Callable[[], onnx.ModelProto]:
    found = {**metadata_of(), **{f"shutterline.{name}": value for name, value in changes.items()}}
    return lambda: onnx_model(metadata={name: value for name, value in found.items() if value is not None})


each(
    no_metadata=("its metadata shutterline.version: Field required", lambda: onnx_model(metadata={})),
    no_classes=("its metadata shutterline.classes: Field required", metadata(classes=None)),
    classes_that_are_no_list=("its metadata shutterline.classes: ", metadata(classes='{"cat": 1}')),
    classes_nested_too_deep=("its metadata shutterline.classes: ", metadata(classes="[" * 10**5)),
    stored_smaller_than_taken=(
        "its metadata shutterline.stored_image: Value error, (8, 7, 3) cannot be cropped to (8, 8, 3)",
        metadata(stored_image="[8, 7, 3]"),
    ),
    stored_in_other_channels=("its metadata shutterline.stored_image: ", metadata(stored_image="[8, 8, 1]")),
    stored_far_too_large=("takes more than 4,294,967,296 bytes", metadata(stored_image="[65535, 65535, 3]")),
    another_stored_image=("its metadata names other stored image than", metadata(stored_image="[9, 8, 3]")),
    an_unknown_fit=("its metadata shutterline.image_fit: ", metadata(image_fit="squash")),
    another_fit=("its metadata names other image_fit than model.json", metadata(image_fit="crop")),
    no_color=("its metadata shutterline.alpha_background: ", metadata(alpha_background="[1, 2, 256]")),
    a_class_twice=("two classes have one name", metadata(classes='["cat", "cat", "eel"]')),
    other_classes=("its metadata names other classes than model.json", metadata(classes='["cat", "dog", "elk"]')),
    another_size=("its metadata names other image shape than model.json", metadata(image="[8, 9, 3]")),
    no_size=("its metadata shutterline.image: ", metadata(image="[8, -8, 3]")),
    other_weights=("its metadata names other weights than model.json", metadata(weights_sha256="0" * 64)),
    more_metadata=(
        "its metadata has 'script', which is none of a classifier's",
        lambda: onnx_model(metadata={**metadata_of(), "script": "import os"}),
    ),
    metadata_twice=(
        "its metadata has shutterline.version twice",
        lambda: changed(lambda model: model.metadata_props.add(key="shutterline.version", value="9")),
    ),
    metadata_that_is_no_text=("its metadata is no UTF-8", lambda: whole() + field(14, field(1, b"\xff\xfe"))),
    much_metadata=("its StringStringEntryProto has more than", metadata(version="x" * 10**7)),
    many_metadata=("nodes, weights and shapes", lambda: changed(many_entries)),
)


def many_entries(model: onnx.ModelProto) -> None:
    for index in range(150_000):
        model.metadata_props.add(key=f"shutterline.{index}", value="")


def weight(**changes: Any) -> onnx.ModelProto:
    """The classifier with a weight more."""
    found = {"name": "more", "dims": [2], "data_type": TensorProto.FLOAT, "raw_data": bytes(8), **changes}
    return with_nodes(weights=(TensorProto(**found),))


BYTES = "its weight 'more' has other bytes than its type and shape have"
each(
    a_weight_of_fewer_bytes=(BYTES, lambda: weight(dims=[2**40])),
    a_weight_of_more_bytes=(BYTES, lambda: weight(raw_data=bytes(9))),
    a_weight_of_a_negative_size=(BYTES, lambda: weight(dims=[-2, -1])),
    a_weight_of_texts=(BYTES, lambda: weight(data_type=TensorProto.STRING)),
    a_weight_of_many_dimensions=(
        "its weight 'more' holds dims",
        lambda: in_graph(field(5, field(8, b"more") + field(1, b"\x01" * 1000))),
    ),
    a_weight_twice=("it has two weights of the name 'bias'", lambda: weight(name="bias")),
    a_weight_in_numbers=(
        "holds float_data, which no exported classifier's does",
        lambda: weight(raw_data=b"", float_data=[1.0, 2.0]),
    ),
)

UNKNOWN = "cannot be known before it runs"
LARGE = "and may take"


def chain(steps: int) -> list[onnx.NodeProto]:
    """Each twice as large as the one before."""
    return [make_node("Concat", [f"c{step}"] * 2, [f"c{step + 1}"], axis=0) for step in range(steps)]


def filled(name: str, *shape: int) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    return make_node("ConstantOfShape", [f"{name}-shape"], [name]), numbers(f"{name}-shape", *shape)


def with_filled(
    shape: tuple[int, ...], *nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()
) -> onnx.ModelProto:
    node, size = filled("c0", *shape)
    return with_nodes(node, *nodes, weights=(size, *weights))


each(
    an_endless_constant=(LARGE, lambda: with_filled((2**18, 2**18))),
    a_constant_beyond_64_bits=(LARGE, lambda: with_filled((2**40, 2**40, 2**40))),
    an_endless_expansion=(
        LARGE,
        lambda: with_nodes(make_node("Expand", ["scale", "s"], ["y"]), weights=(numbers("s", 2**36),)),
    ),
    an_endless_tiling=(
        LARGE,
        lambda: with_nodes(make_node("Tile", ["bias", "s"], ["y"]), weights=(numbers("s", 2**36),)),
    ),
    an_endless_range=(
        LARGE,
        lambda: with_nodes(
            make_node("Range", ["a", "b", "c"], ["y"]),
            weights=tuple(
                numpy_helper.from_array(np.array(value, np.int64), name)
                for name, value in (("a", 0), ("b", 2**36), ("c", 1))
            ),
        ),
    ),
    an_endless_margin=(
        LARGE,
        lambda: with_nodes(make_node("Pad", ["linear", "s"], ["y"]), weights=(numbers("s", 0, 0, 2**18, 2**18),)),
    ),
    an_endless_enlargement=(
        LARGE,
        lambda: with_nodes(
            make_node("Resize", ["kernel", "", "", "s"], ["y"]), weights=(numbers("s", 8, 3, 2**20, 2**20),)
        ),
    ),
    ever_twice_as_large=(LARGE, lambda: with_filled((2**10,), *chain(40))),
    endless_products=(
        LARGE,
        lambda: with_filled((2**14, 2**14), make_node("MatMul", ["c0", "c0"], ["y"])),
    ),
    products_of_products=(
        LARGE,
        lambda: with_filled(
            (2**12, 2**12), *(make_node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(100))
        ),
    ),
    a_size_by_pixels=(
        UNKNOWN,
        lambda: with_nodes(
            make_node("Cast", ["images"], ["whole"], to=TensorProto.INT64),
            make_node("Reshape", ["whole", "s"], ["long"]),
            make_node("ConstantOfShape", ["long"], ["y"]),
            weights=(numbers("s", -1),),
        ),
    ),
    a_division_by_pixels=(
        "it divides whole numbers by what may be 0",
        lambda: with_nodes(make_node("Div", ["images", "images"], ["y"])),
    ),
    a_negative_size=(UNKNOWN, lambda: with_filled((-5,))),
    shapes_that_do_not_fit=(UNKNOWN, lambda: with_nodes(make_node("MatMul", ["linear", "linear"], ["y"]))),
    more_than_parts=(
        "nodes, weights and shapes",
        lambda: in_graph(
            b"".join(field(1, make_node("Relu", ["scale"], [f"y{i}"]).SerializeToString()) for i in range(150_000))
        ),
    ),
    many_operators=(
        "it has more than 20,000 operators",
        lambda: in_graph(
            b"".join(field(1, make_node("Relu", ["scale"], [f"y{i}"]).SerializeToString()) for i in range(40_000))
        ),
    ),
    many_inputs=(
        "or 200,000 inputs and outputs of them",
        lambda: with_nodes(*(make_node("Concat", ["bias"] * 5000, [f"y{i}"], axis=0) for i in range(100))),
    ),
    empty_nodes=("nodes, weights and shapes", lambda: in_graph(field(1, b"") * 2**21)),
    empty_weights=(
        "nodes, weights and shapes",
        lambda: in_graph(b"".join(field(5, field(8, b"%d" % i) + b"\x08\x00\x10\x01") for i in range(150_000))),
    ),
    empty_attributes=("its NodeProto has more than 65,536 bytes", lambda: in_graph(field(1, field(5, b"") * 2**23))),
    empty_texts=("it has more than 500,000 fields", lambda: whole() + field(6, b"") * 2**21),
    a_large_constant=(
        "its NodeProto has more than 65,536 bytes",
        lambda: with_nodes(
            make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.zeros(2**22, np.float32)))
        ),
    ),
)
