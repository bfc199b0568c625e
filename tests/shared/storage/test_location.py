from __future__ import annotations

from pathlib import Path

import pytest

from components.shared.errors import InputError
from components.shared.storage.location import Location, parse_location


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/7", Path("runs/7")),
        ("/gcs/bucket/model", Path("/gcs/bucket/model")),
        ("file:///data/a%20b", Path("/data/a b")),
        ("gs://bucket", Location("gs", "bucket", "")),
        ("gs://bucket/", Location("gs", "bucket", "")),
        ("gs://bucket/runs/7/", Location("gs", "bucket", "runs/7")),
        ("s3://my.bucket-1/a", Location("s3", "my.bucket-1", "a")),
        ("S3://bucket/Größe 1", Location("s3", "bucket", "Größe 1")),
        ("minio://mlpipeline/v2/artifacts", Location("s3", "mlpipeline", "v2/artifacts")),
    ],
)
def test_places(text: str, expected: Path | Location) -> None:
    assert parse_location(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "location is empty"),
        ("https://storage.googleapis.com/bucket/key", "https:// is not known"),
        ("hdfs://host/path", "hdfs:// is not known"),
        ("gs://", "names no bucket"),
        ("gs:///key", "names no bucket"),
        ("gs://Bucket/key", "no bucket's name"),
        ("s3://ab/key", "no bucket's name"),
        ("s3://a..b/key", "no bucket's name"),
        ("gs://bucket/a//b", "empty part"),
        ("gs://bucket//a", "empty part"),
        ("gs://bucket/a/../b", "'..'"),
        ("gs://bucket/./b", "'.'"),
        ("gs://bucket/a\nb", "cannot be printed"),
        ("gs://bucket/" + "k" * 1025, "1024 are allowed"),
        ("file://host/data", "another machine"),
        ("file://", "no local path"),
    ],
)
def test_what_is_no_place_is_told_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_location(text)
    message = str(caught.value)
    assert reason in message
    assert "allowed are a local path, file:///path, gs://bucket/path and s3://bucket/path" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["s3://key:secret@bucket/a", "https://bucket/a?X-Amz-Signature=secret#secret"])
def test_what_may_be_secret_is_not_repeated(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_location(text)
    assert "secret" not in str(caught.value)


def test_children_and_text() -> None:
    assert parse_location(str(Location("gs", "bucket", "a/b"))) == Location("gs", "bucket", "a/b")
    assert Location("gs", "bucket", "").child("model.json") == Location("gs", "bucket", "model.json")
    assert Location("s3", "bucket", "a").child("b/c") == Location("s3", "bucket", "a/b/c")
    assert Location("s3", "bucket", "a/b").name == "b"
