"""A bucket as fetching and publishing see it: list, stat, read, write and delete objects by version."""

from __future__ import annotations

import io
import mimetypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from components.shared.errors import RetryableError, StorageRefusedError
from components.shared.events.redaction import redact
from components.shared.retry import retry_after_s
from components.shared.storage.content import (
    LARGEST_RATIO,
    PIECE,
    Checked,
    Checksum,
    Hashes,
    is_packed,
    pieces_of,
    unpacked,
)
from components.shared.storage.location import Location
from components.shared.storage.transfer import Transfer
from components.shared.text import shortened

# Bytes as they come; to close them closes what they come over.
Pieces = Generator[memoryview, None, None]

ABSENT = ""  # the version of an object that is not there

_RETRIED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout"}
_RETRIED |= {"NoSuchUpload", "rateLimitExceeded", "userRateLimitExceeded"}
_BAD_LOGIN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

T = TypeVar("T")


class ChangedError(Exception):
    """An object has not, or no longer, the version that a request is for."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one object: `checksum` and `encoding` are of its bytes as they are stored."""

    key: str
    bytes: int
    version: str
    checksum: Checksum | None
    encoding: str | None = field(default=None, compare=False)


class Store(ABC):
    """One bucket; its underscored methods make one request each. May be used by several threads at once.

    Requests are retried until the transfer's timeout; only `read` is one attempt, since its caller knows from which
    byte to go on. Every method raises StorageRefusedError where asking again will not help, StorageUnavailableError
    when the timeout is over, and those that name a version ChangedError when another one is there.
    """

    login_advice: str
    grant_advice: str
    endpoint_variable: str

    def __init__(self, location: Location, transfer: Transfer) -> None:
        self.location = location
        self.transfer = transfer

    @abstractmethod
    def _page(self, prefix: str, token: str | None) -> tuple[list[StoredObject], str | None]: ...

    @abstractmethod
    def _stat(self, key: str) -> StoredObject | None: ...

    @abstractmethod
    def read(self, stored: StoredObject, start: int, stop: int) -> tuple[StoredObject, Pieces]:
        """Stored bytes [start, stop) of exactly this version, in pieces that are valid until the next one.

        Returns:
            The object, its encoding known, and the pieces.

        Raises:
            RetryableError: The connection broke, or could not be made; the bytes so far are right.
        """

    @abstractmethod
    def _write(self, key: str, data: bytes, version: str | None) -> StoredObject: ...

    @abstractmethod
    def upload(self, key: str, file: Path, sha256: str | None = None, *, is_new: bool = False) -> None:
        """Put a file in place of whatever is there, in parts or resumed where it broke if it is large.

        With `is_new` only where nothing is there.

        Raises:
            ArtifactError: Its SHA-256 is another one.
            ChangedError: Something is there that must not be; perhaps from an attempt whose answer was lost.
        """

    @abstractmethod
    def _delete(self, key: str, version: str | None) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key begins with a prefix, in the order of their keys."""
        token: str | None = None
        while True:
            page, token = self._retried(prefix, partial(self._page, prefix, token))
            yield from page
            if not token:
                return

    def stat(self, key: str) -> StoredObject | None:
        """The present version of an object; None if it is not there."""
        return self._retried(key, partial(self._stat, key))

    def read_whole(self, stored: StoredObject) -> bytes:
        """A small object, verified and unpacked."""
        uri = self.uri(stored.key)

        def attempt() -> bytes:
            found, pieces = self.read(stored, 0, stored.bytes) if stored.bytes else (stored, iter(()))
            data = b"".join(map(bytes, pieces))
            checked = Checked(found.checksum)
            checked.update(data)
            if wrong := checked.wrong():
                raise RetryableError(f"its bytes came with a wrong {wrong} checksum")
            if is_packed(found.encoding or "", uri):
                return b"".join(unpacked(io.BytesIO(data), len(data), uri, LARGEST_RATIO * PIECE))
            return data

        return self._retried(stored.key, attempt)

    def write(self, key: str, data: bytes, version: str | None) -> StoredObject:
        """Put bytes in place of a version: ABSENT if there must be none, None for whatever is there.

        An attempt whose answer was lost may have been the one that changed the object, so that the next one fails its
        condition: its work is recognised by the bytes.
        """
        uncertain = False

        def attempt() -> StoredObject:
            nonlocal uncertain
            try:
                stored = self._write(key, data, version)
            except RetryableError:
                uncertain = True
                raise
            except ChangedError:
                found = self.stat(key) if uncertain else None
                if found is None or not self._holds(found, data):
                    raise
                return found
            self.transfer.moved(len(data))
            return stored

        return self._retried(key, attempt)

    def create(self, key: str, file: Path, sha256: str | None = None) -> None:
        """Put a file where nothing is, or the same bytes already; other bytes are never replaced.

        Raises:
            ArtifactError: Its SHA-256 is another one.
            StorageRefusedError: Other bytes are there.
        """
        for _ in range(2):  # what comes first may come between
            found = self.stat(key)
            with suppress(ChangedError):
                if found is None:
                    self.upload(key, file, sha256, is_new=True)
                    return
                if self.holds_file(found, file):
                    self.transfer.found(found.bytes)
                    return
                break
        raise StorageRefusedError(
            f"{self.uri(key)}: holds something else, and is not replaced; remove it if it is not meant"
        )

    def holds_file(self, stored: StoredObject, file: Path) -> bool:
        """Whether an object has the bytes of a file, as they are stored."""
        if stored.bytes != file.stat().st_size:
            return False
        if stored.checksum is None:  # in S3 of what was uploaded in parts, or under a key of the server's
            wanted = Hashes("SHA-256")
            for piece in pieces_of(file):
                wanted.update(piece)
            return self._retried(stored.key, partial(self._sha256, stored)) == wanted.of("SHA-256")
        checked = Checked(stored.checksum)
        for piece in pieces_of(file):
            checked.update(piece)
        return checked.wrong() is None

    def _sha256(self, stored: StoredObject) -> Checksum:
        hashes = Hashes("SHA-256")
        for piece in self.read(stored, 0, stored.bytes)[1] if stored.bytes else ():
            hashes.update(piece)
        return hashes.of("SHA-256")

    def delete(self, key: str, version: str | None) -> None:
        """Remove a version of an object, None for whatever is there; nothing happens if it is not there."""
        self._retried(key, partial(self._delete, key, version))

    def uri(self, key: str) -> str:
        """The address of an object, for messages."""
        return str(Location(self.location.scheme, self.location.bucket, key))

    def _holds(self, stored: StoredObject, data: bytes) -> bool:
        if stored.checksum is None:  # in S3 under a key of the server's
            return self.read_whole(stored) == data
        checked = Checked(stored.checksum)
        checked.update(data)
        return checked.wrong() is None

    def _retried(self, key: str, attempt: Callable[[], T]) -> T:
        return self.transfer.retry(self.uri(key), attempt)

    def _error_of(self, key: str, status: int, code: str, text: str, retry_after: str = "") -> Exception:
        uri = self.uri(key)
        message = redact(shortened(" ".join(text.split()), 200)) or code
        if status in (408, 409, 429) or (status >= 500 and status != 501) or code in _RETRIED:
            return RetryableError(f"the store answers {status} {code} {message}", retry_after_s(retry_after))
        if status == 412 or code == "NoSuchKey":
            return ChangedError(uri)
        if status == 404:
            return StorageRefusedError(
                f"{self.location}: there is no bucket {self.location.bucket}, or none that these credentials may see; "
                f"create it, or check its name and {self.endpoint_variable}"
            )
        if status == 401 or code in _BAD_LOGIN:
            return StorageRefusedError(f"{uri}: the credentials are not accepted ({message}); {self.login_advice}")
        if code == "RequestTimeTooSkewed":
            return StorageRefusedError(f"{uri}: the store does not accept this machine's clock; set it")
        if status == 403:
            return StorageRefusedError(f"{uri}: forbidden ({message}); {self.grant_advice}")
        return StorageRefusedError(f"{uri}: the store refuses it: {status} {code} {message}")


def connect(location: Location, transfer: Transfer, credentials: str | None = None) -> Store:
    """The store of a location; its client is imported here, when it is first used.

    `credentials` is a file of Google credentials, where the environment names none. StorageRefusedError: the client is
    not installed, or there are no credentials.
    """
    try:
        if location.scheme == "gs":
            from components.shared.storage.gcs import GcsStore

            return GcsStore(location, transfer, credentials)
        from components.shared.storage.s3 import S3Store

        return S3Store(location, transfer)
    except ImportError as error:
        client = "google-cloud-storage" if location.scheme == "gs" else "boto3"
        raise StorageRefusedError(f"{location}: needs {client}; pip install 'shutterline[storage]'") from error


def pieces_of_body(body: Any, readinto: Callable[[memoryview], int], expected: int) -> Pieces:
    """A body of so many bytes as it comes, closed in the end; or RetryableError: it ended early."""
    with closing(body):
        buffer = memoryview(bytearray(min(PIECE, expected)))
        left = expected
        while left > 0:
            count = readinto(buffer[: min(left, len(buffer))])
            if not count:
                raise RetryableError("the connection ended early")
            left -= count
            yield buffer[:count]
        if hasattr(body, "release_conn"):  # urllib3's, which stays open then
            body.release_conn()


def content_type(name: str) -> str:
    """The content type of a file, by its name."""
    suffix = Path(name).suffix.lower()
    # Of a compressed file the type would be that of what is inside, and readers would unpack it.
    guessed, encoding = mimetypes.guess_type(name)
    return _TYPES.get(suffix) or (guessed if guessed and not encoding else None) or "application/octet-stream"
