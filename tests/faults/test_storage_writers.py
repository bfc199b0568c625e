"""Several writers, and readers meanwhile: a whole artifact of one of them, or none; never a mixture."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from components.shared import errors
from components.shared.errors import ShutterlineError, StorageRefusedError, StorageUnavailableError
from components.shared.storage.location import Location
from tests.faults.storage import (
    Source,
    Worker,
    assert_stored,
    fetch,
    judge,
    located,
    opened,
    publish,
    read,
    requests_of,
)
from tests.peers.http_faults import Hold
from tests.peers.object_store import Bucket

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together

ROUNDS = 5


def result_of(work: Callable[[], object]) -> ShutterlineError | None:
    try:
        work()
    except ShutterlineError as error:
        return error
    return None


def test_a_second_writer_between_any_two_requests_of_the_first(
    bucket: Bucket, sources: tuple[Source, Source], earlier: Source, tmp_path: Path
) -> None:
    a, b = sources
    count = requests_of_publishing_over(bucket, earlier, a)
    assert count > len(a.files)
    taken_over = 0
    for number in range(count):
        location = located(f"{bucket.uri}/round-{number}")
        publish(earlier, location)
        results = second_writer_at(number, bucket, location, a, b)
        assert results["b"] is None, "the first stands still: the second takes over"
        judge(results, {"a": a, "b": b}, location, tmp_path / str(number))
        taken_over += results["a"] is not None
    assert taken_over >= len(a.files), "once it has claimed, the first is told"


def test_the_same_where_the_second_writes_what_was_there_before(
    bucket: Bucket, sources: tuple[Source, Source], tmp_path: Path
) -> None:
    """Versions in S3 are checksums: the same bytes again are the same version, for a late write of the first too."""
    a, b = sources
    for number in range(requests_of_publishing_over(bucket, b, a)):
        location = located(f"{bucket.uri}/round-{number}")
        publish(b, location)
        results = second_writer_at(number, bucket, location, a, b)
        if location.scheme == "gs":
            judge(results, {"a": a, "b": b}, location, tmp_path / str(number))
            continue
        try:
            read(location, tmp_path / str(number), a, b)
        except StorageUnavailableError:
            assert opened(tmp_path / str(number), a, b) is None


def requests_of_publishing_over(bucket: Bucket, earlier: Source, source: Source) -> int:
    location = located(f"{bucket.uri}/first")
    publish(earlier, location)
    return requests_of(bucket, lambda: publish(source, location))


def second_writer_at(
    number: int, bucket: Bucket, location: Location, first: Source, second: Source
) -> dict[str, ShutterlineError | None]:
    """Hold one request of a first writer for as long as a second one takes; what became of both."""
    hold = Hold()
    bucket.faults.inject(hold, skip=number)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(result_of, partial(publish, first, location))
        assert hold.reached.wait(30), f"request {number}"
        second_result = result_of(partial(publish, second, location))
        hold.release.set()
        results = {"a": writing.result(), "b": second_result}
    bucket.faults.clear()
    return results


def test_two_processes_write_at_once(
    bucket: Bucket, location: Location, sources: tuple[Source, Source], tmp_path: Path
) -> None:
    both = dict(zip("ab", sources, strict=True))
    refused = 0
    with Worker() as one, Worker() as other:
        workers = {"a": one, "b": other}
        for number in range(ROUNDS):
            for name in sorted(workers, reverse=bool(number % 2)):
                workers[name].begin("publish", location, both[name].path, bucket.environment)
            results: dict[str, ShutterlineError | None] = {}
            for name, worker in workers.items():
                said = worker.result()
                assert said is not None
                assert said["error"] != "unexpected", said["message"]
                results[name] = getattr(errors, said["error"])(said["message"]) if said["error"] else None
            judge(results, both, location, tmp_path / str(number))
            refused += sum(error is not None for error in results.values())
    assert refused > 0, "some met"


def test_many_writers_and_the_last_one_alone(
    bucket: Bucket, location: Location, sources: tuple[Source, Source], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda number: result_of(lambda: publish(sources[number % 2], location)), range(6)))
    assert all(error is None or isinstance(error, StorageRefusedError) for error in results)
    # One of them alone does not know what an overtaken one of the other's had on the way when the last one committed.
    publish(sources[1], location)
    publish(sources[0], location)
    assert_stored(bucket, location, sources[0])


def test_a_reader_between_any_two_requests_of_a_writer(
    bucket: Bucket, sources: tuple[Source, Source], tmp_path: Path
) -> None:
    a, b = sources
    first = located(f"{bucket.uri}/first")
    publish(a, first)
    count = requests_of(bucket, lambda: publish(b, first))
    seen: list[Source | None] = []
    location = located(f"{bucket.uri}/dataset")
    publish(a, location)
    for number in range(count):
        old, new = (a, b) if number % 2 == 0 else (b, a)
        hold = Hold()
        bucket.faults.inject(hold, skip=number)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(publish, new, location)
            assert hold.reached.wait(30), f"request {number} of {count}"
            found = read(location, tmp_path / str(number), old, new)
            hold.release.set()
            writing.result()
        seen.append(None if isinstance(found, StorageRefusedError) else found)
        if number == 0:
            assert found is old, "nothing has happened yet"
        bucket.faults.clear()
        after = read(location, tmp_path / f"{number}-after", new)
        assert after is new
    assert None not in seen, "the earlier artifact is there until the new one is"


def test_a_writer_between_any_two_requests_of_a_reader(
    bucket: Bucket, location: Location, sources: tuple[Source, Source], tmp_path: Path
) -> None:
    a, b = sources
    publish(a, location)
    count = requests_of(bucket, lambda: fetch(location, tmp_path / "first"))
    assert count >= len(a.files)
    for number in range(count):
        old, new = (a, b) if number % 2 == 0 else (b, a)
        hold = Hold()
        bucket.faults.inject(hold, skip=number)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, location, tmp_path / str(number), old, new)
            assert hold.reached.wait(30), f"request {number} of {count}"
            publish(new, location)
            hold.release.set()
            found = reading.result()
        assert found in (old, new), "the reader starts again when what it reads is replaced"
        bucket.faults.clear()
