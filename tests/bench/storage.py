"""Buckets: ours against google-cloud-storage's transfer_manager, both on one server."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from google.cloud import storage
from google.cloud.storage import transfer_manager

from components.shared.artifacts.artifact import ArtifactKind, FileRecord, Manifest
from components.shared.files import sha256_of, write_json
from components.shared.storage.fetch import fetch_tree
from components.shared.storage.location import Location
from components.shared.storage.publish import Publication
from tests.bench.measure import Ratio, seconds
from tests.peers.gcs import GcsServer

MEGABYTE = 1024**2
ROUNDS = 3
# How many files of how many bytes.
SETS = {"4 × 256 MB": (4, 256 * MEGABYTE), "5,000 × 10 kB": (5_000, 10_000)}
WORKERS = (transfer_manager.PROCESS, transfer_manager.THREAD)


class FilesManifest(Manifest):
    """An artifact that is nothing but files."""

    parts: list[FileRecord]


FILES = ArtifactKind("file set", "files.json", FilesManifest)


def transfers(_: Path) -> Iterator[Ratio]:
    """(g) MB/s down and up, few large objects and many small ones."""
    memory = Path("/dev/shm")  # noqa: S108 # so that no disk is measured
    room = memory.is_dir() and shutil.disk_usage(memory).free > 6 * 1024**3
    with (
        tempfile.TemporaryDirectory(dir=memory if room else None, prefix="shutterline-bench-") as folder,
        GcsServer() as server,
    ):
        os.environ["STORAGE_EMULATOR_HOST"] = server.url  # by which every client finds it
        for name, (count, size) in SETS.items():
            files = Path(folder) / "files"
            _make(files, count, size)
            with closing(storage.Client()) as client:
                yield _down(f"(g) down, {name}", client, files, Path(folder))
                yield _up(f"(g) up, {name}", client, files)
            shutil.rmtree(files)


@contextmanager
def small_server() -> Iterator[storage.Bucket]:
    """A new bucket of a server of its own, which clients find by the environment."""
    with GcsServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        with closing(storage.Client()) as client:
            yield client.create_bucket(f"bench-{uuid4().hex[:8]}")


def _make(folder: Path, count: int, size: int) -> None:
    """An artifact of so many files of random bytes."""
    folder.mkdir()
    records = []
    for number in range(count):
        file = folder / f"part-{number:05d}"
        with file.open("wb") as stream:
            for start in range(0, size, MEGABYTE):
                stream.write(os.urandom(min(MEGABYTE, size - start)))
        records.append(FileRecord(file=file.name, bytes=size, sha256=sha256_of(file)))
    manifest = FilesManifest(created_by="bench", parts=records)
    write_json(folder / FILES.manifest_file, manifest.model_dump(mode="json"))


def _parts(files: Path) -> list[str]:
    return sorted(file.name for file in files.glob("part-*"))


def _down(name: str, client: storage.Client, files: Path, folder: Path) -> Ratio:
    """Both sides fetch the same objects; ours is `fetch_tree`, which checks the store's checksums as theirs does."""
    bucket = client.create_bucket(f"bench-{uuid4().hex[:8]}")
    location = Location("gs", bucket.name, "files")
    with Publication(location, FILES) as publication:
        location = publication.publish(files)
    bucket.blob(location.child(FILES.manifest_file).key).delete()  # the parts alone, for both sides
    names = _parts(files)

    def rate(fetch: Callable[[Path], object]) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as into:
            took = seconds(lambda: fetch(Path(into)))
            found = sum((Path(into) / each).stat().st_size for each in names)
        total = sum((files / each).stat().st_size for each in names)
        assert found == total
        return total / MEGABYTE / took

    def theirs(worker: str, into: Path) -> None:
        transfer_manager.download_many_to_path(
            bucket, names, destination_directory=str(into), blob_name_prefix=location.prefix, worker_type=worker,
            raise_exception=True,
        )  # fmt: skip

    def in_chunks(worker: str, into: Path) -> None:
        for each in names:
            blob = bucket.get_blob(location.child(each).key)
            transfer_manager.download_chunks_concurrently(blob, str(into / each), worker_type=worker)

    contenders = {f"download_many, {worker}": partial(rate, partial(theirs, worker)) for worker in WORKERS}
    if len(names) < 10:
        contenders |= {f"chunks, {worker}": partial(rate, partial(in_chunks, worker)) for worker in WORKERS}
    ratio = _against_the_best(name, partial(rate, partial(fetch_tree, location)), contenders)
    _empty(bucket)
    return ratio


def _up(name: str, client: storage.Client, files: Path) -> Ratio:
    """Ours is a whole publication: SHA-256 of every file, the marker, the manifest."""
    names = _parts(files)
    total = sum((files / each).stat().st_size for each in names)

    def rate(upload: Callable[[storage.Bucket], object]) -> float:
        bucket = client.create_bucket(f"bench-{uuid4().hex[:8]}")
        took = seconds(lambda: upload(bucket))
        sizes = [blob.size for blob in bucket.list_blobs(prefix="files/") if "/part-" in blob.name]
        assert len(sizes) == len(names)
        assert sum(sizes) == total
        _empty(bucket)
        return total / MEGABYTE / took

    def ours(bucket: storage.Bucket) -> None:
        with Publication(Location("gs", bucket.name, "files"), FILES) as publication:
            publication.publish(files)

    def theirs(worker: str, bucket: storage.Bucket) -> None:
        transfer_manager.upload_many_from_filenames(
            bucket, names, source_directory=str(files), blob_name_prefix="files/", worker_type=worker,
            raise_exception=True,
        )  # fmt: skip

    contenders = {f"upload_many, {worker}": partial(rate, partial(theirs, worker)) for worker in WORKERS}
    return _against_the_best(name, partial(rate, ours), contenders)


def _against_the_best(name: str, ours: Callable[[], float], theirs: Mapping[str, Callable[[], float]]) -> Ratio:
    """Each once to warm up, then rounds in turn; held against the one of theirs that was fastest."""
    for each in (ours, *theirs.values()):
        each()
    mine: list[float] = []
    others: dict[str, list[float]] = {label: [] for label in theirs}
    for _ in range(ROUNDS):
        mine.append(ours())
        for label, each in theirs.items():
            others[label].append(each())
    best = max(others, key=lambda label: statistics.median(others[label]))
    return Ratio(f"{name}: ours / {best}", mine, others[best], "MB/s", "at least 1")


def _empty(bucket: storage.Bucket) -> None:
    """Give large objects' memory back to the server; small ones may stay."""
    for blob in bucket.list_blobs():
        if blob.size > MEGABYTE:
            blob.delete()
