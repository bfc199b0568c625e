"""Protobuf's wire format, one level at a time: what a message holds, without making objects of all of it."""

from __future__ import annotations

from collections.abc import Iterator

# A whole number; or bytes: a text, a message, packed numbers, a fixed number.
Value = int | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LENGTHS = {_FIXED64: 8, _FIXED32: 4}
_BROKEN = "it is cut short, or no ONNX file"


def fields_of(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field; ValueError: it is no message."""
    position, size = 0, len(message)
    while position < size:
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT and number:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        else:
            length = _LENGTHS.get(kind, size)  # groups are of protobuf's first version, which ONNX has nothing of
        if not number or length > size - position:
            raise ValueError(_BROKEN)
        yield number, message[position : position + length]
        position += length


def numbers_of(value: Value) -> Iterator[int]:
    """The whole numbers of one field, of which packed ones hold any number."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    for byte in message[position : position + 10]:
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), position
        shift += 7
    raise ValueError(_BROKEN)
