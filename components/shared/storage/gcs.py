"""Google Cloud Storage: credentials as Google's clients find them, requests through urllib3.

A small upload or download through google-cloud-storage 3.17 reaches 0.75 to 0.8 of this rate (1,500 objects of 10 kB,
12 threads on 2 cores, requests without environment look-ups): threads share one interpreter, and a request costs its
client twice the time. Connections are made by requests' adapter, so that proxies, certificates and their environment
variables are the usual ones.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import google.auth
import google_crc32c  # noqa: F401 - without it checksums fail, and later
import requests
import urllib3
from google.auth import environment_vars
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.auth.transport.requests import Request as TokenRequest
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, MaxRetryError, NameResolutionError, SSLError

from components.shared.errors import ArtifactError, RetryableError, StorageRefusedError
from components.shared.events.google_login import ODD_FILE, reason_of
from components.shared.events.redaction import redact, register_secret
from components.shared.storage.content import Checksum, Hashes, pieces_of
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

EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST"
_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_CONNECT_S = 10.0
_TOKEN_S = 60.0  # a token that is refused so soon after the one before is not refused for its age
_ONE_REQUEST = 8 << 20  # larger files are uploaded resumably; the bound of Google's own client
_FIELDS = "name,size,generation,crc32c,contentEncoding"


class _Connections(HTTPAdapter):  # type: ignore[misc] # requests publishes no types
    """The connections that requests would use, for requests made without it."""

    def pool(self, url: str) -> Any:
        with requests.Session() as session:
            settings = session.merge_environment_settings(url, {}, None, None, None)
        prepared = requests.Request("GET", url).prepare()
        return self.get_connection_with_tls_context(prepared, settings["verify"], settings["proxies"], settings["cert"])


class GcsStore(Store):
    """One bucket of Google Cloud Storage, or of an emulator; StorageRefusedError without usable credentials."""

    login_advice = (
        "run `gcloud auth application-default login`, name a key file by GOOGLE_APPLICATION_CREDENTIALS, or give the "
        "machine or pod a service account"
    )
    grant_advice = (
        "grant the step's account roles/storage.objectViewer on the bucket to read, roles/storage.objectUser to write"
    )
    endpoint_variable = EMULATOR_VARIABLE

    def __init__(self, location: Location, transfer: Transfer, credentials: str | None = None) -> None:
        super().__init__(location, transfer)
        self._credentials, self._endpoint = self._settings(credentials)
        self._connections = _Connections(pool_maxsize=workers() + 2)
        self._pool = self._connections.pool(self._endpoint)
        self._base = urlsplit(self._endpoint).path.rstrip("/")
        self._objects = f"/storage/v1/b/{quote(location.bucket, safe='')}/o"
        self._timeout = urllib3.Timeout(connect=min(_CONNECT_S, transfer.silence_s), read=transfer.silence_s)
        self._login = threading.Lock()
        self._token_request = TokenRequest()  # used within the lock alone
        self._renewed = float("-inf")

    def _settings(self, file: str | None) -> tuple[Any, str]:
        """Credentials and endpoint; a file only where the environment names none."""
        if endpoint := os.environ.get(EMULATOR_VARIABLE):
            anonymous: Any = AnonymousCredentials()  # type: ignore[no-untyped-call]
            return anonymous, endpoint if "://" in endpoint else f"http://{endpoint}"
        file = None if os.environ.get(environment_vars.CREDENTIALS) else file
        load: Any = partial(google.auth.load_credentials_from_file, file) if file else google.auth.default
        try:
            with warnings.catch_warnings():  # about files of unknown origin; the user names this one
                warnings.simplefilter("ignore", DeprecationWarning)
                credentials, _ = load(scopes=_SCOPES)
            return credentials, f"https://storage.{credentials.universe_domain}"
        except (GoogleAuthError, *ODD_FILE) as error:
            reason = redact(reason_of(error, file))
            raise StorageRefusedError(f"{self.location}: no credentials: {reason}; {self.login_advice}") from error

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _page(self, prefix: str, token: str | None) -> tuple[list[StoredObject], str | None]:
        query = {"prefix": prefix, "fields": f"nextPageToken,items({_FIELDS})"} | (
            {"pageToken": token} if token else {}
        )
        page = _document(self._answer("GET", f"{self._objects}?{urlencode(query)}", prefix))
        return [_stored(item) for item in page.get("items", ())], page.get("nextPageToken")

    def _stat(self, key: str) -> StoredObject | None:
        response = self._answer("GET", f"{self._object(key)}?fields={_FIELDS}", key, allowed=(404,))
        return None if response.status == 404 else _stored(_document(response))

    def read(self, stored: StoredObject, start: int, stop: int) -> tuple[StoredObject, Pieces]:
        """Bytes [start, stop) of exactly this version."""
        # Both: the generation alone would find an older one where the bucket keeps them, and that is no longer the
        # object; fake-gcs-server heeds the generation alone.
        query = f"alt=media&generation={stored.version}&ifGenerationMatch={stored.version}"
        # Accepting gzip means: the bytes as they are stored, not unpacked on the way.
        headers = {"Accept-Encoding": "gzip"}
        if ranged := start > 0 or stop < stored.bytes:
            headers["Range"] = f"bytes={start}-{stop - 1}"
        path = f"/download{self._object(stored.key)}?{query}"
        response = self._request("GET", path, stored.key, headers, is_streamed=True)
        found = response.headers.get("X-Goog-Generation") or stored.version
        try:
            if response.status in (404, 412) or (response.status < 300 and found != stored.version):
                raise ChangedError(self.uri(stored.key))
            if response.status not in (200, 206):
                raise self._refusal(response, stored.key)
            if response.status == 200 and ranged:
                raise RetryableError("the whole object came where a range was asked for")
        except BaseException:
            response.close()
            raise
        readinto = partial(self._try, stored.key, response.readinto)
        return stored, pieces_of_body(response, readinto, stop - start)

    def _write(self, key: str, data: bytes, version: str | None) -> StoredObject:
        hashes = Hashes("CRC32C")
        hashes.update(data)
        checksum, boundary = hashes.of("CRC32C"), uuid4().hex
        metadata = {
            "name": key,
            "contentType": content_type(key),
            "crc32c": base64.b64encode(checksum.digest).decode(),
        }
        body = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(metadata)}\r\n"
            f"--{boundary}\r\nContent-Type: {content_type(key)}\r\n\r\n"
        ).encode() + b"%b\r\n--%b--\r\n" % (data, boundary.encode())
        condition = {} if version is None else {"ifGenerationMatch": version or "0"}
        headers = {"Content-Type": f'multipart/related; boundary="{boundary}"'}
        return self._written(
            self._request("POST", self._upload_path("multipart", **condition), key, headers, body), key, checksum
        )

    def upload(self, key: str, file: Path, sha256: str | None = None, *, is_new: bool = False) -> None:
        """Put a file in place of whatever is there, or with `is_new` of nothing."""
        size = file.stat().st_size
        if size <= _ONE_REQUEST:
            data, hashes = file.read_bytes(), Hashes("SHA-256")
            hashes.update(data)
            _require_sha256(file, hashes, sha256)
            self.write(key, data, ABSENT if is_new else None)
            return
        session: str | None = None
        furthest = 0

        def body(start: int, hashes: Hashes) -> Iterator[memoryview]:
            """The file from an offset on, while all of it is hashed: the network has what was sent to do meanwhile."""
            nonlocal furthest
            position = 0
            for piece in pieces_of(file):
                hashes.update(piece)
                position += len(piece)
                if position > start:
                    yield piece[max(0, start - position + len(piece)) :]
                    self.transfer.moved(max(0, position - furthest))  # what is sent again is no progress
                    furthest = max(furthest, position)
                self.transfer.check()

        def send(content_range: str, length: int, pieces: Any) -> Any:
            headers = {"Content-Range": content_range, "Content-Length": str(length)}
            return self._request("PUT", session or "", key, headers, pieces)

        def attempt() -> None:
            nonlocal session
            start, response = 0, None
            hashes = Hashes("CRC32C", "SHA-256") if sha256 is not None else Hashes("CRC32C")
            if session is None:
                session = self._begin_upload(key, size, is_new=is_new)
            else:  # how far it has come; or it is whole, and the answer was lost
                response = send(f"bytes */{size}", 0, b"")
                if reached := response.headers.get("Range"):
                    start = int(reached.rpartition("-")[2]) + 1
            if response is None or response.status == 308:
                response = send(f"bytes {start}-{size - 1}/{size}", size - start, body(start, hashes))
            elif response.status < 300:
                for _ in body(size, hashes):
                    pass
            if response.status == 308:
                raise RetryableError("the store has not kept all bytes yet")
            session = None  # whatever the answer, this upload is at its end
            if response.status in (404, 410):
                raise RetryableError("the store has forgotten the upload")
            if response.status < 300:
                _require_sha256(file, hashes, sha256)
            self._written(response, key, hashes.of("CRC32C"))

        self._retried(key, attempt)

    def _begin_upload(self, key: str, size: int, *, is_new: bool) -> str:
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "X-Upload-Content-Type": content_type(key),
            "X-Upload-Content-Length": str(size),
        }
        metadata = json.dumps({"name": key, "contentType": content_type(key)}).encode()
        condition = {"ifGenerationMatch": "0"} if is_new else {}
        response = self._request("POST", self._upload_path("resumable", **condition), key, headers, metadata)
        if response.status != 200 or "Location" not in response.headers:
            raise self._refusal(response, key)
        session = urlsplit(response.headers["Location"])  # on the same server, whatever it is called there
        return f"{session.path.removeprefix(self._base)}?{session.query}"

    def _upload_path(self, kind: str, **query: str) -> str:
        return f"/upload{self._objects}?{urlencode({'uploadType': kind, 'fields': _FIELDS, **query})}"

    def _written(self, response: Any, key: str, checksum: Checksum) -> StoredObject:
        if response.status not in (200, 201):
            raise self._refusal(response, key)
        stored = _stored(_document(response))
        if stored.checksum != checksum:
            raise RetryableError("the store received other bytes than were sent")
        return stored

    def _delete(self, key: str, version: str | None) -> None:
        query = f"?ifGenerationMatch={version}" if version is not None else ""
        self._answer("DELETE", f"{self._object(key)}{query}", key, allowed=(204, 404))

    # One request.

    def _answer(self, method: str, path: str, key: str, *, allowed: tuple[int, ...] = ()) -> Any:
        response = self._request(method, path, key)
        if response.status != 200 and response.status not in allowed:
            raise self._refusal(response, key)
        return response

    def _request(
        self,
        method: str,
        path: str,
        key: str,
        headers: dict[str, str] | None = None,
        body: Any = None,
        *,
        is_streamed: bool = False,
    ) -> Any:
        headers = dict(headers or {})
        self._authorize(method, path, headers)
        response = self._try(
            key,
            partial(self._pool.urlopen, method, self._base + path, body=body, headers=headers, timeout=self._timeout),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=not is_streamed,
            decode_content=False,
        )
        if response.status == 401 and self._renew():
            raise RetryableError("the token is no longer accepted")
        if response.status in (408, 429) or response.status >= 500:
            raise self._refusal(response, key)
        return response

    def _authorize(self, method: str, path: str, headers: dict[str, str]) -> None:
        if isinstance(self._credentials, AnonymousCredentials):
            return
        try:
            with self._login:
                self._credentials.before_request(self._token_request, method, self._endpoint + path, headers)
                if token := getattr(self._credentials, "token", None):
                    register_secret(str(token))
        except GoogleAuthError as error:
            reason = redact(reason_of(error))
            temporary = getattr(error, "retryable", False) or isinstance(error.__cause__, TransportError)
            if isinstance(error, RefreshError) and not temporary:
                raise StorageRefusedError(
                    f"{self.location}: the credentials are not accepted: {reason}; {self.login_advice}"
                ) from error
            raise RetryableError(f"no token for now: {reason}") from error

    def _renew(self) -> bool:
        """Forget a token that is refused; False where the one before it was refused a moment ago."""
        with self._login:
            now = time.monotonic()
            if isinstance(self._credentials, AnonymousCredentials) or now - self._renewed < _TOKEN_S:
                return False
            self._renewed = now
            self._credentials.token = None
            return True

    def _try(self, key: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return work(*args, **options)
        except (HTTPError, OSError) as broken:
            error = broken.reason if isinstance(broken, MaxRetryError) and broken.reason is not None else broken
            host = urlsplit(self._endpoint).netloc
            cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
            if isinstance(error, SSLError) and isinstance(cause, ssl.SSLCertVerificationError):
                raise StorageRefusedError(
                    f"{self.uri(key)}: the certificate of {host} is not trusted ({cause.verify_message}); name the "
                    "authority's file by REQUESTS_CA_BUNDLE"
                ) from error
            reason = error.__cause__ or error.__context__
            is_unknown = isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME
            if isinstance(error, NameResolutionError) and is_unknown:
                raise StorageRefusedError(
                    f"{self.uri(key)}: there is no host {host}; check {EMULATOR_VARIABLE} and the network"
                ) from error
            raise RetryableError(f"{host} does not answer, or broke off ({type(error).__name__})") from error

    def _refusal(self, response: Any, key: str) -> Exception:
        text, reason = "", ""
        with suppress(HTTPError, OSError):
            text = (response.data or b"").decode("utf-8", "replace")
            with suppress(ValueError, KeyError, TypeError, AttributeError, IndexError):
                error = json.loads(text)["error"]
                text = str(error["message"])
                reason = str(error["errors"][0].get("reason", ""))
        if response.status == 400 and ("crc32c" in text.lower() or "md5" in text.lower()):
            return RetryableError(f"the store received other bytes than were sent ({text})")
        return self._error_of(key, response.status, reason, text, response.headers.get("Retry-After", ""))

    def _object(self, key: str) -> str:
        return f"{self._objects}/{quote(key, safe='')}"


def _require_sha256(file: Path, hashes: Hashes, expected: str | None) -> None:
    if expected is not None and hashes.of("SHA-256").digest.hex() != expected:
        raise ArtifactError(f"{file}: its SHA-256 is not the manifest's; it is damaged")


def _document(response: Any) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(response.data)
        return document
    except ValueError as error:
        raise RetryableError("the answer is no JSON document") from error


def _stored(item: dict[str, Any]) -> StoredObject:
    digest = item.get("crc32c")
    checksum = Checksum("CRC32C", base64.b64decode(digest)) if digest else None
    # Google's own test server gives an empty object no size.
    size = int(item.get("size", 0))
    return StoredObject(item["name"], size, str(item["generation"]), checksum, str(item.get("contentEncoding", "")))
