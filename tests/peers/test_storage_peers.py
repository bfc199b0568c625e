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
    ConnectionClosedError,
    EndpointConnectionError,
    IncompleteReadError,
    ResponseStreamingError,
)
from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed, ServiceUnavailable
from google.cloud import storage
from urllib3.exceptions import ProtocolError

from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import CutAnswer, CutRequest, FlipAnswerByte, FlipRequestByte, Hold, LoseAnswer, Refuse
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


def test_a_bucket_keeps_what_it_is_given(bucket: Bucket) -> None:
    bucket.write("data/a b+ü.txt", b"one")
    bucket.write("data/empty", b"")
    bucket.write("other", MEGABYTES)
    assert bucket.objects("data/") == {"data/a b+ü.txt": b"one", "data/empty": b""}
    bucket.delete("data/empty")
    assert bucket.names() == ["data/a b+ü.txt", "other"]
    assert bucket.read("other") == MEGABYTES


# Google Cloud Storage.


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


def test_moto_is_a_bucket_too(moto_bucket: S3Bucket) -> None:
    moto_bucket.write("data/one", b"one")
    with closing(s3_client(os.environ["AWS_ENDPOINT_URL"])) as client:
        answer = client.get_object(Bucket=moto_bucket.name, Key="data/one")
        assert answer["Body"].read() == b"one"
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(Bucket=moto_bucket.name, Key="data/one", Body=b"two", IfNoneMatch="*")


# Faults, as the clients see them.


def test_an_answer_that_is_cut(google: Any, gcs_bucket: GcsBucket, s3_bucket: S3Bucket, amazon: Any) -> None:
    for each in (gcs_bucket, s3_bucket):
        each.write("object", MEGABYTES)
        each.faults.inject(CutAnswer(1000), "read", "^object$")
    with pytest.raises(ProtocolError):
        google.blob("object").download_as_bytes(retry=None, raw_download=True, timeout=10)
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        amazon.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read()
    assert gcs_bucket.faults.bytes_read() == s3_bucket.faults.bytes_read() == 1000
    assert amazon.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read() == MEGABYTES, "once, as asked"


def test_a_request_that_is_cut_leaves_nothing(s3_bucket: S3Bucket, amazon: Any) -> None:
    cut = s3_bucket.faults.inject(CutRequest(70_000), "write")
    with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
        amazon.put_object(Bucket=s3_bucket.name, Key="object", Body=MEGABYTES)
    assert cut.happened == 1
    assert s3_bucket.names() == []


def test_an_answer_that_is_lost_after_the_work(bucket: Bucket) -> None:
    lost = bucket.faults.inject(LoseAnswer(), "write", "^object$")
    with pytest.raises((ProtocolError, ConnectionClosedError)):
        writing_if_absent(bucket)("object", b"kept")
    assert lost.happened == 1
    assert bucket.read("object") == b"kept"


def test_refusals_in_the_words_of_the_store(
    google: Any, gcs_bucket: GcsBucket, s3_bucket: S3Bucket, amazon: Any
) -> None:
    for each in (gcs_bucket, s3_bucket):
        each.write("object", b"one")
        each.faults.inject(Refuse(503, retry_after=1), "read", skip=1, times=2)
    blob = google.blob("object")
    assert blob.download_as_bytes(retry=None) == b"one", "the first is let through"
    for _ in range(2):
        with pytest.raises(ServiceUnavailable):
            blob.download_as_bytes(retry=None)
    assert blob.download_as_bytes(retry=None) == b"one"
    amazon.get_object(Bucket=s3_bucket.name, Key="object")
    with pytest.raises(ClientError, match="SlowDown") as caught:
        amazon.get_object(Bucket=s3_bucket.name, Key="object")
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"


def test_bytes_that_change_on_the_way(bucket: Bucket) -> None:
    bucket.write("object", b"good")
    flipped = bucket.faults.inject(FlipAnswerByte(1), "read")
    if isinstance(bucket, GcsBucket):
        url = f"{bucket.faults.url}/storage/v1/b/{bucket.name}/o/object?alt=media"
        assert [urllib3.request("GET", url).data for _ in range(2)] == [b"gOod", b"good"]
    else:
        with closing(s3_client(bucket.faults.url)) as client:
            answers = [client.get_object(Bucket=bucket.name, Key="object") for _ in range(2)]
            raw = [answer["Body"]._raw_stream.read() for answer in answers]
            assert raw == [b"gOod", b"good"]
    assert flipped.happened == 1


def test_a_request_that_is_held(bucket: Bucket) -> None:
    hold = Hold()
    bucket.faults.inject(hold, "write", "^held$")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(writing_if_absent(bucket), "held", b"late")
        assert hold.reached.wait(10)
        assert bucket.names() == []
        hold.release.set()
        assert writing.result()
    assert bucket.read("held") == b"late"
