"""The storage peers do what they say, by the word of the stores' own clients."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
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
from tests.peers.object_store import Bucket
from tests.peers.s3 import READER, WRITER, S3Bucket, s3_client

MEGABYTES = os.urandom(3 * 1024 * 1024 + 5)


@pytest.fixture
def google(gcs_bucket: GcsBucket) -> Iterator[Any]:
    """Google's own client's view of the bucket, without its retries."""
    with closing(storage.Client(project="test")) as client:
        yield client.bucket(gcs_bucket.name)


@pytest.fixture
def amazon(s3_bucket: S3Bucket) -> Iterator[Any]:
    with closing(s3_client(s3_bucket.faults.url)) as client:
        yield client


def upload(blob: Any, data: bytes, **conditions: Any) -> None:
    blob.upload_from_string(data, checksum="crc32c", retry=None, **conditions)


def test_gcs_serves_googles_client(google: Any, gcs_bucket: GcsBucket) -> None:
    upload(google.blob("data/a b"), MEGABYTES)
    (listed,) = google.list_blobs(prefix="data/")
    assert (listed.name, listed.size) == ("data/a b", len(MEGABYTES))
    assert listed.download_as_bytes() == MEGABYTES, "by the address the listing gives"
    assert listed.download_as_bytes(start=10, end=19) == MEGABYTES[10:20]
    assert gcs_bucket.read("data/a b") == MEGABYTES
    assert gcs_bucket.faults.count("read", "^data/a b$") == 2


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


def test_one_of_many_writers_wins(bucket: Bucket) -> None:
    write = writing_if_absent(bucket)
    with ThreadPoolExecutor(6) as pool:
        for number in range(5):
            barrier = threading.Barrier(6)

            def attempt(each: int, number: int = number, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                return write(f"race-{number}", b"%d" % each)

            won = [each for each, mine in enumerate(pool.map(attempt, range(6))) if mine]
            assert len(won) == 1
            assert bucket.read(f"race-{number}") == b"%d" % won[0]


def writing_if_absent(bucket: Bucket) -> Callable[[str, bytes], bool]:
    """A write of an object that must not be there; whether it was done."""
    if isinstance(bucket, GcsBucket):
        upload = f"{bucket.faults.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&ifGenerationMatch=0&name="

        def write_gcs(name: str, data: bytes) -> bool:
            answer = urllib3.request("POST", upload + name, body=data, retries=False)
            assert answer.status in (200, 412)
            return answer.status == 200

        return write_gcs
    client = s3_client(bucket.faults.url)

    def write_s3(name: str, data: bytes) -> bool:
        with suppress(client.exceptions.ClientError):
            client.put_object(Bucket=bucket.name, Key=name, Body=data, IfNoneMatch="*")
            return True
        return False

    return write_s3


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


def test_s3_multipart_and_conditions(s3_bucket: S3Bucket, amazon: Any) -> None:
    named = {"Bucket": s3_bucket.name, "Key": "large"}
    data = os.urandom(6 * 1024 * 1024)
    for condition, wins in (({"IfNoneMatch": "*"}, True), ({"IfNoneMatch": "*"}, False)):
        upload_id = amazon.create_multipart_upload(**named)["UploadId"]
        pieces = [data[: 5 * 1024 * 1024], data[5 * 1024 * 1024 :]]
        parts = [
            {
                "PartNumber": number,
                "ETag": amazon.upload_part(**named, UploadId=upload_id, PartNumber=number, Body=piece)["ETag"],
            }
            for number, piece in enumerate(pieces, 1)
        ]
        complete = {**named, "UploadId": upload_id, "MultipartUpload": {"Parts": parts}, **condition}
        if wins:
            amazon.complete_multipart_upload(**complete)
        else:
            with pytest.raises(ClientError, match="PreconditionFailed"):
                amazon.complete_multipart_upload(**complete)
    assert s3_bucket.read("large") == data
    faults = s3_bucket.faults
    assert (faults.count("begin"), faults.count("write", "^large$"), faults.count("complete")) == (2, 4, 2)
