"""Publishing to a bucket: whole or not at all and never replaced, whatever the store, other writers and signals do."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from components.publish.publish import PublishResult, publish
from components.publish.step import publish_staged
from components.shared.artifacts.model import MODEL, open_model
from components.shared.errors import ShutterlineError, StorageRefusedError, StorageUnavailableError
from components.shared.storage.fetch import fetch_artifact
from components.shared.storage.location import Location, parse_location
from components.shared.storage.store import connect
from components.shared.storage.transfer import TIMEOUT_VARIABLE, Transfer
from tests.evaluate.conftest import Parts, params_of
from tests.peers.http_faults import Hold, LoseAnswer, Refuse
from tests.peers.object_store import Bucket


def published(parts: Parts, bucket: Bucket) -> PublishResult:
    params = params_of(publish_uri=f"{bucket.uri}/models")
    return publish(model=parts.model, evaluation=parts.evaluation, params=params)


def version_of(parts: Parts, folder: Path) -> tuple[str, dict[str, bytes]]:
    """The version and its files, as a directory gets them."""
    params = params_of(publish_uri=str(folder))
    result = publish(model=parts.model, evaluation=parts.evaluation, params=params)
    root = folder / result.version
    return result.version, {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def objects(bucket: Bucket) -> dict[str, bytes]:
    return bucket.objects("models/")


def expected(parts: Parts, folder: Path) -> dict[str, bytes]:
    version, files = version_of(parts, folder)
    return {f"models/{version}/{name}": data for name, data in files.items()}


def assert_no_model(bucket: Bucket, version: str, into: Path) -> None:
    """Nothing there opens as a model."""
    location = parse_location(f"{bucket.uri}/models/{version}")
    assert isinstance(location, Location)
    with pytest.raises(StorageRefusedError, match=r"nothing is there|no complete model"):
        fetch_artifact(location, MODEL, into)


def test_a_version_in_a_bucket_is_that_of_a_directory_and_a_model(ready: Parts, bucket: Bucket, tmp_path: Path) -> None:
    result = published(ready, bucket)

    assert objects(bucket) == expected(ready, tmp_path / "here")
    assert result.published == f"{bucket.uri}/models/{result.version}"
    location = parse_location(result.published)
    assert isinstance(location, Location)
    fetched = fetch_artifact(location, MODEL, tmp_path / "fetched")
    assert open_model(fetched).manifest == open_model(ready.model).manifest

    bucket.faults.clear()
    assert not published(ready, bucket).is_new
    assert bucket.faults.count("write") == 0, "nothing is sent again"


def test_inputs_may_be_in_a_bucket_too(ready: Parts, bucket: Bucket, tmp_path: Path) -> None:
    first = published(ready, bucket)
    where = f"{bucket.uri}/models/{first.version}"
    params = params_of(publish_uri=str(tmp_path / "copies"))
    result = publish_staged(
        model=parse_location(where), evaluation=parse_location(f"{where}/evaluation"), params=params
    ).report()
    assert result["version"] == first.version, "the same content has the same name"


@pytest.mark.parametrize("name", ["model.json", "model.onnx", "SHA256SUMS", "evaluation/report.html"])
def test_what_else_is_there_is_never_replaced(ready: Parts, bucket: Bucket, tmp_path: Path, name: str) -> None:
    version, _ = version_of(ready, tmp_path)
    bucket.write(f"models/{version}/{name}", b"something else")

    with pytest.raises(StorageRefusedError, match=rf"{version}/{name}: holds something else, and is not replaced"):
        published(ready, bucket)
    assert bucket.read(f"models/{version}/{name}") == b"something else"
    if name != "model.json":
        assert_no_model(bucket, version, tmp_path / "fetched")


def test_a_foreign_object_in_the_version_is_refused(ready: Parts, bucket: Bucket, tmp_path: Path) -> None:
    version, _ = version_of(ready, tmp_path)
    bucket.write(f"models/{version}/more.txt", b"x")

    with pytest.raises(StorageRefusedError, match=r"more.txt: is no file of this version"):
        published(ready, bucket)
    assert list(objects(bucket)) == [f"models/{version}/more.txt"]


def test_publishers_at_once_all_succeed_and_leave_one_version(ready: Parts, bucket: Bucket, tmp_path: Path) -> None:
    results: list[PublishResult | ShutterlineError] = []

    def work() -> None:
        try:
            results.append(published(ready, bucket))
        except ShutterlineError as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [result for result in results if not isinstance(result, PublishResult)] == []
    assert objects(bucket) == expected(ready, tmp_path)


def test_lost_answers_and_refusals_for_a_while_change_nothing(ready: Parts, bucket: Bucket, tmp_path: Path) -> None:
    for effect in (LoseAnswer(), Refuse(503), LoseAnswer(), Refuse(429)):
        bucket.faults.inject(effect, "write", times=2)
    assert published(ready, bucket).is_new
    assert objects(bucket) == expected(ready, tmp_path)


def test_a_large_file_is_created_once(bucket: Bucket, tmp_path: Path) -> None:
    """Above what the stores take in one piece: 8 MiB."""
    location = parse_location(f"{bucket.uri}/large")
    assert isinstance(location, Location)
    file, other = tmp_path / "large", tmp_path / "other"
    file.write_bytes(random.Random(1).randbytes(9 << 20))  # noqa: S311
    other.write_bytes(file.read_bytes()[:-1] + b"x")
    with closing(connect(location, Transfer())) as store:
        bucket.faults.inject(LoseAnswer(), "complete", times=1)
        bucket.faults.inject(LoseAnswer(), "write", times=1)
        store.create("large", file)
        store.create("large", file)
        with pytest.raises(StorageRefusedError, match="large: holds something else"):
            store.create("large", other)
    assert bucket.read("large") == file.read_bytes()


def test_a_store_that_stays_away_leaves_no_version(
    ready: Parts, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "1")
    version, _ = version_of(ready, tmp_path / "here")
    bucket.faults.inject(Refuse(503), "write", "model.json", times=None)
    with pytest.raises(StorageUnavailableError, match="gave up after"):
        published(ready, bucket)
    assert_no_model(bucket, version, tmp_path / "fetched")

    bucket.faults.clear()
    assert published(ready, bucket).is_new
    assert objects(bucket) == expected(ready, tmp_path / "again")


def _begin(parts: Parts, bucket: Bucket) -> int:
    child = os.fork()
    if child == 0:
        try:
            published(parts, bucket)
        finally:
            os._exit(0)
    return child


def test_a_publisher_killed_at_random_moments(ready: Parts, bucket: Bucket, tmp_path: Path) -> None:
    moments: Any = random.Random(4)  # noqa: S311 - moments, not secrets
    version, files = version_of(ready, tmp_path / "here")
    for number in range(4):
        hold = Hold(answer=moments.random() < 0.5)
        bucket.faults.inject(hold, "write", skip=moments.randrange(len(files) - 1))
        child = _begin(ready, bucket)
        assert hold.reached.wait(600), "it is under way"
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        hold.release.set()  # what the dead one asked for last comes now
        bucket.faults.settle()
        assert_no_model(bucket, version, tmp_path / f"{number}")

        bucket.faults.clear()
        assert published(ready, bucket).is_new
        assert {name.partition(f"{version}/")[2]: data for name, data in objects(bucket).items()} == files
        for name in objects(bucket):
            bucket.delete(name)
