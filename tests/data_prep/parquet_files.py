"""Parquet files as datasets, pandas and others write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

IMAGES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = ("cat", "dog")


def write_parquet(
    path: Path,
    labels: Sequence[Any],
    *,
    names: Sequence[str] | None = CLASSES,
    images: Sequence[Any] | None = None,
    images_type: Any = IMAGES,
    labels_type: Any = None,
    columns: tuple[str, str] = ("image", "label"),
    **options: Any,
) -> Path:
    """A file with a row for each label, and what datasets notes of the columns, unless `names` is None.

    The content of an image is the file's name and the row, unless images are given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{path.stem} {row}".encode() for row in range(len(labels))] if images is None else images
    if pa.types.is_struct(images_type):
        fields = {images_type.field(index).name for index in range(images_type.num_fields)}
        given = [{"bytes": row, "path": f"{i}.png"} if isinstance(row, bytes) else row for i, row in enumerate(rows)]
        rows = [row and {field: row[field] for field in fields} for row in given]
    arrays = {columns[0]: pa.array(rows, images_type), columns[1]: pa.array(labels, labels_type)}
    features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    parquet.write_table(pa.table(arrays).replace_schema_metadata(metadata), path, **options)
    return path
