"""kill -9 of a publication and of a fetch at random moments: what opens is whole, and the next run puts it right."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from components.shared.errors import StorageRefusedError
from components.shared.storage.location import Location
from tests.faults.storage import (
    LARGE_FILE,
    Source,
    Worker,
    assert_stored,
    digests,
    fetch,
    kill,
    opened,
    publish,
    read,
    requests_of,
)
from tests.peers.http_faults import Hold, Slow
from tests.peers.object_store import Bucket

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together

KILLS = 6


def kill_at(moments: random.Random, count: int, bucket: Bucket, begin: Callable[[], int]) -> Hold:
    """Begin something in a process and kill it at one of its requests, before or after the store has done the work."""
    hold = Hold(answer=moments.random() < 0.5)
    bucket.faults.inject(hold, skip=moments.randrange(count))
    process = begin()
    assert hold.reached.wait(30), "it is under way"
    time.sleep(moments.uniform(0, 0.02))  # its other threads go on meanwhile
    kill(process)
    return hold


def test_a_publication_killed_at_random_moments(
    bucket: Bucket, location: Location, sources: tuple[Source, Source], tmp_path: Path
) -> None:
    moments = random.Random(6)  # noqa: S311 - moments, not secrets
    publish(sources[0], location)
    count = requests_of(bucket, lambda: publish(sources[1], location))
    states = []
    with Worker() as worker:
        for number in range(KILLS):
            new, old = sources if number % 2 == 0 else sources[::-1]
            begin = partial(worker.begin, "publish", location, new.path, bucket.environment)
            hold = kill_at(moments, count, bucket, begin)
            assert worker.result() is None
            if number % 3 == 0:
                hold.release.set()  # what the dead one asked for last comes now; otherwise after the next run
                bucket.faults.settle()

            found = read(location, tmp_path / f"{number}-between", old, new)
            states.append("none" if isinstance(found, StorageRefusedError) else ("new" if found is new else "old"))

            publish(new, location)
            bucket.faults.clear()
            bucket.faults.settle()
            assert_stored(bucket, location, new)
            assert read(location, tmp_path / f"{number}-after", new) is new
    assert "old" in states
    assert "none" not in states, "the earlier artifact is there until the new one is"


def test_a_fetch_killed_at_random_moments(bucket: Bucket, location: Location, source: Source, tmp_path: Path) -> None:
    moments = random.Random(7)  # noqa: S311
    publish(source, location)
    count = requests_of(bucket, lambda: fetch(location, tmp_path / "usual"))
    with Worker() as worker:
        for number in range(KILLS):
            into = tmp_path / str(number)
            kill_at(moments, count, bucket, partial(worker.begin, "fetch", location, into, bucket.environment))
            assert worker.result() is None
            assert opened(into, source) is None

            bucket.faults.clear()
            fetch(location, into)
            assert digests(into) == source.files, "whole, and no trace of the first try"


def test_a_killed_fetch_goes_on_where_it_was(
    bucket: Bucket, location: Location, large_source: Source, tmp_path: Path
) -> None:
    publish(large_source, location)
    whole = sum(large_source.bytes_of(name) for name in large_source.files)
    faults = bucket.faults
    faults.clear()
    # Most of it comes at its pace, and the rest too late.
    faults.inject(Slow(30), "read", LARGE_FILE, skip=2, times=None)
    with Worker() as worker:
        process = worker.begin("fetch", location, tmp_path, bucket.environment)
        while faults.bytes_read() < whole // 4:
            time.sleep(0.01)
        time.sleep(0.5)  # what was sent is written by then
        kill(process)
        assert worker.result() is None
    first = faults.bytes_read()
    assert opened(tmp_path) is None
    faults.clear()

    fetch(location, tmp_path)

    assert digests(tmp_path) == large_source.files
    assert 0 < faults.bytes_read() < whole - first // 2, f"of {whole} bytes {first} had come"
