"""What a Parquet file announces, in its footer and before each page, read before anything is allocated for it.

A page of a few kilobytes may inflate to 2 GB, one value of a dictionary may stand in a million rows, and what the
footer says of either need not be so. Nor is pyarrow asked for a footer's details: where they contradict each other,
pyarrow 25 ends the process. The format:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from components.data_prep.layouts.parquet_thrift import Thrift
from components.shared.errors import DataError

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_GIT_LFS = b"version https://git-lfs"
# A thousand row groups of three columns have a footer of half a megabyte and 70,000 values.
FOOTER_BYTES = 32 * 1024**2
_FOOTER_VALUES = 2_000_000
# Encoded images do not get smaller by compression, raw ones seldom by more; a page of the second size is read anyway.
_RATIO = 8
_SMALL_PAGE = 64 * 1024**2
# A reader holds a page as it is, inflated, and some of its values.
_LARGEST_PAGE = 1024**3
_HEADER_BYTES = 32 * 1024  # statistics may bring four values, which are cut at 4096 bytes each
_HEADER_VALUES = 100

# Fields by number: of the footer, a row group, a column in it, and its statistics.
_GROUPS, _COLUMNS, _ROWS, _META, _CRYPTO = 4, 1, 3, 3, 8
_PATH, _LENGTH, _DATA_START, _DICTIONARY_START, _STATISTICS, _NULLS = 3, 7, 9, 11, 12, 3
# Of a page's header, with the struct of each kind of data page and its field of the encoding.
_TYPE, _INFLATED, _STORED = 1, 2, 3
_DATA_PAGES = ((5, 2), (8, 4))
_DICTIONARY_PAGE, _PLAIN = 2, 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is stored of a column in one row group."""

    start: int
    length: int
    nulls: int | None  # rows that are null; None: it does not say
    is_encrypted: bool


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that are stored together, column by column."""

    rows: int
    columns: dict[str, Chunk]  # by path, such as image.bytes


@dataclass(frozen=True, slots=True)
class Pages:
    """All pages of a chunk."""

    largest: int = 0  # bytes of the largest one, inflated
    total: int = 0  # bytes of all, inflated
    is_plain: bool = True  # whether each value is stored where it stands: what is read is no more than what is stored


def read_footer(path: Path) -> tuple[RowGroup, ...]:
    """The row groups of a file.

    DataError: it is no Parquet file, not whole, encrypted, or its footer is damaged or announces what cannot be there.
    """
    with path.open("rb") as stream:
        start = stream.read(len(_GIT_LFS))
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 8))
        end = stream.read()
        if start == _GIT_LFS:
            raise DataError("is a pointer of Git LFS; fetch the file itself by git lfs pull")
        if _ENCRYPTED in (start[:4], end[4:]):
            raise DataError("is encrypted, and is not read; write it without encryption")
        if start[:4] != _MAGIC:
            raise DataError("is not a Parquet file: it does not begin with PAR1; fetch it again")
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC or length > size - 12:
            raise DataError("ends early, or is damaged: its footer is not whole; fetch it again")
        if length > FOOTER_BYTES:
            raise DataError(f"has a footer of {length} bytes; {FOOTER_BYTES} is most: write fewer row groups")
        stream.seek(size - 8 - length)
        footer = stream.read(length)
    try:
        groups = tuple(map(_row_group, Thrift(footer, _FOOTER_VALUES).struct()[_GROUPS]))
    except (IndexError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f" ({error})" if type(error) is ValueError else ""
        raise DataError(f"is damaged: its footer cannot be read{why}; fetch it again") from None
    rows = [group.rows for group in groups]
    # An encoded image takes some bytes; without this a page of a few could stand for a billion labels.
    if min(rows, default=0) < 0 or sum(rows) > size:
        raise DataError(f"announces {sum(rows)} rows, which its {size} bytes cannot hold; fetch it again")
    for chunk in (chunk for group in groups for chunk in group.columns.values()):
        if chunk.start < len(_MAGIC) or not 0 <= chunk.length <= size - chunk.start:
            raise DataError("is damaged: a column would be where the file is not; fetch it again")
    return groups


def _row_group(group: dict[int, Any]) -> RowGroup:
    columns: dict[str, Chunk] = {}
    for column in group[_COLUMNS]:
        meta = column[_META]
        starts = [int(meta[start]) for start in (_DICTIONARY_START, _DATA_START) if meta.get(start)]
        nulls = meta.get(_STATISTICS, {}).get(_NULLS)
        path = ".".join(name.decode() for name in meta[_PATH])
        if path in columns:
            raise ValueError("two columns have one name")
        columns[path] = Chunk(min(starts, default=0), int(meta[_LENGTH]), nulls, _CRYPTO in column)
    return RowGroup(int(group[_ROWS]), columns)


def read_pages(stream: IO[bytes], chunk: Chunk) -> Pages:
    """Read the headers of all pages of a chunk.

    DataError: they are no headers, or announce more than is read.
    """
    if chunk.is_encrypted:
        raise DataError("is encrypted, and is not read; write it without encryption")
    largest, total, is_plain, start, end = 0, 0, True, chunk.start, chunk.start + chunk.length
    while start < end:
        stream.seek(start)
        header = Thrift(stream.read(min(_HEADER_BYTES, end - start)), _HEADER_VALUES)
        try:
            fields = header.struct()
            inflated, stored = int(fields[_INFLATED]), int(fields[_STORED])
            encodings = [fields[page][encoding] for page, encoding in _DATA_PAGES if page in fields]
        except (IndexError, ValueError, KeyError, TypeError):
            raise DataError("is damaged: where a page should begin is none; fetch it again") from None
        if inflated < 0 or not 0 <= stored <= end - start - header.at:
            raise DataError("is damaged: a page announces more than is there; fetch it again")
        if inflated > min(_LARGEST_PAGE, max(_SMALL_PAGE, _RATIO * stored)):
            raise DataError(
                f"holds a page of {stored} bytes that inflates to {inflated}; at most {_RATIO} times as many, or "
                f"{_SMALL_PAGE}, and never more than {_LARGEST_PAGE} are read: write it with smaller row groups"
            )
        largest, total = max(largest, inflated), total + inflated
        is_plain &= fields.get(_TYPE) != _DICTIONARY_PAGE and all(encoding == _PLAIN for encoding in encodings)
        start += header.at + stored
    return Pages(largest, total, is_plain)
