"""Storage that fails, row by row: never a half artifact that opens, never a wrong byte, always a clear error."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.shared.errors import StorageRefusedError, StorageUnavailableError
from components.shared.storage.fetch import fetch_tree
from components.shared.storage.location import Location
from tests.faults.disks import small_file_system
from tests.faults.storage import (
    LARGE_FILE,
    Source,
    assert_stored,
    contents_of,
    digests,
    fetch,
    key_of,
    located,
    message_of,
    opened,
    publish,
    read,
    requests_of,
)
from tests.peers.http_faults import (
    CutAnswer,
    CutRequest,
    Effect,
    FlipAnswerByte,
    FlipRequestByte,
    Hold,
    LoseAnswer,
    Refuse,
)
from tests.peers.object_store import Bucket
from tests.peers.ports import claim_port

pytestmark = pytest.mark.slow  # 90 s together

BURSTS = {
    "503": (Refuse(503), 4),
    "429": (Refuse(429), 4),
    "429 with Retry-After": (Refuse(429, retry_after=1), 1),
    "500": (Refuse(500), 2),
}


# Connections that break.


def test_a_download_that_is_cut_goes_on_where_it_was(
    bucket: Bucket, location: Location, large_source: Source, tmp_path: Path
) -> None:
    publish(large_source, location)
    size = large_source.bytes_of(LARGE_FILE)
    cut = bucket.faults.inject(CutAnswer(2_000_000), "read", LARGE_FILE, times=4)

    fetch(location, tmp_path)

    assert cut.happened == 4
    assert digests(tmp_path) == large_source.files
    # What a client has not read yet when a connection breaks is lost, and a megabyte of it is generous.
    assert bucket.faults.bytes_read(LARGE_FILE) < size + 4 * 2**20


def test_an_upload_that_is_cut(bucket: Bucket, location: Location, large_source: Source, tmp_path: Path) -> None:
    cut = bucket.faults.inject(CutRequest(3_000_000), "write", LARGE_FILE, times=3)

    publish(large_source, location)

    assert cut.happened == 3
    assert_stored(bucket, location, large_source)
    assert digests(fetch(location, tmp_path)) == large_source.files


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_not_there(
    bucket: Bucket, location: Location, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"http://127.0.0.1:{claim_port()}"
    for variable in {"STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL"} & set(bucket.environment):
        monkeypatch.setenv(variable, nobody)
    with pytest.raises(StorageUnavailableError) as caught:
        fetch(location, tmp_path)
    message_of(caught.value, str(location), "connect")
    with pytest.raises(StorageUnavailableError) as caught:
        publish(source, location)
    message_of(caught.value, str(location), "connect")


# What fails every time.


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("effect", "words"),
    [(Hold, ("answer", "time")), (lambda: Refuse(503), ("503",)), (lambda: FlipAnswerByte(5), ("sha-256", "checksum"))],
    ids=["never", "503", "wrong bytes"],
)
def test_a_fetch_that_fails_every_time(
    bucket: Bucket,
    location: Location,
    source: Source,
    tmp_path: Path,
    effect: Callable[[], Effect],
    words: tuple[str, ...],
) -> None:
    publish(source, location)
    for attempt, where in ((fetch, location), (fetch_tree, contents_of(location, source))):
        into = tmp_path / attempt.__name__
        failed = bucket.faults.inject(effect(), "read", LARGE_FILE, times=None)
        with pytest.raises(StorageUnavailableError) as caught:
            attempt(where, into)
        message_of(caught.value, str(location), LARGE_FILE, (*words, "crc32c", "md5"))
        assert failed.happened > 0
        assert opened(into) is None
        assert not (into / LARGE_FILE).exists()
        bucket.faults.clear()
    fetch(location, tmp_path / "fetch")
    assert opened(tmp_path / "fetch", source) is source, "the next try goes on"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "effect", [Hold, lambda: Refuse(503), lambda: FlipRequestByte(-200)], ids=["never", "503", "wrong bytes"]
)
def test_an_upload_that_fails_every_time(
    bucket: Bucket, location: Location, large_source: Source, tmp_path: Path, effect: Callable[[], Effect]
) -> None:
    failed = bucket.faults.inject(effect(), "write", LARGE_FILE, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        publish(large_source, location)
    message_of(caught.value, str(location), LARGE_FILE)
    assert failed.happened > 0
    bucket.faults.clear()
    assert isinstance(read(location, tmp_path), StorageRefusedError)


# A store that refuses for a while.


@pytest.mark.parametrize(("effect", "times"), BURSTS.values(), ids=BURSTS)
def test_bursts_of_refusals(
    bucket: Bucket, location: Location, source: Source, tmp_path: Path, effect: Refuse, times: int
) -> None:
    up = bucket.faults.inject(effect, "write", times=times)
    publish(source, location)
    assert up.happened == times
    assert_stored(bucket, location, source)

    down = bucket.faults.inject(effect, "read", times=times)
    fetch(location, tmp_path)
    assert down.happened == times
    assert digests(tmp_path) == source.files


# Wrong bytes.


@pytest.mark.parametrize("at", [5, -5])
def test_a_byte_that_changes_on_the_way_down(
    bucket: Bucket, location: Location, source: Source, tmp_path: Path, at: int
) -> None:
    publish(source, location)
    flipped = [bucket.faults.inject(FlipAnswerByte(at), "read", name) for name in (LARGE_FILE, "dataset.json")]
    fetch(location, tmp_path / "artifact")
    assert [fault.happened for fault in flipped] == [1, 1]
    assert digests(tmp_path / "artifact") == source.files

    fault = bucket.faults.inject(FlipAnswerByte(at), "read", LARGE_FILE)
    fetch_tree(contents_of(location, source), tmp_path / "tree")
    assert fault.happened == 1
    assert digests(tmp_path / "tree") == source.files, "the store's own checksums are held against it"


def test_a_byte_that_changes_in_one_of_many_ranges(
    bucket: Bucket, location: Location, large_source: Source, tmp_path: Path
) -> None:
    publish(large_source, location)
    flipped = bucket.faults.inject(FlipAnswerByte(1_000), "read", LARGE_FILE)
    fetch(location, tmp_path)
    assert flipped.happened == 1
    assert digests(tmp_path) == large_source.files


@pytest.mark.usefixtures("impatient")
def test_an_object_that_was_changed_in_the_store(
    bucket: Bucket, location: Location, source: Source, tmp_path: Path
) -> None:
    publish(source, location)
    data = bytearray((source.path / LARGE_FILE).read_bytes())
    data[-1] ^= 1
    bucket.write(key_of(location, source, LARGE_FILE), bytes(data))
    with pytest.raises((StorageRefusedError, StorageUnavailableError)) as caught:
        fetch(location, tmp_path)
    message_of(caught.value, str(location), LARGE_FILE, "sha-256")
    assert opened(tmp_path) is None


@pytest.mark.parametrize("name", [LARGE_FILE, "dataset.json"])
def test_a_byte_that_changes_on_the_way_up(bucket: Bucket, source: Source, large_source: Source, name: str) -> None:
    for number, each in enumerate((source, large_source)):  # in one request, and resumably or in parts
        location = located(f"{bucket.uri}/datasets/{number}")
        flipped = bucket.faults.inject(FlipRequestByte(-200), "write", name)
        publish(each, location)
        assert flipped.happened == 1
        assert_stored(bucket, location, each)


# Answers that are lost after the store has done the work.


def test_the_answer_to_any_request_of_a_publication_is_lost(bucket: Bucket, source: Source) -> None:
    lose_every_answer(bucket, source, source)


def test_the_answer_to_any_request_of_a_large_publication_is_lost(
    bucket: Bucket, source: Source, large_source: Source
) -> None:
    lose_every_answer(bucket, source, large_source)


def lose_every_answer(bucket: Bucket, earlier: Source, source: Source) -> None:
    """Publish over an earlier artifact, as often as that takes requests; each time another answer is lost."""
    first = located(f"{bucket.uri}/first")
    publish(earlier, first)
    count = requests_of(bucket, lambda: publish(source, first))
    assert count > len(source.files)
    location = located(f"{bucket.uri}/again")
    for number in range(count):
        publish(earlier, location)
        lost = bucket.faults.inject(LoseAnswer(), skip=number)
        publish(source, location)
        assert lost.happened == 1, f"request {number} of {count}"
        assert_stored(bucket, location, source)
        bucket.faults.clear()


def test_the_answer_to_any_request_of_a_fetch_is_lost(
    bucket: Bucket, location: Location, source: Source, tmp_path: Path
) -> None:
    publish(source, location)
    count = requests_of(bucket, lambda: fetch(location, tmp_path / "first"))
    assert count >= len(source.files)
    for number in range(count):
        lost = bucket.faults.inject(LoseAnswer(), skip=number)
        fetch(location, tmp_path / str(number))
        assert lost.happened == 1
        assert digests(tmp_path / str(number)) == source.files
        bucket.faults.clear()


# The disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that does not hold the dataset of 250 KB."""
    with small_file_system(tmp_path / "disk", "128k") as disk:
        yield disk


def test_disk_full_and_larger_again(bucket: Bucket, location: Location, source: Source, small_disk: Path) -> None:
    publish(source, location)
    for attempt, where in ((fetch, location), (fetch_tree, contents_of(location, source))):
        into = small_disk / attempt.__name__
        with pytest.raises(OSError, match="No space left") as caught:
            attempt(where, into)
        assert caught.value.errno == errno.ENOSPC
        assert str(caught.value.filename).startswith(str(into)), "it names the file"
        assert opened(into) is None
        assert not (into / LARGE_FILE).exists()

        subprocess.run(["/bin/mount", "-o", "remount,size=20m", small_disk], check=True)
        attempt(where, into)
        assert digests(into) == source.files
        for file in source.files:
            (into / file).unlink()
        subprocess.run(["/bin/mount", "-o", "remount,size=128k", small_disk], check=True)
