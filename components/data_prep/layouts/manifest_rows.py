"""Rows of a manifest, CSV or JSON Lines: where each image is, its label as it is written, and the split it is for."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from components.data_prep.layouts.source import composed, listed
from components.data_prep.splits import split_of
from components.shared.artifacts.artifact import class_name_problem
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.files import open_regular
from components.shared.strict_json import parse_json
from components.shared.text import described, shown

# Names of columns and keys, in small letters without what separates words; of images the first that is there counts.
_IMAGES = (
    *("filename", "image", "imagepath", "imagefile", "file", "filepath", "path"),
    *("imagegcsuri", "gcsuri", "imageuri", "uri", "imageurl", "url"),
)
_LABELS = ("label", "class", "classname", "labelname", "category", "type", "target")
_SPLITS = ("split", "mluse", "subset")
# Vertex AI's import files (image_classification_single_label_io_format_1.0.0).
_ANNOTATION, _ANNOTATED = "classificationAnnotation", "displayName"
_RESOURCE_LABELS, _ML_USE = "dataItemResourceLabels", "aiplatform.googleapis.com/ml_use"

_LONGEST_LINE = 1 << 20
_BUCKETS = ("gs://", "s3://")
_WIDE = (b"\xff\xfe", b"\xfe\xff")


class Row(NamedTuple):
    """One image of a manifest."""

    line: int
    image: str  # a URI, or a path relative to the manifest
    label: str
    split: SplitName | None


def is_manifest_name(name: str) -> bool:
    """Whether a file's name is that of CSV or JSON Lines."""
    return name.lower().endswith((".csv", ".jsonl", ".ndjson"))


def is_manifest(file: Path, name: str) -> bool:
    """Whether a file, called `name`, names images and labels, by its first row."""
    try:
        return next(rows(file, name, name), None) is not None
    except DataError as error:
        return not isinstance(error, NotManifestError)


class NotManifestError(DataError):
    """A file of which its beginning shows that it is no manifest."""


def rows(file: Path, name: str, where: str) -> Iterator[Row]:
    """The rows of a manifest with a name, called `where` in messages, in memory one at a time.

    Raises:
        NotManifestError: It names no images or no labels.
        DataError: A row does not say what it should; with its line.
    """
    return _csv_rows(file, where) if name.lower().endswith(".csv") else _json_rows(file, where)


def _lines(file: Path, where: str) -> Iterator[str]:
    """The lines of UTF-8 text, of bounded length."""
    try:
        with io.BufferedReader(cast("io.RawIOBase", open_regular(file))) as stream:
            number = 0
            while line := stream.readline(_LONGEST_LINE + 1):
                number += 1
                if number == 1 and line.startswith(_WIDE):
                    raise NotManifestError(f"{where}: is UTF-16; save it as UTF-8")
                if len(line) > _LONGEST_LINE:
                    raise DataError(f"{where}, line {number}: is longer than {_LONGEST_LINE} bytes")
                if b"\0" in line:
                    raise DataError(f"{where}, line {number}: holds a NUL byte; save it as text, in UTF-8")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{where}, line {number}: is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error


def csv_cells(file: Path, where: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, in memory one at a time, each with its line.

    DataError: it is not UTF-8, or no CSV; with its line.
    """
    # strict: an unclosed quotation mark would otherwise swallow the rows after it.
    reader = csv.reader(_lines(file, where), strict=True)
    try:
        for cells in filter(None, reader):
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: is not CSV: {error}") from error


def check_width(cells: Sequence[str], header: Sequence[str], at: str) -> None:
    """Refuse a row that has more or fewer values than the header."""
    if len(cells) != len(header):
        raise DataError(
            f"{at}: has {len(cells)} value(s), and the header has {len(header)}; "
            "put values that hold a comma in quotation marks"
        )


def _csv_rows(file: Path, where: str) -> Iterator[Row]:
    lines = csv_cells(file, where)
    number, first = next(lines, (1, []))
    if any(cell.strip().startswith(_BUCKETS) for cell in first):
        for line, cells in itertools.chain([(number, first)], lines):
            yield _import_row(cells, f"{where}, line {line}", line)
        return
    header = [name.strip() for name in first]
    if again := next((name for name in header if name and header.count(name) > 1), ""):
        raise NotManifestError(f"{where}: has two columns named {shown(again)}; rename one")
    columns = _columns(header, where)
    for line, cells in lines:
        at = f"{where}, line {line}"
        check_width(cells, header, at)
        yield _row(dict(zip(header, cells, strict=True)), columns, at, line)


def _import_row(cells: Sequence[str], at: str, line: int) -> Row:
    """A row of a file without a header: ``ML_USE,gs://bucket/image.png,label``, the first of them optional."""
    use, *rest = cells if not cells[0].strip().startswith(_BUCKETS) else ("", *cells)
    if len(rest) != 2 or not rest[0].strip().startswith(_BUCKETS):
        raise DataError(
            f"{at}: has {len(cells)} value(s), and may be ML_USE,gs://bucket/image.png,label; one label each"
        )
    return Row(line, rest[0].strip(), _label(rest[1], at), _split(use, at))


def _json_rows(file: Path, where: str) -> Iterator[Row]:
    columns: _Columns | None = None
    kind: tuple[type, int] | None = None
    for line, text in enumerate(_lines(file, where), 1):
        at = f"{where}, line {line}"
        if not text.strip():
            continue
        try:
            value = parse_json(text)
        except ValueError as error:
            refusal = NotManifestError if columns is None else DataError
            raise refusal(f"{at}: is not JSON: {error}") from error
        if not isinstance(value, dict):
            refusal = NotManifestError if columns is None else DataError
            raise refusal(f'{at}: is {described(value)}, and a line is a mapping, such as {{"image": …, "label": …}}')
        value = _without_annotation(value, at)
        columns = columns or _columns(list(value), where)
        label = value.get(columns.label)
        if isinstance(label, str | int) and not isinstance(label, bool):
            kind = kind or (type(label), line)
            if kind[0] is not type(label):
                raise DataError(
                    f"{at}: the label is {described(label)}, and that of line {kind[1]} is not; write all alike"
                )
            value[columns.label] = str(label)
        yield _row(value, columns, at, line)


def _without_annotation(value: dict[str, Any], at: str) -> dict[str, Any]:
    """A line as others write it, of Vertex AI's form."""
    annotation, labels = value.get(_ANNOTATION), value.get(_RESOURCE_LABELS)
    if not isinstance(annotation, dict):
        return value
    use = labels.get(_ML_USE) if isinstance(labels, dict) else None
    rest = {key: inner for key, inner in value.items() if key not in (_ANNOTATION, _RESOURCE_LABELS)}
    return {**rest, "label": annotation.get(_ANNOTATED), "ml_use": use or ""}


class _Columns(NamedTuple):
    image: str
    label: str
    split: str | None


def _columns(names: Sequence[str], where: str) -> _Columns:
    """Which columns hold what; a NotManifestError where that is not clear."""
    plain = {name: re.sub(r"[\s_-]", "", name.casefold()) for name in names}
    images = sorted((name for name in names if plain[name] in _IMAGES), key=lambda name: _IMAGES.index(plain[name]))
    labels = [name for name in names if plain[name] in _LABELS]
    splits = [name for name in names if plain[name] in _SPLITS]
    for what, found, known in (
        ("images", images[:1], _IMAGES),
        ("labels", labels, _LABELS),
        ("splits", splits, _SPLITS),
    ):
        if len(found) > 1 or (not found and what != "splits"):
            raise NotManifestError(
                f"{where}: has {listed(found) if found else 'no column'} for {what}; there are "
                f"{listed([shown(name) for name in names], 10) or 'none'}, and needed is one of {', '.join(known[:5])}"
            )
    return _Columns(images[0], labels[0], splits[0] if splits else None)


def _row(values: Mapping[str, Any], columns: _Columns, at: str, line: int) -> Row:
    image = values.get(columns.image)
    if not isinstance(image, str) or not image.strip():
        raise DataError(f"{at}: {columns.image} is {described(image) if image else 'empty'}; it names an image")
    split = values.get(columns.split) if columns.split else ""
    return Row(line, image, _label(values.get(columns.label), at), _split(split, at))


def _label(label: Any, at: str) -> str:
    if label is None or (isinstance(label, str) and not label.strip()):
        raise DataError(f"{at}: has no label; write one, or remove the row")
    if not isinstance(label, str):
        raise DataError(f"{at}: the label is {described(label)}, and must be a text or a whole number")
    if problem := class_name_problem(composed(label)):
        raise DataError(f"{at}: the label {problem}")
    return composed(label)


def _split(value: Any, at: str) -> SplitName | None:
    if value is None or (isinstance(value, str) and value.strip().casefold() in ("", "unassigned")):
        return None
    if isinstance(value, str) and (split := split_of(value.strip())):
        return split
    raise DataError(f"{at}: the split is {described(value)}, and may be train, validation or test, or empty")
