"""The storage peers do what they say, by the word of the stores' own clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import urllib3
from botocore.exceptions import (
    ClientError,
)
from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed
from google.cloud import storage
from urllib3.exceptions import ProtocolError

from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import CutRequest, FlipRequestByte
from tests.peers.s3 import READER, WRITER, S3Bucket, s3_client


@pytest.fixture
def google(gcs_bucket: GcsBucket) -> Iterator[Any]:
    """Google's own client's view of the bucket, without its retries."""
    with closing(storage.Client(project="test")) as client:
        yield client.bucket(gcs_bucket.name)


def upload(blob: Any, data: bytes, **conditions: Any) -> None:
    blob.upload_from_string(data, checksum="crc32c", retry=None, **conditions)


@pytest.mark.parametrize("size", [10, 9 * 1024 * 1024], ids=["in one request", "resumable"])
def test_gcs_keeps_preconditions_of_uploads(google: Any, size: int) -> None:
    data = bytes(size)
    blob = google.blob("object")
    upload(blob, data, if_generation_match=0)
    first = blob.generation
    with pytest.raises(PreconditionFailed):
        upload(google.blob("object"), data, if_generation_match=0)
    upload(blob, data, if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        upload(blob, data, if_generation_match=first)


def test_gcs_keeps_preconditions_of_reads_and_deletes(google: Any) -> None:
    blob = google.blob("object")
    upload(blob, b"one")
    first = blob.generation
    upload(blob, b"two")
    with pytest.raises(PreconditionFailed):
        google.blob("object").download_as_bytes(if_generation_match=first)
    with pytest.raises(NotFound):
        google.blob("object", generation=first).download_as_bytes()
    with pytest.raises(PreconditionFailed):
        google.blob("object").delete(if_generation_match=first)
    google.blob("object").delete(if_generation_match=blob.generation)
    assert not google.blob("object").exists()


def test_gcs_refuses_bytes_that_are_not_the_checksums(google: Any, gcs_bucket: GcsBucket) -> None:
    flipped = gcs_bucket.faults.inject(FlipRequestByte(-200), "write", "^object$")
    with pytest.raises(BadRequest, match="CRC32C"):
        upload(google.blob("object"), os.urandom(1000))
    assert flipped.happened == 1
    assert gcs_bucket.names() == []


def test_gcs_goes_on_with_an_upload_that_was_cut(google: Any, gcs_bucket: GcsBucket) -> None:
    data = os.urandom(9 * 1024 * 1024)
    cut = gcs_bucket.faults.inject(CutRequest(3 * 1024 * 1024 + 100), "write", "^object$")
    where = google.blob("object").create_resumable_upload_session(size=len(data))
    with pytest.raises(ProtocolError):
        urllib3.request("PUT", where, body=data, retries=False)
    assert cut.happened == 1
    asked = urllib3.request("PUT", where, headers={"Content-Range": f"bytes */{len(data)}"}, redirect=False)
    assert (asked.status, asked.headers["Range"]) == (308, f"bytes=0-{3 * 1024 * 1024 - 1}")
    rest = f"bytes {3 * 1024 * 1024}-{len(data) - 1}/{len(data)}"
    done = urllib3.request("PUT", where, body=data[3 * 1024 * 1024 :], headers={"Content-Range": rest})
    assert done.json()["size"] == str(len(data))
    again = urllib3.request("PUT", where, headers={"Content-Range": f"bytes */{len(data)}"})
    assert again.json() == done.json(), "an answer that was lost can be had again"
    assert gcs_bucket.read("object") == data


# S3.


def test_seaweed_checks_signatures_permissions_and_digests(s3_bucket: S3Bucket) -> None:
    s3_bucket.write("object", b"one")

    def refused(credentials: tuple[str, str], work: Callable[[Any], object]) -> str:
        with closing(s3_client(s3_bucket.faults.url, credentials)) as client:
            with pytest.raises(ClientError) as caught:
                work(client)
            return str(caught.value.response["Error"]["Code"])

    named = {"Bucket": s3_bucket.name, "Key": "object"}
    assert refused((WRITER[0], "wrong"), lambda client: client.get_object(**named)) == "SignatureDoesNotMatch"
    assert refused(READER, lambda client: client.put_object(**named, Body=b"two")) == "AccessDenied"
    digest = "AAAAAAAAAAAAAAAAAAAAAA=="
    assert refused(WRITER, lambda client: client.put_object(**named, Body=b"two", ContentMD5=digest)) == "BadDigest"
    assert refused(WRITER, lambda client: client.get_object(Bucket="none-such", Key="object")) == "NoSuchBucket"
    with closing(s3_client(s3_bucket.faults.url, READER)) as client:
        assert client.get_object(**named)["Body"].read() == b"one"
