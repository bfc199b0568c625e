"""One Parquet file: its columns, its labels, and its encoded images batch by batch; all that pyarrow is asked for.

A file is believed only as far as it bears out what it announces: the number of rows and the size of each page are
looked at before pyarrow allocates anything for them.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from components.data_prep.layouts.parquet_columns import Column, Features, read_features
from components.data_prep.layouts.parquet_footer import FOOTER_BYTES, Chunk, RowGroup, read_footer, read_pages
from components.shared.errors import DataError
from components.shared.text import first_line, shown

_LIST_LENGTH = 100_000  # columns, row groups
# Column chunks are read page by page instead of whole, of which pyarrow makes at least one of 1024 rows: of a row group
# of 90 MB of images of 3 kB, 26 MB are in memory at a time, not 190. It takes two to three times the largest page.
_BUFFER_BYTES = 1024**2
# Of 3 kB each, 16 images at a time are read four times as fast as one, and 64 no faster than 256.
_BATCH_BYTES = 8 * 1024**2
_BATCH_IMAGES = 64
_BATCH_LABELS = 16 * 1024


class RawLabels(NamedTuple):
    """The labels of n rows as they are stored."""

    values: npt.NDArray[np.int64]  # of shape (n,): numbers, or indices into `texts`; -1: null, or -1
    texts: list[str] | None  # None: they are numbers


class RawImage(NamedTuple):
    """The encoded image of a row, or why there is none."""

    row: int
    content: bytes
    problem: str


@dataclass(frozen=True)
class ParquetFile:
    """A file whose footer has been read."""

    where: str  # for messages
    columns: tuple[Column, ...]
    features: Features
    groups: tuple[RowGroup, ...]

    @property
    def count(self) -> int:
        """Rows of the file."""
        return sum(group.rows for group in self.groups)

    def labels(self, path: Path, column: Column) -> RawLabels:
        """Read the labels of all rows, and no other column, from where the file is now.

        DataError: the column is damaged, or has other rows than the footer says.
        """
        texts: dict[str, int] = {}
        parts: list[npt.NDArray[np.int64]] = []
        # Texts as a dictionary: one that stands in a million rows is there once.
        dictionary = [column.path] if column.kind == "texts" else []
        with (
            _reading(self.where),
            _open(path, read_dictionary=dictionary) as file,
            path.open("rb", buffering=0) as raw,
        ):
            for number, group in enumerate(self.groups):
                read_pages(raw, self._chunk(group, column))
                left = group.rows
                for batch in self._batches(file, number, column, _BATCH_LABELS):
                    left -= len(batch)
                    parts.append(_numbers(batch, texts))
                if left:
                    raise DataError(f"row group {number} has {group.rows - left} of the {group.rows} rows it announces")
        values = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return RawLabels(values, list(texts) if column.kind == "texts" else None)

    def has_no_bytes(self, column: Column) -> bool:
        """Whether by its statistics every row of a column is null, as far as there are any."""
        with _reading(self.where):
            return bool(self.count) and all(self._chunk(group, column).nulls == group.rows for group in self.groups)

    def images(self, path: Path, column: Column, wanted: Sequence[int]) -> Iterator[RawImage]:
        """Read encoded images by their rows, ascending; a damaged row group costs no other.

        DataError: the operating system does not hand the file out.
        """
        given = start = 0
        try:
            with _reading(), _open(path) as file, path.open("rb", buffering=0) as raw:
                for number, group in enumerate(self.groups):
                    rows = wanted[given : bisect_left(wanted, start + group.rows)]
                    for image in self._images_of(file, raw, number, start, column, rows) if rows else ():
                        given += 1
                        yield image
                    start += group.rows
        except _DiskError as error:
            raise DataError(f"{self.where}: {error}") from error
        except DataError as error:
            for row in wanted[given:]:
                yield RawImage(row, b"", str(error))

    def _images_of(
        self, file: parquet.ParquetFile, raw: IO[bytes], number: int, start: int, column: Column, rows: Sequence[int]
    ) -> Iterator[RawImage]:
        given = 0
        problem = f"row group {number} has fewer images than labels"
        try:
            with _reading():
                pages = read_pages(raw, self._chunk(self.groups[number], column))
                # A value may take all of a page, and where not each is stored where it stands, every value may.
                each = pages.total // self.groups[number].rows if pages.is_plain else pages.largest
                size = min(_BATCH_IMAGES, max(1, _BATCH_BYTES // max(1, each)))
                for batch in self._batches(file, number, column, size):
                    while given < len(rows) and rows[given] < start + len(batch):
                        content = batch[rows[given] - start].as_py()
                        yield RawImage(rows[given], content or b"", "" if content else "the row holds no bytes")
                        given += 1
                    start += len(batch)
                    if given == len(rows):
                        return
        except _DiskError:
            raise
        except DataError as error:
            problem = f"row group {number} {error}"
        for row in rows[given:]:
            yield RawImage(row, b"", problem)

    @staticmethod
    def _chunk(group: RowGroup, column: Column) -> Chunk:
        if column.path not in group.columns:
            raise DataError(f"lacks the column {shown(column.path)} in a row group; write it again")
        return group.columns[column.path]

    def _batches(self, file: parquet.ParquetFile, number: int, column: Column, size: int) -> Iterator[pa.Array]:
        """A column's values, of a struct those of its one field that is read; no more than the footer says."""
        left = self.groups[number].rows
        for batch in file.iter_batches(size, row_groups=[number], columns=[column.path], use_threads=False):
            values = batch.column(column.name)
            if pa.types.is_struct(values.type):
                (values,) = values.flatten()  # where a struct is null, so is its field
            left -= len(values)
            if left < 0:
                raise DataError(f"row group {number} has more rows than it announces")
            yield values


def open_parquet_file(path: Path, where: str) -> ParquetFile:
    """Read a file's footer; `where` names it in messages.

    DataError: it is no Parquet file, not whole, encrypted, or its footer is damaged or announces what cannot be there.
    """
    with _reading(where):
        groups = read_footer(path)
        with _open(path) as file:
            columns = tuple(map(_column, file.schema_arrow))
            noted = (file.schema_arrow.metadata or {}).get(b"huggingface")
    return ParquetFile(where, columns, read_features(where, noted) if noted else {}, groups)


def _open(path: Path, **options: Any) -> parquet.ParquetFile:
    return parquet.ParquetFile(
        path,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        thrift_container_size_limit=_LIST_LENGTH,
        thrift_string_size_limit=FOOTER_BYTES,
        page_checksum_verification=True,
        **options,
    )


def _column(field: pa.Field) -> Column:
    kind, path = field.type, field.name
    if pa.types.is_struct(kind) and (index := kind.get_field_index("bytes")) >= 0:
        kind, path = kind.field(index).type, f"{path}.bytes"
        is_image = _is_bytes(kind)
        return Column(field.name, str(field.type), "images" if is_image else "other", path)
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if _is_bytes(kind):
        return Column(field.name, str(kind), "images", path)
    if any(check(value) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        return Column(field.name, str(kind), "texts", path)
    return Column(field.name, str(kind), "numbers" if pa.types.is_integer(value) else "other", path)


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _numbers(values: pa.Array, texts: dict[str, int]) -> npt.NDArray[np.int64]:
    """Labels as numbers, null as -1; texts are numbered as they come."""
    if pa.types.is_dictionary(values.type) and not pa.types.is_integer(values.type.value_type):
        own = [texts.setdefault(text, len(texts)) for text in values.dictionary.to_pylist()]
        indices = _numbers(values.indices, texts)
        if ((indices < -1) | (indices >= len(own))).any():  # pyarrow does not look
            raise DataError("is damaged: a text is of a number that its dictionary has not; fetch it again")
        return np.array([*own, -1], dtype=np.int64)[indices]
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return np.asarray(values.cast(pa.int64()).fill_null(-1), dtype=np.int64)


class _DiskError(DataError):
    """The operating system does not hand the file out, which says nothing of the images in it."""


@contextmanager
def _reading(where: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with a file into a :class:`DataError`, which begins with where it is."""
    start = f"{where}: " if where else ""
    try:
        yield
    except _DiskError:
        raise
    except DataError as error:
        raise DataError(f"{start}{error}") from error
    except UnicodeDecodeError:
        raise DataError(f"{start}holds a text that is not UTF-8; write it again") from None
    except OSError as error:
        # pyarrow's own, of damaged files, have no number, or are of offsets that no file has.
        kind = DataError if error.errno in (None, errno.EINVAL) else _DiskError
        raise kind(f"{start}cannot be read ({first_line(error)}); fetch it again") from error
    except (pa.ArrowException, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise DataError(f"{start}cannot be read ({first_line(error)}); fetch it again") from error
