from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import ANY

import pytest

from components.shared.errors import InputError, StorageRefusedError
from components.shared.storage.fetch import fetch_artifact, fetch_tree
from components.shared.storage.location import Location
from components.shared.storage.publish import write_file
from components.shared.storage.transfer import Transfer, TransferProgress
from tests.peers.gcs import GcsBucket
from tests.peers.object_store import Bucket
from tests.peers.s3 import S3Bucket
from tests.shared.storage.conftest import BOX, LARGE, at, box, publish, tree

SIZES = {"small.bin": 1_000, "empty": 0, "folder/medium.bin": 300_000, "large.bin": LARGE}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return box(tmp_path_factory.mktemp("source") / "box", 1, SIZES)


def test_only_what_is_wanted_is_fetched(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    publish(bucket, source)
    bucket.faults.clear()

    fetched = fetch_artifact(at(bucket), BOX, tmp_path, wanted=lambda manifest: [manifest.parts["small.bin"]])

    assert fetched == tmp_path
    assert tree(tmp_path) == {name: tree(source)[name] for name in ("small.bin", "box.json")}
    assert bucket.faults.bytes_read("large") == 0


def test_what_is_there_is_not_fetched_again(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    publish(bucket, source)
    fetch_artifact(at(bucket), BOX, tmp_path)
    (tmp_path / "small.bin").write_bytes(bytes(1_000))  # of the right size, and wrong
    (tmp_path / "folder/medium.bin").unlink()
    bucket.faults.clear()

    fetch_artifact(at(bucket), BOX, tmp_path)

    assert tree(tmp_path) == tree(source)
    read = {
        exchange.name.removeprefix("runs/7/box/").partition("/")[2]
        for exchange in bucket.faults.exchanges
        if exchange.bytes_out > 0
    }
    assert {"small.bin", "folder/medium.bin"} <= read
    assert "large.bin" not in read


def test_a_newer_artifact_takes_the_place_of_one_fetched_before(bucket: Bucket, tmp_path: Path) -> None:
    publish(bucket, box(tmp_path / "1", 1, {"a": 100, "b": 100}))
    fetch_artifact(at(bucket), BOX, tmp_path / "fetched")
    newer = box(tmp_path / "2", 2, {"a": 100, "b": 100})
    publish(bucket, newer)

    fetch_artifact(at(bucket), BOX, tmp_path / "fetched")

    assert tree(tmp_path / "fetched") == tree(newer)


def test_what_others_uploaded_is_an_artifact_too(bucket: Bucket, tmp_path: Path) -> None:
    source = box(tmp_path / "source", 3, {"a": 10, "b/c": 20})
    for name, data in tree(source).items():
        bucket.write(f"copied/{name}", data)
    bucket.write("copied/", b"")  # a folder, as consoles make them

    assert tree(fetch_artifact(at(bucket, "copied"), BOX, tmp_path / "fetched")) == tree(source)


def test_a_tree_keeps_its_names(bucket: Bucket, tmp_path: Path) -> None:
    objects = {"raw/a.png": b"a", "raw/cats/größe 1+%&?#.png": b"b", "raw/cats/": b"", "raw/empty": b""}
    for name, data in {**objects, "rawer": b"no", "other/x": b"no"}.items():
        bucket.write(name, data)

    assert fetch_tree(at(bucket, "raw"), tmp_path / "raw") == tmp_path / "raw"

    expected = {name.removeprefix("raw/"): data for name, data in objects.items() if not name.endswith("/")}
    assert tree(tmp_path / "raw") == expected
    assert fetch_tree(at(bucket, "raw/a.png"), tmp_path / "one") == tmp_path / "one" / "a.png"
    assert tree(tmp_path / "one") == {"a.png": b"a"}


@pytest.mark.parametrize("name", ["raw/../../outside", "raw//absolute", "raw/a/./b", "raw/fine/below"])
def test_a_name_that_can_be_no_file_here_is_refused(gcs_bucket: GcsBucket, tmp_path: Path, name: str) -> None:
    gcs_bucket.write("raw/fine", b"fine")
    gcs_bucket.write(name, b"evil")
    with pytest.raises(StorageRefusedError, match="cannot become a file"):
        fetch_tree(at(gcs_bucket, "raw"), tmp_path / "raw")
    assert tree(tmp_path) == {}


def test_an_object_without_a_checksum_of_the_whole(s3_bucket: S3Bucket, tmp_path: Path, source: Path) -> None:
    # It goes in parts, and has no MD5.
    write_file(at(s3_bucket, "files/large.bin"), source / "large.bin")
    (tmp_path / "large.bin").write_bytes(bytes(LARGE))  # of the right size, and wrong

    fetch_tree(at(s3_bucket, "files"), tmp_path)

    assert (tmp_path / "large.bin").read_bytes() == (source / "large.bin").read_bytes()


def test_nothing_there(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(StorageRefusedError, match=f"{bucket.uri}/runs/7/box: nothing is there"):
        fetch_artifact(at(bucket), BOX, tmp_path / "x")
    with pytest.raises(StorageRefusedError, match=f"{bucket.uri}/runs/7/box: nothing is there"):
        fetch_tree(at(bucket), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_no_such_bucket(bucket: Bucket, tmp_path: Path) -> None:
    nowhere = Location(at(bucket).scheme, "no-such-bucket-here", "a")
    with pytest.raises(StorageRefusedError, match=r"-here/a: there is no bucket no-such-bucket-here"):
        fetch_artifact(nowhere, BOX, tmp_path)
    with pytest.raises(StorageRefusedError, match=r"-here/a: there is no bucket no-such-bucket-here"):
        fetch_tree(nowhere, tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"{", "/box.json: is not JSON"),
        (b'{"schema_version": 9}', "/box.json: has schema_version 9"),
        (None, ": is no complete box: box.json, which is written last, is missing"),
    ],
)
def test_a_damaged_manifest_is_told_of_with_its_uri(
    gcs_bucket: GcsBucket, tmp_path: Path, manifest: bytes | None, message: str
) -> None:
    gcs_bucket.write("runs/7/box/a", b"1")
    if manifest is not None:
        gcs_bucket.write("runs/7/box/box.json", manifest)
    with pytest.raises(StorageRefusedError, match=f"^{gcs_bucket.uri}/runs/7/box{message}"):
        fetch_artifact(at(gcs_bucket), BOX, tmp_path)


def test_a_file_that_is_missing_or_of_another_size(bucket: Bucket, tmp_path: Path) -> None:
    for name, data in tree(box(tmp_path / "source", 1, {"a": 10, "b": 10})).items():
        bucket.write(f"runs/7/box/{name}", data)
    bucket.write("runs/7/box/a", b"short")
    with pytest.raises(StorageRefusedError, match=r"/a: has 5 bytes, not 10, though box.json names it"):
        fetch_artifact(at(bucket), BOX, tmp_path / "x")
    bucket.delete("runs/7/box/a")
    with pytest.raises(StorageRefusedError, match=r"/a: is missing, though box.json names it"):
        fetch_artifact(at(bucket), BOX, tmp_path / "x")
    assert not (tmp_path / "x/box.json").exists()


def test_who_comes_second_waits_and_finds_it_there(gcs_bucket: GcsBucket, tmp_path: Path, source: Path) -> None:
    publish(gcs_bucket, source)
    gcs_bucket.faults.clear()
    into = tmp_path / "shared"

    def fetch(_: int) -> Path:
        return fetch_artifact(at(gcs_bucket), BOX, into)

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(fetch, range(4))) == {into}
    for name in SIZES:
        assert (into / name).read_bytes() == (source / name).read_bytes()
        assert gcs_bucket.faults.bytes_read(name) <= SIZES[name]


def test_what_storage_no_longer_has_goes_where_the_fetch_may(bucket: Bucket, tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        bucket.write(f"images/{name}", name.encode())
    where, into = at(bucket, "images"), tmp_path / "images"
    fetch_tree(where, into, mirror=True)
    bucket.delete("images/a/2.png")
    bucket.delete("images/b/1.png")
    fetch_tree(where, into)
    assert (into / "b" / "1.png").exists()
    fetch_tree(where, into, mirror=True)
    assert sorted(path.relative_to(into).as_posix() for path in into.rglob("*")) == ["a", "a/1.png"]


def test_progress_ends_with_all(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    publish(bucket, source)
    told: list[TransferProgress] = []
    fetch_artifact(at(bucket), BOX, tmp_path, progress=told.append)
    total = sum(SIZES.values())
    assert told[-1] == TransferProgress(total, total, len(SIZES), len(SIZES), ANY)
    assert told[-1].bytes_per_second > 0


@pytest.mark.parametrize("text", ["soon", "-1", "0", "inf", "nan"])
def test_patience_that_is_none(
    gcs_bucket: GcsBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", text)
    with pytest.raises(InputError, match="SHUTTERLINE_STORAGE_TIMEOUT: must be a number of seconds above 0"):
        fetch_tree(at(gcs_bucket), tmp_path)


def test_an_error_between_tasks_is_an_error_of_the_transfer() -> None:
    done = []

    def tasks() -> Iterator[Callable[[], None]]:
        yield lambda: done.append(1)
        raise OSError(28, "No space left on device", "x.part")

    with pytest.raises(OSError, match="No space left on device"):
        Transfer().run_all(tasks())
