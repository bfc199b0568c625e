"""What the pages of a Parquet column announce, read from their headers alone, before anything is allocated for them.

A page of a few kilobytes may inflate to 2 GB, one value of a dictionary may stand in a million rows, and what the
footer says of either need not be so. The headers are Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from components.shared.errors import DataError

# Encoded images do not get smaller by compression, raw ones seldom by more; a page of this many bytes is read anyway.
_RATIO = 8
_SMALL_PAGE = 64 * 1024**2
# A reader holds a page as it is, inflated, and some of its values.
_LARGEST_PAGE = 1024**3
_HEADER_BYTES = 32 * 1024  # statistics may bring four values, which are cut at 4096 bytes each
_NESTING = 8

_PLAIN = 0
# Fields by their numbers.
_TYPE, _INFLATED, _STORED = 1, 2, 3
_ENCODING = {5: 2, 8: 4}  # in the struct of a data page, in that of the second version
_DICTIONARY = 2
# Types of Thrift's values.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True, slots=True)
class Pages:
    """All pages of a column in one row group."""

    largest: int = 0  # bytes of the largest one, inflated
    total: int = 0  # bytes of all, inflated
    is_plain: bool = True  # whether each value is stored where it stands: what is read is no more than what is stored


def read_pages(stream: IO[bytes], start: int, length: int) -> Pages:
    """Read the headers of all pages of a column chunk.

    DataError: they are no headers, or announce more than is read.
    """
    largest, total, is_plain, end = 0, 0, True, start + length
    while start < end:
        stream.seek(start)
        header = _Header(stream.read(min(_HEADER_BYTES, end - start)))
        try:
            fields = header.struct()
        except (IndexError, ValueError):
            raise DataError("is damaged, or encrypted: where a page should begin is none") from None
        inflated, stored = fields.get((_INFLATED,), -1), fields.get((_STORED,), -1)
        if inflated < 0 or not 0 <= stored <= end - start - header.at:
            raise DataError("is damaged: a page announces more than is there")
        if inflated > min(_LARGEST_PAGE, max(_SMALL_PAGE, _RATIO * stored)):
            raise DataError(
                f"holds a page of {stored} bytes that inflates to {inflated}; at most {_RATIO} times as many, or "
                f"{_SMALL_PAGE}, and never more than {_LARGEST_PAGE} are read: write it with smaller row groups"
            )
        largest, total = max(largest, inflated), total + inflated
        encodings = [fields[path] for path in _ENCODING.items() if path in fields]
        is_plain &= fields.get((_TYPE,)) != _DICTIONARY and all(encoding == _PLAIN for encoding in encodings)
        start += header.at + stored
    return Pages(largest, total, is_plain)


class _Header:
    """One header, as a Thrift struct in the compact protocol; ValueError or IndexError: it is none."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def struct(self, path: tuple[int, ...] = ()) -> dict[tuple[int, ...], int]:
        """Its whole numbers, by the numbers of the fields that lead to them."""
        if len(path) > _NESTING:
            raise ValueError
        fields: dict[tuple[int, ...], int] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            if kind == _STRUCT:
                fields |= self.struct((*path, number))
            elif kind in (_I16, _I32, _I64):
                fields[*path, number] = self._signed()
            else:
                self._skip(kind, len(path))
        return fields

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if kind == _BYTE:
            self._byte()
        elif kind == _DOUBLE:
            self._move(8)
        elif kind == _BINARY:
            self._move(self._unsigned())
        elif kind in (_LIST, _SET) and depth < _NESTING:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            for _ in range(count):
                self._skip_element(head & 15, depth + 1)
        else:  # a header holds no map
            raise ValueError

    def _skip_element(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            self._byte()
        elif kind in (_I16, _I32, _I64):
            self._unsigned()
        elif kind == _STRUCT:
            self.struct((0,) * depth)
        else:
            self._skip(kind, depth)

    def _move(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise IndexError

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            if (shift := shift + 7) > 63:
                raise ValueError

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
