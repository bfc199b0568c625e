"""Shards that the tests make."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.shared.artifacts.dataset import open_dataset
from tests.shared.decoding.pictures import encoded, plain

Members = Iterable[tuple[str, Any]] | Mapping[str, Any]


def content(name: str, value: Any) -> bytes:
    """Bytes as they are; of an image its grey value; of the rest the text, or the JSON."""
    if isinstance(value, bytes):
        return value
    inner = name.lower().removesuffix(".gz")
    kind = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}.get(inner.rpartition(".")[2])
    data = (
        encoded(plain(value), kind) if kind else (json.dumps(value) if inner.endswith("json") else f"{value}").encode()
    )
    return gzip.compress(data, mtime=0) if inner != name.lower() else data


def tar_bytes(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members in their order; a value that is a TarInfo is a member without content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, value in members.items() if isinstance(members, Mapping) else members:
            if isinstance(value, tarfile.TarInfo):
                tar.addfile(value)
                continue
            data = content(name, value)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def shard(file: Path, members: Members, format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of members, compressed if its name says so."""
    data = tar_bytes(members, format)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if file.suffix == ".tar" else gzip.compress(data, mtime=0))
    return file


def of_classes(*labels: Any, first: int = 0, ending: str = "cls") -> dict[str, Any]:
    """Members of a sample for each label, named by their numbers."""
    numbered = enumerate(labels, first)
    return {f"{i:03d}.{end}": value for i, label in numbered for end, value in (("png", i), (ending, label))}


def listed_in(dataset: Path, split: str = "train") -> list[tuple[str, str]]:
    """The name and class of each image of a dataset, in its order."""
    opened = open_dataset(dataset)
    (of_split,) = (value for name, value in opened.splits.items() if name == split)
    classes = opened.manifest.classes
    return [
        (name.file, classes[label])
        for name, label in zip(of_split.names() or (), of_split.labels.tolist(), strict=True)
    ]
