from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import pytest

from components.shared.artifacts.artifact import ArtifactKind, ArtifactWriter, FileRecord, Manifest, contents_folder
from components.shared.storage import download
from components.shared.storage.location import Location, parse_location
from components.shared.storage.publish import Publication
from tests.peers.fixtures import (
    bucket,
    gcs_bucket,
    gcs_server,
    moto_bucket,
    moto_server,
    s3_bucket,
    s3_server,
    seaweed,
)
from tests.peers.object_store import Bucket

__all__ = ["bucket", "gcs_bucket", "gcs_server", "moto_bucket", "moto_server", "s3_bucket", "s3_server", "seaweed"]


LARGE = 17 << 20  # more than one range, more than one part


class BoxManifest(Manifest):
    """The smallest artifact there is: named files."""

    kind: Literal["test.box"] = "test.box"
    parts: dict[str, FileRecord]


BOX = ArtifactKind("box", "box.json", BoxManifest)


def box(path: Path, seed: int, sizes: dict[str, int]) -> Path:
    """A box whose files have such sizes, with bytes that follow from the seed."""
    chance = random.Random(seed)  # noqa: S311
    with ArtifactWriter(path, BOX) as writer:
        records = {}
        for name, size in sizes.items():
            file = writer.new_file(name)
            file.write_bytes(chance.randbytes(size))
            records[name] = writer.record(file)
        writer.commit(BoxManifest(created_by="test", parts=records))
    return path


def at(bucket: Bucket, key: str = "runs/7/box") -> Location:
    location = parse_location(f"{bucket.uri}/{key}")
    assert isinstance(location, Location)
    return location


def publish(bucket: Bucket, directory: Path, key: str = "runs/7/box") -> None:
    """Publish a box."""
    with Publication(at(bucket, key), BOX) as publication:
        publication.publish(directory)


def published(files: dict[str, bytes], key: str = "runs/7/box") -> dict[str, bytes]:
    """The objects of a published box, from its files by relative name."""
    manifest = files["box.json"]
    objects = {f"{key}/{contents_folder(manifest)}/{name}": data for name, data in files.items()}
    return objects | {f"{key}/box.json": manifest}


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a directory, by relative name."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "20")
    monkeypatch.setattr(download, "RANGE", 8 << 20)
