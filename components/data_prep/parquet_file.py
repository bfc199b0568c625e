"""One Parquet file: its columns, its labels, and its encoded images batch by batch; all that pyarrow is asked for.

A file is believed only as far as it bears out what it announces: the footer's size, the number of rows, and the size of
each page are looked at before pyarrow allocates anything for them.
"""

from __future__ import annotations

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

from components.data_prep.parquet_columns import Column, Features, read_features
from components.data_prep.parquet_pages import Pages, read_pages
from components.shared.errors import DataError
from components.shared.text import first_line, shown

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_GIT_LFS = b"version https://git-lfs"
# A thousand row groups of three columns have a footer of half a megabyte; in memory it is ten times as large.
_FOOTER_BYTES = 32 * 1024**2
_LIST_LENGTH = 100_000  # columns, row groups
# Column chunks are read in pieces instead of whole: of a row group of 90 MB, 26 MB are in memory at a time, not 190.
_BUFFER_BYTES = 1024**2
# Of 3 kB each, 16 images at a time are read four times as fast as one, and 64 no faster than 256.
_BATCH_BYTES = 16 * 1024**2
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

    path: Path
    where: str  # for messages
    columns: tuple[Column, ...]
    features: Features
    groups: tuple[int, ...]  # rows of each row group

    @property
    def count(self) -> int:
        """Rows of the file."""
        return sum(self.groups)

    def labels(self, column: Column) -> RawLabels:
        """Read the labels of all rows, and no other column.

        DataError: the column is damaged, or has other rows than the footer says.
        """
        texts: dict[str, int] = {}
        parts: list[npt.NDArray[np.int64]] = []
        # Texts as a dictionary: one that stands in a million rows is there once.
        dictionary = [column.path] if column.kind == "texts" else []
        with (
            _reading(self.where),
            _open(self.path, read_dictionary=dictionary) as file,
            self.path.open("rb", buffering=0) as raw,
        ):
            leaf = _leaf(file, column)
            for group, count in enumerate(self.groups):
                self._pages(file.metadata.row_group(group).column(leaf), raw)
                left = count
                for batch in self._batches(file, group, column, _BATCH_LABELS):
                    left -= len(batch)
                    parts.append(_numbers(batch, texts))
                if left:
                    raise DataError(f"its footer says {count} rows of row group {group}, and there are {count - left}")
        values = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return RawLabels(values, list(texts) if column.kind == "texts" else None)

    def has_no_bytes(self, column: Column) -> bool:
        """Whether by its statistics every row of a column is null, as far as there are any."""
        with _reading(self.where), _open(self.path) as file:
            leaf = _leaf(file, column)
            chunks = [file.metadata.row_group(group).column(leaf) for group in range(len(self.groups))]
            nulls = [chunk.statistics.null_count if chunk.is_stats_set else None for chunk in chunks]
        return bool(self.count) and nulls == list(self.groups)

    def images(self, column: Column, wanted: Sequence[int]) -> Iterator[RawImage]:
        """Read encoded images by their rows, ascending; a damaged row group costs no other."""
        start = 0
        for group, count in enumerate(self.groups):
            rows = wanted[bisect_left(wanted, start) : bisect_left(wanted, start + count)]
            if rows:
                yield from self._images_of(group, start, column, rows)
            start += count

    def _images_of(self, group: int, start: int, column: Column, rows: Sequence[int]) -> Iterator[RawImage]:
        given = 0
        problem = f"row group {group} has fewer images than labels"
        try:
            with _reading(), _open(self.path) as file, self.path.open("rb", buffering=0) as raw:
                pages = self._pages(file.metadata.row_group(group).column(_leaf(file, column)), raw)
                # A value may take all of a page, and where not each is stored where it stands, every value may.
                each = pages.total // self.groups[group] if pages.is_plain else pages.largest
                size = min(_BATCH_IMAGES, max(1, _BATCH_BYTES // max(1, each)))
                for batch in self._batches(file, group, column, size):
                    while given < len(rows) and rows[given] < start + len(batch):
                        content = batch[rows[given] - start].as_py()
                        yield RawImage(rows[given], content or b"", "" if content else "the row holds no bytes")
                        given += 1
                    start += len(batch)
                    if given == len(rows):
                        return
        except DataError as error:
            problem = f"row group {group} {error}"
        for row in rows[given:]:
            yield RawImage(row, b"", problem)

    def _pages(self, chunk: Any, raw: IO[bytes]) -> Pages:
        start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
        length, size = chunk.total_compressed_size, self.path.stat().st_size
        if start < len(_MAGIC) or not 0 <= length <= size - start:
            raise DataError("is damaged: it announces more than is there")
        return read_pages(raw, start, length)

    def _batches(self, file: parquet.ParquetFile, group: int, column: Column, size: int) -> Iterator[pa.Array]:
        """A column's values, of a struct those of its one field that is read; no more than the footer says."""
        left = self.groups[group]
        for batch in file.iter_batches(size, row_groups=[group], columns=[column.path], use_threads=False):
            values = batch.column(column.name)
            if pa.types.is_struct(values.type):
                (values,) = values.flatten()  # where a struct is null, so is its field
            left -= len(values)
            if left < 0:
                raise DataError(f"row group {group} has more rows than the footer says")
            yield values


def open_parquet_file(path: Path, where: str) -> ParquetFile:
    """Read a file's footer; `where` names it in messages.

    DataError: it is no Parquet file, not whole, encrypted, or its footer is damaged or announces what cannot be there.
    """
    with _reading(where):
        _check_ends(path)
        with _open(path) as file:
            groups = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            # An encoded image takes some bytes; without this a page of a few could stand for a billion labels.
            if min(groups, default=0) < 0 or sum(groups) > path.stat().st_size:
                raise DataError(f"announces {sum(groups)} rows, which its {path.stat().st_size} bytes cannot hold")
            columns = tuple(map(_column, file.schema_arrow))
            noted = (file.schema_arrow.metadata or {}).get(b"huggingface")
    return ParquetFile(path, where, columns, read_features(where, noted) if noted else {}, tuple(groups))


def _open(path: Path, **options: Any) -> parquet.ParquetFile:
    return parquet.ParquetFile(
        path,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        thrift_container_size_limit=_LIST_LENGTH,
        thrift_string_size_limit=_FOOTER_BYTES,
        page_checksum_verification=True,
        **options,
    )


def _leaf(file: parquet.ParquetFile, column: Column) -> int:
    """The number of what is read of a column, among all that is stored."""
    paths = [file.schema.column(index).path for index in range(len(file.schema))]
    if (found := paths.count(column.path)) != 1:
        raise DataError(f"has {found} columns {shown(column.path)}; rename or remove all but one")
    return paths.index(column.path)


def _check_ends(path: Path) -> None:
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
        raise DataError("is not a Parquet file: it does not begin with PAR1")
    footer = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or footer > size - 12:
        raise DataError("ends early, or is damaged: its footer is not whole; fetch it again")
    if footer > _FOOTER_BYTES:
        raise DataError(f"has a footer of {footer} bytes; {_FOOTER_BYTES} is most: write fewer columns or row groups")


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
        return np.array([*own, -1], dtype=np.int64)[_numbers(values.indices, texts)]
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return np.asarray(values.cast(pa.int64()).fill_null(-1), dtype=np.int64)


@contextmanager
def _reading(where: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with a file into a :class:`DataError`, which begins with where it is."""
    start = f"{where}: " if where else ""
    try:
        yield
    except DataError as error:
        raise DataError(f"{start}{error}") from error
    except UnicodeDecodeError:
        raise DataError(f"{start}holds a text that is not UTF-8; write it again") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise DataError(f"{start}cannot be read ({first_line(error)}); fetch it again") from error
