from __future__ import annotations

from pathlib import Path

from components.shared.storage.fetch import fetch_artifact, fetch_tree
from tests.peers.object_store import Bucket
from tests.peers.s3 import S3Bucket
from tests.shared.storage.conftest import BOX, LARGE, at, box, publish, tree

SIZES = {"small.bin": 1_000, "empty": 0, "folder/medium.bin": 300_000, "large.bin": LARGE}


def _there_and_back(bucket: Bucket, folder: Path) -> None:
    source = box(folder / "source", 1, SIZES)
    (source / "tensorboard").mkdir()
    (source / "tensorboard/events").write_bytes(b"curves")

    publish(bucket, source)

    everything = tree(source)
    assert bucket.objects() == {f"runs/7/box/{name}": data for name, data in everything.items()}
    assert tree(fetch_tree(at(bucket), folder / "tree")) == everything
    del everything["tensorboard/events"]  # the manifest does not name it
    assert tree(fetch_artifact(at(bucket), BOX, folder / "fetched")) == everything


def test_what_is_published_is_fetched(bucket: Bucket, tmp_path: Path) -> None:
    _there_and_back(bucket, tmp_path)


def test_so_it_is_with_another_s3_server(moto_bucket: S3Bucket, tmp_path: Path) -> None:
    _there_and_back(moto_bucket, tmp_path)
