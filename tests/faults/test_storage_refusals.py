"""Storage that refuses for good, or lacks what is asked for: an error that says where, why and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.shared.artifacts.dataset import DATASET
from components.shared.errors import StorageRefusedError
from components.shared.storage.fetch import fetch_tree
from components.shared.storage.location import Location
from components.shared.storage.publish import Publication
from tests.faults.storage import (
    LARGE_FILE,
    Source,
    fetch,
    located,
    message_of,
    opened,
    publish,
)
from tests.peers.http_faults import Refuse
from tests.peers.object_store import Bucket
from tests.peers.s3 import READER, s3_environment

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together


def test_forbidden_to_read(bucket: Bucket, location: Location, source: Source, tmp_path: Path) -> None:
    publish(source, location)
    refused = bucket.faults.inject(Refuse(403), "read", LARGE_FILE, times=None)
    with pytest.raises(StorageRefusedError) as caught:
        fetch(location, tmp_path)
    message_of(caught.value, str(location), ("forbidden", "permission", "may not"))
    assert refused.happened > 0
    assert opened(tmp_path) is None
    for operation in ("list", "stat", "read"):
        bucket.faults.inject(Refuse(403), operation, times=None)
    with pytest.raises(StorageRefusedError) as caught:
        fetch_tree(location, tmp_path / "tree")
    message_of(caught.value, str(location), ("forbidden", "permission", "may not"))


def test_a_wrong_secret(s3_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-one")
    with pytest.raises(StorageRefusedError) as caught:
        fetch(located(f"{s3_bucket.uri}/dataset"), tmp_path)
    assert "a-wrong-one" not in message_of(caught.value, s3_bucket.uri, ("credentials", "signature", "forbidden"))


def test_forbidden_to_write(
    bucket: Bucket, location: Location, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if location.scheme == "s3":
        for name, value in s3_environment(bucket.faults.url, READER).items():
            monkeypatch.setenv(name, value)
    else:
        bucket.faults.inject(Refuse(403), "write", times=None)
        bucket.faults.inject(Refuse(403), "begin", times=None)
    with pytest.raises(StorageRefusedError) as caught, Publication(location, DATASET):
        raise AssertionError("it is refused before any work is done")
    text = message_of(caught.value, str(location), ("forbidden", "permission", "may not"))
    assert READER[1] not in text
    assert bucket.names() == []
