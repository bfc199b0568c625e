"""A bucket's copy of spools: what is not delivered when a pod ends is there, whole, and never goes back."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from components.shared.errors import StorageRefusedError, StorageUnavailableError
from components.shared.events import bucket as module
from components.shared.events.bucket import EventsBucket
from components.shared.events.spool import Spool, events_in, spools_of
from components.shared.storage.location import Location, parse_location
from tests.peers.http_faults import Hold, LoseAnswer, Refuse
from tests.peers.object_store import Bucket
from tests.peers.s3 import S3Bucket
from tests.shared.events.sample_events import a_step
from tests.shared.events.transports import LOG, WAIT_S, add, advance, lines_of, targets, until
from tests.shared.events.transports import opened as opened_spool

FOLDER = "runs/7/events"
Opened = Callable[..., EventsBucket]
# What does not depend on the store.
one_store = pytest.mark.parametrize("bucket", ["gs"], indirect=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "SOON_S", "PROGRESS_S"):
        monkeypatch.setattr(module, name, 0.005)


def location_of(bucket: Bucket) -> Location:
    location = parse_location(f"{bucket.uri}/{FOLDER}")
    assert isinstance(location, Location)
    return location


@pytest.fixture
def opened(bucket: Bucket, tmp_path: Path) -> Iterator[Opened]:
    """One process's view of the bucket, with a directory of its own."""
    made: list[EventsBucket] = []

    def open_bucket(timeout_s: float = WAIT_S) -> EventsBucket:
        local = tmp_path / f"process-{len(made)}"
        made.append(EventsBucket(location_of(bucket), local, timeout_s=timeout_s, log=LOG))
        return made[-1]

    yield open_bucket
    bucket.faults.clear()
    for one in made:
        one.close(WAIT_S)


def there(bucket: Bucket) -> dict[str, bytes]:
    """What the bucket has, by the names of files."""
    return {name.removeprefix(f"{FOLDER}/"): data for name, data in bucket.objects(FOLDER).items()}


def begun(process: EventsBucket, step: str = "train", *, lines: list[bytes] | None = None) -> Spool:
    """A step's spool, kept in the bucket from now on."""
    spool = Spool.create(process.local, "run-1", step, process.claim("run-1", step, 0), targets("kafka"))
    add(spool, lines_of(3, step=step) if lines is None else lines)
    process.start(spool)
    return spool


def has(bucket: Bucket, name: str, data: bytes) -> bool:
    return there(bucket).get(name) == data


def delivered(bucket: Bucket, step: str = "train") -> int:
    ledger = json.loads(there(bucket)[f"run-1.{step}.0.delivery.json"])
    return int(ledger["targets"]["kafka"]["delivered"])


def test_what_a_step_leaves_the_next_one_finds(bucket: Bucket, opened: Opened, tmp_path: Path) -> None:
    first = opened()
    spool = begun(first)
    assert spool.path is not None
    advance(spool, 1)
    with spool.path.open("ab") as stream:
        stream.write(b'{"without its end')
    assert first.close(WAIT_S)
    spool.close()
    assert first.spool == f"{bucket.uri}/{FOLDER}/run-1.train.0.jsonl"
    assert there(bucket)["run-1.train.0.jsonl"] == b"".join(lines_of(3))
    # Of other runs, however they are called, and of other people.
    for name in ("run-1.x.train.0.jsonl", "run-2.train.0.jsonl", "run-1.notes.txt", "run-1.a/b.0.jsonl"):
        bucket.write(f"{FOLDER}/{name}", b"other\n")
    second = opened()
    (path,) = second.fetch("run-1")
    assert sorted(file.name for file in second.local.iterdir()) == ["run-1.train.0.delivery.json", path.name]
    assert list(events_in(second.local, "run-1")) == list(events_in(first.local, "run-1"))
    left = opened_spool(path)
    assert left.undelivered("kafka") == 2
    # What it delivers, a third one does not find any more.
    advance(left, left.count)
    left.close()
    assert second.close(WAIT_S)
    third = opened()
    left = opened_spool(third.fetch("run-1")[0])
    assert left.undelivered("kafka") == 0
    left.close()


def test_two_processes_never_get_the_same_attempt(bucket: Bucket, opened: Opened) -> None:
    bucket.write(f"{FOLDER}/run-1.train.1.jsonl", b"another attempt's\n")
    processes = [opened() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda process: process.claim("run-1", "train", 0), processes))
    assert sorted(taken) == [0, 2, 3, 4]
    assert there(bucket)["run-1.train.1.jsonl"] == b"another attempt's\n"
    assert opened().claim("run-1", "evaluate", 0) == 0


def test_a_claim_whose_answer_is_lost_is_ones_own(bucket: Bucket, opened: Opened) -> None:
    bucket.faults.inject(LoseAnswer(), "write")
    assert opened().claim("run-1", "train", 0) == 0
    assert opened().claim("run-1", "train", 0) == 1


def test_a_claim_that_another_process_made_meanwhile_is_not_ones_own(bucket: Bucket, opened: Opened) -> None:
    hold = Hold()
    bucket.faults.inject(Refuse(503), "write")
    bucket.faults.inject(hold, "write")  # the next attempt at it
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(opened().claim, "run-1", "train", 0)
        hold.reached.wait(WAIT_S)
        assert opened().claim("run-1", "train", 0) == 0
        hold.release.set()
        assert slow.result() == 1


def test_a_store_without_conditions_replaces_nothing(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    s3_bucket.write(f"{FOLDER}/run-1.train.0.jsonl", b"another attempt's\n")
    process = EventsBucket(location_of(s3_bucket), tmp_path, timeout_s=WAIT_S, log=LOG)
    refused = s3_bucket.faults.inject(Refuse(501), "write")
    assert process.claim("run-1", "train", 0) == 1
    assert refused.happened == 1
    assert there(s3_bucket)["run-1.train.0.jsonl"] == b"another attempt's\n"
    process.close(WAIT_S)


@one_store
def test_what_matters_is_put_at_once_and_progress_waits(
    bucket: Bucket, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRESS_S", WAIT_S)
    started, *progress, checkpoint, _ = [line + b"\n" for line in a_step("run-1")]
    process = opened()
    spool = Spool.create(process.local, "run-1", "train", process.claim("run-1", "train", 0), targets("kafka"))
    looks: list[int] = []

    class Watched:
        path = spool.path

        @property
        def milestones(self) -> int:
            looks.append(spool.milestones)
            return spool.milestones

    process.start(Watched())  # type: ignore[arg-type] # all that is asked of a spool
    add(spool, [started])
    until(lambda: has(bucket, "run-1.train.0.jsonl", started))
    before = len(looks)
    until(lambda: len(looks) > before + 3)  # the first put may have begun before it counted the milestone
    add(spool, progress)
    before = len(looks)
    until(lambda: len(looks) > before + 3)
    assert there(bucket)["run-1.train.0.jsonl"] == started
    add(spool, [checkpoint])
    until(lambda: has(bucket, "run-1.train.0.jsonl", b"".join([started, *progress, checkpoint])))
    spool.close()


@one_store
def test_a_spool_that_has_grown_is_fetched_again_and_ones_own_never(bucket: Bucket, opened: Opened) -> None:
    running, looking = opened(), opened()
    spool = begun(running, lines=[])
    looking.fetch("run-1")
    assert [path.name for path in spools_of(looking.local, "run-1")] == ["run-1.train.0.jsonl"]
    assert list(events_in(looking.local, "run-1")) == []
    # Another view of the process's own directory: the bucket has the claim, the spool has not a line yet.
    EventsBucket(location_of(bucket), running.local, timeout_s=WAIT_S, log=LOG).fetch("run-1")
    for count in (2, 5):
        lines = lines_of(5)[:count]
        add(spool, lines[spool.count :])
        until(partial(has, bucket, "run-1.train.0.jsonl", b"".join(lines)))
        looking.fetch("run-1")
        assert len(list(events_in(looking.local, "run-1"))) == count
    spool.close()


@one_store
def test_a_spool_is_never_there_without_its_ledger(bucket: Bucket, opened: Opened) -> None:
    process, hold = opened(), Hold()
    bucket.faults.inject(hold, "write", r"delivery\.json")
    spool = begun(process)
    hold.reached.wait(WAIT_S)
    assert b"\n" not in there(bucket)["run-1.train.0.jsonl"]  # a claim, of which a replay takes no notice
    hold.release.set()
    assert process.close(WAIT_S)
    spool.close()
    assert there(bucket)["run-1.train.0.jsonl"] == b"".join(lines_of(3))


@one_store
def test_a_damaged_ledger_costs_no_event(bucket: Bucket, opened: Opened) -> None:
    bucket.write(f"{FOLDER}/run-1.train.0.jsonl", b"".join(lines_of(3)))
    bucket.write(f"{FOLDER}/run-1.train.0.delivery.json", b'{"targets": {"kafka": ')
    process = opened()
    left = opened_spool(process.fetch("run-1")[0])
    left.targets = {"kafka": {"topic": "status", "delivered": 0}}
    assert left.undelivered("kafka") == 3
    advance(left, left.count)
    left.close()
    process.put_ledgers()
    assert delivered(bucket) == len(b"".join(lines_of(3)))


@one_store
def test_a_spool_that_is_too_large_is_passed_over(
    bucket: Bucket, opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LARGEST_SPOOL", 1 << 20)
    bucket.write(f"{FOLDER}/run-1.train.0.jsonl", b"x" * (3 << 20))
    bucket.write(f"{FOLDER}/run-1.train.1.jsonl", b"".join(lines_of(3)))
    assert [path.name for path in opened().fetch("run-1")] == ["run-1.train.1.jsonl"]
    assert "run-1.train.0.jsonl is passed over: it has 3 MB, and a spool has at most 1" in caplog.text


def test_a_bucket_that_is_not_there_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    location = Location(location_of(bucket).scheme, "no-such-bucket-here", "events")
    process = EventsBucket(location, tmp_path, timeout_s=WAIT_S, log=LOG)
    for refused in (lambda: process.fetch("run-1"), lambda: process.claim("run-1", "train", 0)):
        with pytest.raises(StorageRefusedError, match="there is no bucket no-such-bucket-here") as caught:
            refused()
        assert caught.value.exit_code == 2
    process.close(WAIT_S)


def test_a_bucket_that_may_not_be_written_is_refused(bucket: Bucket, opened: Opened) -> None:
    bucket.faults.inject(Refuse(403), "write", times=None)
    process = opened()
    process.fetch("run-1")
    with pytest.raises(StorageRefusedError, match="forbidden"):
        process.claim("run-1", "train", 0)


@one_store
def test_a_store_that_is_away_is_told_once_and_has_everything_when_it_is_back(
    bucket: Bucket, opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bucket.write(f"{FOLDER}/run-1.train.0.jsonl", b"another attempt's\n")
    bucket.faults.inject(Refuse(503), times=None)
    process = opened(0.2)
    for unavailable in (lambda: process.fetch("run-1"), lambda: process.claim("run-1", "train", 0)):
        with pytest.raises(
            StorageUnavailableError, match=r"events in .*/runs/7/events: (the store answers 503|no answer)"
        ):
            unavailable()
    bucket.faults.clear()
    # The caller has told it; the spool has a name that another attempt's may have in the bucket.
    spool = Spool.create(process.local, "run-1", "train", 0, targets("kafka"))
    process.start(spool)
    until(lambda: "are kept in" in caplog.text)
    assert process.spool == f"{bucket.uri}/{FOLDER}/run-1.train.1.jsonl"
    bucket.faults.inject(Refuse(503), times=None)
    add(spool, lines_of(3))
    until(lambda: "cannot be kept in" in caplog.text)
    before = len(bucket.faults.exchanges)
    until(lambda: len(bucket.faults.exchanges) > before + 5)
    bucket.faults.clear()
    assert process.close(WAIT_S)
    spool.close()
    assert there(bucket)["run-1.train.0.jsonl"] == b"another attempt's\n"
    assert there(bucket)["run-1.train.1.jsonl"] == b"".join(lines_of(3))
    told = [record.getMessage() for record in caplog.records if record.name == LOG.name]
    where = f"{bucket.uri}/{FOLDER}"
    assert [line.partition(where)[0] for line in told] == [
        "events are kept in ",
        "events cannot be kept in ",
        "events are kept in ",
    ]
    assert "the store answers 503" in told[1]
    assert told[1].endswith("; what is not delivered when the pod ends is lost")


@one_store
def test_a_store_that_hangs_is_not_waited_for(bucket: Bucket, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    process = opened()
    spool = begun(process)
    hold = Hold()
    until(lambda: "run-1.train.0.delivery.json" in there(bucket))
    bucket.faults.inject(hold, "write", times=None)
    add(spool, lines_of(1))
    hold.reached.wait(WAIT_S)
    assert not process.close(0.05)
    spool.close()
    assert "the store does not answer within 0.05 s; what is not delivered when the pod ends is lost" in caplog.text
    with pytest.raises(StorageUnavailableError, match=r"events in .*(no|not) answer"):
        opened(0.05).claim("run-1", "evaluate", 0)


@one_store
def test_whatever_goes_wrong_ends_nothing(bucket: Bucket, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    process = opened()
    spool = begun(process)
    assert spool.path is not None
    spool.path.unlink()
    until(lambda: "cannot be kept" in caplog.text)
    assert f"{spool.path}: No such file or directory" in caplog.text
    assert not process.close(WAIT_S)
    spool.close()


def test_credentials_that_params_name_stay_out_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    location, file = Location("gs", "bucket", "events"), tmp_path / "key.json"
    file.write_text('{"type": "service_account"}')
    process = EventsBucket(location, tmp_path, timeout_s=WAIT_S, log=LOG, credentials=str(file))
    with pytest.raises(StorageRefusedError, match="gs://bucket/events: no credentials: ") as caught:
        process.fetch("run-1")
    assert "client_email" in str(caught.value)
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ
