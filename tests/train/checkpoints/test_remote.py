"""Checkpoints in a bucket: the newest whole one comes back, whatever has become of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.shared.storage.location import Location, parse_location
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest, read_state, write_checkpoint
from components.train.checkpoints.writer import RemoteCheckpoints
from tests.peers.object_store import Bucket
from tests.train.checkpoints.making import manifest, names
from tests.train.interrupting import LOG


def remote_of(bucket: Bucket, local: Path, keep: int = 3) -> RemoteCheckpoints:
    local.mkdir(exist_ok=True)
    there = parse_location(f"{bucket.uri}/kept")
    assert isinstance(there, Location)
    return RemoteCheckpoints(local, there, keep, LOG)


def saved(remote: RemoteCheckpoints, local: Path, epoch: int, batch: int = 0) -> Path:
    path = write_checkpoint(local, manifest(epoch, batch), {"weight": torch.full((64,), float(epoch))})
    assert remote.save(path)
    return path


def kept_in(bucket: Bucket) -> list[str]:
    return [name.removeprefix("kept/") for name in bucket.names("kept/")]


def halved(bucket: Bucket, name: str) -> None:
    data = bucket.read(name)
    bucket.write(name, data[: len(data) // 2])


def one_bit_other(bucket: Bucket, name: str) -> None:
    data = bytearray(bucket.read(name))
    data[len(data) // 2] ^= 4
    bucket.write(name, bytes(data))


def removed(bucket: Bucket, name: str) -> None:
    bucket.delete(name)


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("damage", [halved, one_bit_other, removed], ids=lambda damage: damage.__name__)
def test_the_one_before_a_damaged_one_is_fetched(
    gcs_bucket: Bucket,
    tmp_path: Path,
    heard: pytest.LogCaptureFixture,
    suffix: str,
    damage: Callable[[Bucket, str], None],
) -> None:
    remote = remote_of(gcs_bucket, tmp_path / "one")
    before, newest = (saved(remote, tmp_path / "one", epoch) for epoch in (1, 2))
    damage(gcs_bucket, f"kept/{newest.with_suffix(suffix).name}")

    remote = remote_of(gcs_bucket, tmp_path / "other")
    remote.restore(lambda manifest: True)

    (path,) = list_checkpoints(tmp_path / "other")
    assert path.name == before.name
    assert read_state(path, read_checkpoint_manifest(path))["weight"][0] == 1
    (warned,) = [record.getMessage() for record in heard.records if record.levelno >= logging.WARNING]
    assert newest.with_suffix(suffix).name in warned
    assert f"{gcs_bucket.uri}/kept" in warned


def test_the_newest_few_stay_by_their_number_not_by_their_name(gcs_bucket: Bucket, tmp_path: Path) -> None:
    remote = remote_of(gcs_bucket, tmp_path / "one", keep=2)
    for epoch in (99_998, 99_999, 100_000):
        saved(remote, tmp_path / "one", epoch)
    remote = remote_of(gcs_bucket, tmp_path / "other")
    remote.restore(lambda manifest: True)

    assert [name for name in kept_in(gcs_bucket) if name.endswith(".json")] == [
        "epoch-100000-batch-000000.json",
        "epoch-99999-batch-000000.json",
    ]
    assert [path.stem for path in list_checkpoints(tmp_path / "other")] == ["epoch-100000-batch-000000"]


def test_a_damaged_one_does_not_take_the_place_of_one_that_is_whole(gcs_bucket: Bucket, tmp_path: Path) -> None:
    remote = remote_of(gcs_bucket, tmp_path / "one")
    saved(remote, tmp_path / "one", 1)
    one_bit_other(gcs_bucket, f"kept/{saved(remote, tmp_path / 'one', 3).with_suffix('.pt').name}")

    remote = remote_of(gcs_bucket, tmp_path / "other", keep=1)
    remote.restore(lambda manifest: True)
    saved(remote, tmp_path / "other", 2)

    remote = remote_of(gcs_bucket, tmp_path / "third")
    remote.restore(lambda manifest: True)
    assert [path.stem for path in list_checkpoints(tmp_path / "third")] == ["epoch-00002-batch-000000"]


def test_one_that_is_saved_again_is_never_half_of_each(gcs_bucket: Bucket, tmp_path: Path) -> None:
    remote = remote_of(gcs_bucket, tmp_path / "one")
    saved(remote, tmp_path / "one", 1)
    path = write_checkpoint(tmp_path / "one", manifest(1), {"weight": torch.zeros(64)})
    path.unlink()  # so that the second of the two uploads fails
    assert not remote.save(path)

    assert kept_in(gcs_bucket) == [path.with_suffix(".pt").name]


def test_starting_over_removes_what_is_there_and_nothing_else(gcs_bucket: Bucket, tmp_path: Path) -> None:
    gcs_bucket.write("kept/notes.txt", b"mine")
    remote = remote_of(gcs_bucket, tmp_path / "one")
    saved(remote, tmp_path / "one", 1)
    remote.clear()

    assert kept_in(gcs_bucket) == ["notes.txt"]


def test_what_is_fetched_is_the_newest_alone(gcs_bucket: Bucket, tmp_path: Path) -> None:
    remote = remote_of(gcs_bucket, tmp_path / "one")
    for batch in (0, 7, 9):
        saved(remote, tmp_path / "one", 2, batch)
    remote = remote_of(gcs_bucket, tmp_path / "other")
    remote.restore(lambda manifest: True)

    assert names(tmp_path / "other") == ["epoch-00002-batch-000009.json", "epoch-00002-batch-000009.pt"]
