from __future__ import annotations

from pathlib import Path

from components.shared.storage.fetch import fetch_artifact, fetch_tree
from components.shared.storage.location import Location, place
from components.shared.storage.publish import Publication
from tests.peers.object_store import Bucket
from tests.shared.storage.conftest import BOX, box, tree

LARGE = 40 << 20  # more than one range, more than one part
SIZES = {"small.bin": 1_000, "empty": 0, "folder/medium.bin": 300_000, "large.bin": LARGE}


def at(bucket: Bucket, key: str = "runs/7/box") -> Location:
    location = place(f"{bucket.uri}/{key}" if key else bucket.uri)
    assert isinstance(location, Location)
    return location


def publish(bucket: Bucket, directory: Path, key: str = "runs/7/box") -> None:
    with Publication(at(bucket, key), BOX) as publication:
        publication.publish(directory)


def test_what_is_published_is_fetched(bucket: Bucket, tmp_path: Path) -> None:
    source = box(tmp_path / "source", 1, SIZES)
    (source / "tensorboard").mkdir()
    (source / "tensorboard/events").write_bytes(b"curves")

    publish(bucket, source)

    everything = tree(source)
    assert bucket.objects() == {f"runs/7/box/{name}": data for name, data in everything.items()}
    fetched = fetch_artifact(at(bucket), BOX, tmp_path / "fetched")
    del everything["tensorboard/events"]
    assert tree(fetched) == everything
    assert tree(fetch_tree(at(bucket), tmp_path / "tree")) == tree(source)
