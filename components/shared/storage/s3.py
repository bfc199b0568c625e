"""S3 and what speaks its protocol: by boto3, whose own retries are switched off.

Which conditions servers heed, seen with SeaweedFS 4.48 and moto 5.2.5: both If-Match and If-None-Match on PutObject,
If-Match on GetObject and DeleteObject, If-None-Match on CompleteMultipartUpload; If-Match there SeaweedFS alone. Older
servers pass over those of writes and deletes, hence the looks before.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # botocore's, which is no OSError
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)

from components.shared.errors import StorageRefusedError
from components.shared.events.redaction import redact
from components.shared.params.allowed_classes import shortened
from components.shared.storage.api_errors import knowing_its_own, patience_asked, pieces_of_body
from components.shared.storage.content import Checksum, Content
from components.shared.storage.objects import ABSENT, Changed, StoredObject, Transient
from components.shared.storage.transfer import Transfer, workers

_CONNECT_S = 10.0
_ONE_REQUEST = 16 << 20  # larger objects go in parts, and a broken one costs its own bytes alone
_PARTS = 9_000  # of the 10,000 that an object may have
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_BAD_LOGIN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_WRONG_BYTES = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout"}
_LOG_IN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile by AWS_PROFILE, or give the machine or pod a role"
)

T = TypeVar("T")


class S3Store:
    """One bucket of S3, or of a server that speaks its protocol.

    Raises:
        StorageRefusedError: The configuration cannot be used.
    """

    def __init__(self, bucket: str, transfer: Transfer) -> None:
        self._bucket = bucket
        self._transfer = transfer
        # Of versions that were read; a listing does not tell it.
        self._encodings: dict[tuple[str, str], str] = {}
        config = Config(
            connect_timeout=min(_CONNECT_S, transfer.silence_s),
            read_timeout=transfer.silence_s,
            max_pool_connections=workers() + 2,
            retries={"total_max_attempts": 1},
            # Checksums of ours go along, and are computed of what comes; boto3's own older servers do not know.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client = boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise StorageRefusedError(
                f"{transfer.location}: the settings for S3 cannot be used: {_of(error)}; check AWS_ENDPOINT_URL, "
                "AWS_PROFILE and the profile files"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key begins with a prefix."""
        query: dict[str, str] = {"Bucket": self._bucket, "Prefix": prefix}
        while True:
            page = self._persist(prefix, lambda: self._client.list_objects_v2(**query))
            for item in page.get("Contents", ()):
                yield StoredObject(item["Key"], item["Size"], item["ETag"], _checksum(item["ETag"]))
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, key: str) -> StoredObject | None:
        """The present version of an object; None if it is not there."""

        def ask() -> StoredObject | None:
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
            checksum = None if _is_keyed(found) else _checksum(found["ETag"])
            return StoredObject(key, found["ContentLength"], found["ETag"], checksum, found.get("ContentEncoding", ""))

        return self._persist(key, ask)

    def read(self, stored: StoredObject, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes [start, stop) of exactly this version."""
        query = {"Bucket": self._bucket, "Key": stored.key, "IfMatch": stored.version}
        ranged = start > 0 or stop < stored.bytes
        if ranged:
            query["Range"] = f"bytes={start}-{stop - 1}"
        answer = self._once(stored.key, lambda: self._client.get_object(**query))
        body = answer["Body"]
        try:
            if answer["ETag"] != stored.version:
                raise Changed(self._uri(stored.key))
            self._encodings[stored.key, stored.version] = answer.get("ContentEncoding", "")
            if ranged and "ContentRange" not in answer:
                raise Transient("the whole object came where a range was asked for")

            def readinto(buffer: memoryview) -> int:
                return int(self._once(stored.key, lambda: body.readinto(buffer)))

            yield from pieces_of_body(readinto, stop - start)
        finally:
            body.close()

    def encoding(self, stored: StoredObject) -> str:
        """The Content-Encoding; forgotten once it was told, since there may be a million of them."""
        told = self._encodings.pop((stored.key, stored.version), stored.encoding)
        if told is None:
            present = self.stat(stored.key)
            if present is None or present.version != stored.version:
                raise Changed(self._uri(stored.key))
            told = present.encoding or ""
        return told

    def write(
        self, key: str, content: Content, version: str | None, check: Callable[[], None] | None = None
    ) -> StoredObject:
        """Put an object in place of a version; an ETag is the same wherever the content is."""
        upload = _Upload(self._client, self._bucket, key, content, _condition(version), self._transfer)
        upload.check = check or upload.check
        attempt = knowing_its_own(
            lambda: self._once(key, upload.attempt),
            lambda: self.stat(key),
            lambda found: self._holds(found, content, upload.etag),
        )
        try:
            return self._transfer.persist(self._uri(key), attempt)
        except BaseException:
            upload.abandon()
            raise

    def delete(self, key: str, version: str | None) -> None:
        """Remove a version of an object."""
        query = {"Bucket": self._bucket, "Key": key}
        if version is not None:
            found = self.stat(key)
            if found is None:
                return
            if found.version != version:
                raise Changed(self._uri(key))
            query["IfMatch"] = version

        def remove() -> None:
            try:
                self._client.delete_object(**query)
            except ClientError as error:
                if _status(error) != 404 or _code(error) == "NoSuchBucket":
                    raise

        self._persist(key, remove)

    def _holds(self, found: StoredObject, content: Content, etag: str | None) -> bool:
        """Whether an object is what was to be written."""
        if found.bytes != content.bytes:
            return False
        if found.version == etag:
            return True
        # Under a key of the server's the ETag says nothing of the content.
        md5 = hashlib.md5(usedforsecurity=False)
        for piece in self.read(found, 0, found.bytes):
            md5.update(piece)
        return [md5.digest()] == content.digests("md5")

    def _persist(self, key: str, work: Callable[[], T]) -> T:
        return self._transfer.persist(self._uri(key), lambda: self._once(key, work))

    def _once(self, key: str, work: Callable[[], T]) -> T:
        """One attempt, its errors told apart."""
        uri = self._uri(key)
        try:
            return work()
        except ClientError as error:
            self._refuse(error, uri)
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise StorageRefusedError(f"{self._transfer.location}: no credentials: {_of(error)}; {_LOG_IN}") from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise Transient(f"{self._host} broke off (SSL)") from error
            raise StorageRefusedError(
                f"{uri}: the certificate of {self._host} is not trusted; name the authority's file by AWS_CA_BUNDLE"
            ) from error
        except (HTTPClientError, ConnectionError, IncompleteReadError) as error:
            if "Name or service not known" in str(error.kwargs.get("error", error)):
                raise StorageRefusedError(
                    f"{uri}: there is no host {self._host}; check AWS_ENDPOINT_URL and the network"
                ) from error
            raise Transient(f"{self._host} does not answer, or broke off ({type(error).__name__})") from error
        except BotoCoreError as error:
            raise StorageRefusedError(f"{uri}: boto3 refuses it: {_of(error)}") from error

    def _refuse(self, error: ClientError, uri: str) -> NoReturn:
        """Raise what an error's answer means."""
        status, code = _status(error), _code(error)
        message = redact(shortened(str(error.response.get("Error", {}).get("Message", "")), 200)) or code
        if status in (408, 409, 429) or (status >= 500 and status != 501) or code in _WRONG_BYTES:
            raise _later(error, f"the store answers {status} {code} {message}") from error
        if status == 412 or (status == 404 and code == "NoSuchKey"):
            raise Changed(uri) from error
        location = self._transfer.location
        if code == "NoSuchBucket":
            raise StorageRefusedError(
                f"{location}: there is no bucket {self._bucket}; create it, or check its name and AWS_ENDPOINT_URL"
            ) from error
        if code == "NoSuchUpload":
            raise Transient("the store has forgotten the upload") from error
        if code in _BAD_LOGIN or status == 401:
            raise StorageRefusedError(f"{uri}: the credentials are not accepted ({message}); {_LOG_IN}") from error
        if code == "RequestTimeTooSkewed":
            raise StorageRefusedError(f"{uri}: the store does not accept this machine's clock; set it") from error
        if status == 403:
            raise StorageRefusedError(
                f"{uri}: forbidden ({message}); grant s3:ListBucket and s3:GetObject to read, s3:PutObject and "
                "s3:DeleteObject to write, or check the credentials"
            ) from error
        raise StorageRefusedError(f"{uri}: the store refuses it: {status} {code} {message}") from error

    @property
    def _host(self) -> str:
        return str(self._client.meta.endpoint_url).partition("://")[2].rpartition("@")[2]

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}".removesuffix("/")


class _Upload:
    """One object's upload, over as many attempts as it takes.

    Attributes:
        etag: What the store calls the object if it makes ETags of MD5; None before all is sent.
        check: Called before the request that changes the object.
    """

    def __init__(
        self, client: Any, bucket: str, key: str, content: Content, condition: dict[str, str], transfer: Transfer
    ) -> None:
        self.etag: str | None = None
        self.check: Callable[[], None] = lambda: None
        self._furthest = 0
        self._client = client
        self._object = {"Bucket": bucket, "Key": key}
        self._key = key
        self._content = content
        self._condition = condition
        self._transfer = transfer
        self._part_size = max(_ONE_REQUEST, -(-content.bytes // _PARTS))
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._digests: list[bytes] = []

    def attempt(self) -> StoredObject:
        """Try once; the next attempt goes on with the part that this one came to."""
        if self._content.bytes <= _ONE_REQUEST:
            return self._in_one()
        if self._id is None:
            self._parts, self._digests = [], []
            created = self._client.create_multipart_upload(**self._object, ContentType=self._content.type)
            self._id = created["UploadId"]
        upload = {**self._object, "UploadId": self._id}
        for number in range(len(self._parts) + 1, -(-self._content.bytes // self._part_size) + 1):
            data = self._content.cut((number - 1) * self._part_size, number * self._part_size)
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            try:
                answer = self._client.upload_part(
                    **upload, PartNumber=number, Body=data, ContentMD5=base64.b64encode(digest).decode()
                )
            except ClientError as error:
                if _code(error) == "NoSuchUpload":
                    self._id = None  # the next attempt begins anew
                raise
            _compare(answer, digest.hex())
            self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            self._digests.append(digest)
            if number > self._furthest:  # what is sent again is no progress
                self._furthest = number
                self._transfer.moved(len(data))
        whole = hashlib.md5(b"".join(self._digests), usedforsecurity=False).hexdigest()
        self.etag = f'"{whole}-{len(self._digests)}"'
        return self._complete(upload)

    def abandon(self) -> None:
        """Let the store forget the parts, if it can be told."""
        if self._id is not None:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**self._object, UploadId=self._id)

    def _in_one(self) -> StoredObject:
        data = self._content.cut(0, self._content.bytes)
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        self.etag = f'"{digest.hex()}"'
        self.check()
        answer = self._client.put_object(
            **self._object,
            **self._condition,
            Body=data,
            ContentType=self._content.type,
            ContentMD5=base64.b64encode(digest).decode(),
        )
        _compare(answer, digest.hex())
        self._transfer.moved(len(data))
        return StoredObject(self._key, len(data), answer["ETag"], _checksum(answer["ETag"]))

    def _complete(self, upload: dict[str, str]) -> StoredObject:
        self.check()
        try:
            answer = self._client.complete_multipart_upload(
                **upload, **self._condition, MultipartUpload={"Parts": self._parts}
            )
        except ClientError as error:
            if _code(error) == "NoSuchUpload":
                # It may be complete, and the answer was lost: look at what is there.
                self._id = None
                raise Changed(self._key) from error
            raise
        self._id = None
        return StoredObject(self._key, self._content.bytes, answer["ETag"], None)


def _condition(version: str | None) -> dict[str, str]:
    if version is None:
        return {}
    return {"IfNoneMatch": "*"} if version == ABSENT else {"IfMatch": version}


def _compare(answer: dict[str, Any], md5: str) -> None:
    """Compare what the store says it received with what was sent.

    Raises:
        Transient: It is something else.
    """
    found = _MD5.fullmatch(answer["ETag"])
    if found and found[1] != md5 and not _is_keyed(answer):
        raise Transient("the store received other bytes than were sent")


def _checksum(etag: str) -> Checksum | None:
    """The MD5 that is the ETag of an object in one part."""
    found = _MD5.fullmatch(etag)
    return Checksum("md5", bytes.fromhex(found[1])) if found else None


def _is_keyed(answer: dict[str, Any]) -> bool:
    """Whether an object is encrypted in a way that makes its ETag something else than an MD5."""
    return "SSECustomerAlgorithm" in answer or str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _later(error: ClientError, message: str) -> Transient:
    said = str(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", ""))
    return Transient(message, patience_asked(said))


def _of(error: Exception) -> str:
    return redact(shortened(" ".join(str(error).split()), 200))
