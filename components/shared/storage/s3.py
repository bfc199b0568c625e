"""S3 and servers of its protocol: by boto3, whose own retries are switched off but for the parts of an upload.

Which conditions servers heed, seen with SeaweedFS 4.48 and moto 5.2.5: both If-Match and If-None-Match on PutObject,
If-Match on GetObject and DeleteObject. Older servers ignore those of writes and deletes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
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
from botocore.loaders import create_loader

from components.shared.errors import ArtifactError, RetryableError, StorageRefusedError
from components.shared.events.redaction import redact
from components.shared.files import sha256_of
from components.shared.storage.content import PIECE, Checksum, Hashes
from components.shared.storage.location import Location
from components.shared.storage.store import (
    ABSENT,
    ChangedError,
    Pieces,
    Store,
    StoredObject,
    content_type,
    pieces_of_body,
)
from components.shared.storage.transfer import Transfer, workers
from components.shared.text import shortened

_CONNECT_S = 10.0
_PART = 16 << 20  # larger files go in parts; boto3 makes them larger where there would be more than 10,000
# Files are sent side by side, so not the parts of one.
_PARTS = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, use_threads=False)
_TRIES_OF_A_PART = 5
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@cache
def _reader_of_descriptions(path: str | None) -> Any:
    return create_loader(path)


def _descriptions(path: str | None) -> Any:
    """What botocore knows of services: 50 ms to read, which each session of boto3's own would do anew."""
    reader = _reader_of_descriptions(path)
    reader.search_paths[:] = dict.fromkeys(reader.search_paths)  # every session adds boto3's folder
    return reader


class S3Store(Store):
    """One bucket of S3, or of a server of its protocol; StorageRefusedError if its settings cannot be used."""

    login_advice = (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile by AWS_PROFILE, or give the machine or pod a "
        "role"
    )
    grant_advice = (
        "grant s3:ListBucket and s3:GetObject to read, s3:PutObject and s3:DeleteObject to write, or check the "
        "credentials"
    )
    endpoint_variable = "AWS_ENDPOINT_URL"

    def __init__(self, location: Location, transfer: Transfer) -> None:
        super().__init__(location, transfer)
        self._client = self._connected({"total_max_attempts": 1})

    @cached_property
    def _uploading(self) -> Any:
        # A part that breaks is sent again by boto3: it would begin anew with the first.
        return self._connected({"total_max_attempts": _TRIES_OF_A_PART, "mode": "standard"})

    def _connected(self, retries: dict[str, Any]) -> Any:
        config = Config(
            connect_timeout=min(_CONNECT_S, self.transfer.silence_s),
            read_timeout=self.transfer.silence_s,
            max_pool_connections=workers() + 2,
            retries=retries,
            # Content-MD5 goes along, below; boto3's newer checksums are unknown to older servers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            session = botocore.session.get_session()
            session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
            client = boto3.session.Session(botocore_session=session).client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise StorageRefusedError(
                f"{self.location}: the settings for S3 cannot be used: {_text(error)}; check AWS_ENDPOINT_URL, "
                "AWS_PROFILE and the profile files"
            ) from error
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"before-call.s3.{operation}", _add_md5)
        return client

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        if "_uploading" in vars(self):
            self._uploading.close()

    def _page(self, prefix: str, token: str | None) -> tuple[list[StoredObject], str | None]:
        query = {"ContinuationToken": token} if token else {}
        with self._errors(prefix):
            page = self._client.list_objects_v2(Bucket=self.location.bucket, Prefix=prefix, **query)
        items = page.get("Contents", ())
        found = [StoredObject(item["Key"], item["Size"], item["ETag"], _checksum(item)) for item in items]
        return found, page.get("NextContinuationToken")

    def _stat(self, key: str) -> StoredObject | None:
        with self._errors(key):
            try:
                found = self._client.head_object(**self._named(key))
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
        return _stored(key, found["ContentLength"], found)

    def read(self, stored: StoredObject, start: int, stop: int) -> tuple[StoredObject, Pieces]:
        """Bytes [start, stop) of exactly this version."""
        query = self._named(stored.key, IfMatch=stored.version)
        if ranged := start > 0 or stop < stored.bytes:
            query["Range"] = f"bytes={start}-{stop - 1}"
        with self._errors(stored.key):
            answer = self._client.get_object(**query)
        if answer["ETag"] != stored.version or (ranged and "ContentRange" not in answer):
            answer["Body"].close()
            if ranged and answer["ETag"] == stored.version:
                raise RetryableError("the whole object came where a range was asked for")
            raise ChangedError(self.uri(stored.key))

        def readinto(buffer: memoryview) -> int:
            with self._errors(stored.key):
                return int(answer["Body"].readinto(buffer))

        pieces = pieces_of_body(answer["Body"], readinto, stop - start)
        return _stored(stored.key, stored.bytes, answer), pieces

    def _write(self, key: str, data: bytes, version: str | None) -> StoredObject:
        condition = {} if version is None else {"IfNoneMatch": "*"} if version == ABSENT else {"IfMatch": version}
        with self._errors(key):
            answer = self._client.put_object(**self._named(key, Body=data, ContentType=content_type(key), **condition))
        return _stored(key, len(data), answer)

    def upload(self, key: str, file: Path, sha256: str | None = None, *, is_new: bool = False) -> None:
        """Put a file in place of whatever is there, or with `is_new` of nothing: then in one request, of 5 GB at most.

        S3 takes a condition with the last request of an upload in parts, too, but boto3's transfers send none.
        """
        if sha256 is not None and sha256_of(file) != sha256:
            raise ArtifactError(f"{file}: its SHA-256 is not the manifest's; it is damaged")
        sent = furthest = 0

        def progress(count: int) -> None:
            nonlocal sent, furthest
            sent += count
            self.transfer.moved(max(0, sent - furthest))  # what is sent again is no progress
            furthest = max(furthest, sent)

        def attempt() -> None:
            nonlocal sent
            sent = 0
            client = self._uploading if file.stat().st_size > _PART else self._client
            options = {"ContentType": content_type(key)}
            with self._errors(key), file.open("rb") as stream:
                client.upload_fileobj(
                    stream, self.location.bucket, key, ExtraArgs=options, Callback=progress, Config=_PARTS
                )

        def attempt_in_one() -> None:
            with self._errors(key), file.open("rb") as stream:
                named = self._named(key, Body=stream, ContentType=content_type(key), IfNoneMatch="*")
                self._client.put_object(**named)
            self.transfer.moved(file.stat().st_size)

        self._retried(key, attempt_in_one if is_new else attempt)

    def _delete(self, key: str, version: str | None) -> None:
        query = self._named(key)
        if version is not None:
            found = self._stat(key)  # as older servers ignore the condition
            if found is None:
                return
            if found.version != version:
                raise ChangedError(self.uri(key))
            query["IfMatch"] = version
        with self._errors(key):
            try:
                self._client.delete_object(**query)
            except ClientError as error:
                if _status(error) != 404 or _code(error) == "NoSuchBucket":
                    raise

    def _named(self, key: str, **more: Any) -> dict[str, Any]:
        return {"Bucket": self.location.bucket, "Key": key, **more}

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        uri = self.uri(key)
        host = str(self._client.meta.endpoint_url).partition("://")[2].rpartition("@")[2]
        try:
            yield
        except ClientError as error:
            text = str(error.response.get("Error", {}).get("Message", ""))
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            raise self._error_of(
                key, _status(error), _code(error), text, str(headers.get("retry-after", ""))
            ) from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise StorageRefusedError(
                f"{self.location}: no credentials: {_text(error)}; {self.login_advice}"
            ) from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise RetryableError(f"{host} broke off (SSL)") from error
            raise StorageRefusedError(
                f"{uri}: the certificate of {host} is not trusted; name the authority's file by AWS_CA_BUNDLE"
            ) from error
        except (HTTPClientError, ConnectionError, IncompleteReadError) as error:
            if "Name or service not known" in str(error.kwargs.get("error", error)):
                raise StorageRefusedError(
                    f"{uri}: there is no host {host}; check AWS_ENDPOINT_URL and the network"
                ) from error
            raise RetryableError(f"{host} does not answer, or broke off ({type(error).__name__})") from error
        except BotoCoreError as error:
            raise StorageRefusedError(f"{uri}: boto3 refuses it: {_text(error)}") from error


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Let the server compare what arrives."""
    body, hashes = params["body"], Hashes("MD5")
    if isinstance(body, bytes):
        hashes.update(body)
    else:
        while piece := body.read(PIECE):
            hashes.update(piece)
        body.seek(0)
    params["headers"]["Content-MD5"] = base64.b64encode(hashes.of("MD5").digest).decode()


def _stored(key: str, size: int, answer: dict[str, Any]) -> StoredObject:
    return StoredObject(key, size, answer["ETag"], _checksum(answer), answer.get("ContentEncoding", ""))


def _checksum(answer: dict[str, Any]) -> Checksum | None:
    """The MD5 that is the ETag of an object in one part, unless it is encrypted with a key of the server's."""
    if "SSECustomerAlgorithm" in answer or str(answer.get("ServerSideEncryption", "")).startswith("aws:kms"):
        return None
    found = _MD5.fullmatch(answer["ETag"])
    return Checksum("MD5", bytes.fromhex(found[1])) if found else None


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _text(error: Exception) -> str:
    return redact(shortened(" ".join(str(error).split()), 200))
