"""Datasets in a bucket that fails, and the one question: is what opens exactly one that was published?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from components.shared.artifacts.artifact import contents_folder
from components.shared.artifacts.dataset import DATASET, open_dataset
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.errors import ArtifactError, ShutterlineError, StorageRefusedError
from components.shared.files import sha256_of
from components.shared.storage import download
from components.shared.storage.fetch import fetch_artifact
from components.shared.storage.location import Location, parse_location
from components.shared.storage.publish import Publication
from components.shared.storage.transfer import TIMEOUT_VARIABLE
from tests.peers.object_store import Bucket

LARGE_FILE = "train/images-00000.npy"
RANGE = 4 * 2**20
_SHAPE = (64, 64, 3)


@dataclass(frozen=True)
class Source:
    """A dataset directory as it was written."""

    path: Path
    files: dict[str, str]

    def bytes_of(self, name: str) -> int:
        return (self.path / name).stat().st_size


def write_source(path: Path, images: int, seed: int, *, validation: bool = False) -> Source:
    """A dataset of random images, 12 KiB each; with a validation split it has two files more."""
    generator = np.random.default_rng(seed)
    with DatasetWriter(path, ["cat", "dog"], _SHAPE) as writer:
        splits = {"train": images, "test": images // 8} | ({"validation": images // 8} if validation else {})
        for split, count in splits.items():
            pixels = generator.integers(0, 256, (count, *_SHAPE), dtype=np.uint8)
            writer.add(split, pixels, np.arange(count) % 2)  # type: ignore[arg-type] # the names are right
        writer.commit(source="random numbers", test_split="given", manual_seed=seed, unreadable=[])
    return Source(path, digests(path))


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Source]:
    """Two datasets of about 250 KB whose files bear the same names, and of which the second has two more."""
    folder = tmp_path_factory.mktemp("sources")
    return write_source(folder / "a", 16, 1), write_source(folder / "b", 24, 2, validation=True)


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A third, for what was there before."""
    return write_source(tmp_path_factory.mktemp("earlier") / "c", 8, 4)


@pytest.fixture
def source(sources: tuple[Source, Source]) -> Source:
    """The first of them."""
    return sources[0]


@pytest.fixture(scope="session")
def large_written(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_source(tmp_path_factory.mktemp("large") / "dataset", 1024, 3)


@pytest.fixture
def large_source(large_written: Source, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A dataset with a file of 12 MiB, which is fetched in ranges, made small for it, and written in parts."""
    monkeypatch.setattr(download, "RANGE", RANGE)
    return large_written


@pytest.fixture
def location(bucket: Bucket) -> Location:
    """Where the dataset goes."""
    return located(f"{bucket.uri}/datasets/7")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after two seconds without progress."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, "2")


def located(text: str) -> Location:
    found = parse_location(text)
    assert isinstance(found, Location)
    return found


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def publish(source: Source, location: Location) -> None:
    with Publication(location, DATASET) as publication:
        publication.publish(source.path)


def fetch(location: Location, into: Path) -> Path:
    return fetch_artifact(location, DATASET, into)


def opened(into: Path, *sources: Source) -> Source | None:
    """Which of the sources lies here, byte by byte; None if nothing opens. Anything else fails the test."""
    try:
        open_dataset(into)
    except ArtifactError:
        return None
    found = digests(into)
    same = [source for source in sources if {name: found.get(name) for name in source.files} == source.files]
    assert len(same) == 1, f"a mixture, or something never published, opens: {sorted(found)}"
    return same[0]


def assert_stored(bucket: Bucket, location: Location, source: Source) -> None:
    """The bucket holds this artifact, byte by byte, and nothing else below the location."""
    expected = {key_of(location, source, name): source.path / name for name in source.files}
    expected[f"{location.key}/dataset.json"] = source.path / "dataset.json"
    found = bucket.objects(f"{location.key}/")
    assert sorted(found) == sorted(expected)
    assert [key for key, file in expected.items() if found[key] != file.read_bytes()] == []


def contents_of(location: Location, source: Source) -> Location:
    """The folder of a published dataset's files."""
    return location.child(contents_folder((source.path / "dataset.json").read_bytes()))


def key_of(location: Location, source: Source, name: str) -> str:
    """The object of one of a published dataset's files."""
    return contents_of(location, source).child(name).key


def read(location: Location, into: Path, *sources: Source) -> Source | StorageRefusedError:
    """What a reader has of it now: a whole artifact or a clear refusal, and in that case nothing that opens."""
    refused = None
    try:
        fetch(location, into)
    except StorageRefusedError as error:
        refused = error
    if refused is not None:
        assert str(location) in str(refused), "the message names the place"
        assert opened(into) is None
        return refused
    found = opened(into, *sources)
    assert found is not None, "what was fetched opens"
    return found


def judge(
    results: Mapping[str, ShutterlineError | None], sources: Mapping[str, Source], location: Location, into: Path
) -> str:
    """Hold the outcome of several writers against what must always be."""
    for error in results.values():
        if error is not None:
            assert isinstance(error, StorageRefusedError), repr(error)
            assert str(location) in str(error)
            assert "taken over" in str(error) or "writers" in str(error), "it says that there is another one"
    winners = [name for name, error in results.items() if error is None]
    found = read(location, into, *sources.values())
    if not winners:
        assert isinstance(found, StorageRefusedError)
        return ""
    assert not isinstance(found, StorageRefusedError), f"{winners} published, and nothing is there: {found}"
    (whose,) = (name for name, source in sources.items() if source == found)
    assert whose in winners, "what opens is what somebody was told to have published"
    return whose


_WORKER = f"""
import json, os, sys, traceback
from pathlib import Path
import boto3, google.cloud.storage
import components.shared.storage.gcs, components.shared.storage.s3
from components.shared.artifacts.dataset import DATASET
from components.shared.errors import ShutterlineError
from components.shared.storage import download
from components.shared.storage.fetch import fetch_artifact
from components.shared.storage.location import parse_location
from components.shared.storage.publish import Publication

download.RANGE = {RANGE}

def say(what):
    os.write(1, (json.dumps(what) + "\\n").encode())

def work(verb, uri, folder, environment):
    os.environ.update(environment)
    say({{"begun": os.getpid()}})
    try:
        if verb == "fetch":
            fetch_artifact(parse_location(uri), DATASET, Path(folder))
        else:
            with Publication(parse_location(uri), DATASET) as publication:
                publication.publish(Path(folder))
    except ShutterlineError as error:
        say({{"error": type(error).__name__, "message": str(error)}})
    except BaseException:
        say({{"error": "unexpected", "message": traceback.format_exc()}})
    else:
        say({{"error": None}})

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        work(*json.loads(line))
        os._exit(0)
    os.waitpid(child, 0)
    say({{"ended": child}})
"""


class Worker:
    """A process that forks one for each order, so that a killed one need not import everything again."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()

    def begin(self, verb: str, location: Location, folder: Path, environment: Mapping[str, str]) -> int:
        """Start a ``fetch`` or a ``publish`` in a new process; returns its id once it is about to begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, str(location), str(folder), dict(environment)]) + "\n")
        begun = self._told()
        return int(begun["begun"])

    def result(self) -> dict[str, Any] | None:
        """Wait for its end: what it said, ``error`` and ``message``; None if it was killed before it could."""
        said: dict[str, Any] | None = None
        while "ended" not in (told := self._told()):
            said = told
        return said

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker has ended"
        told: dict[str, Any] = json.loads(line)
        return told


def kill(process: int) -> None:
    """SIGKILL, to one that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def requests_of(bucket: Bucket, work: Any) -> int:
    """How many requests some work makes."""
    bucket.faults.clear()
    work()
    count = len(bucket.faults.exchanges)
    bucket.faults.clear()
    return count


def message_of(error: BaseException, *words: str | Sequence[str]) -> str:
    """The message, which holds each of these words, or one of those that are given together; and is one line."""
    text = str(error)
    for word in words:
        choices = (word,) if isinstance(word, str) else word
        assert any(choice.lower() in text.lower() for choice in choices), f"{choices} not in: {text}"
    assert "\n" not in text
    assert "Traceback" not in text
    return text
