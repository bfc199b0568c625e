"""A bucket as fetching and publishing see it: list, stat, read, write and delete objects by version."""

from __future__ import annotations

import mimetypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.shared.errors import StorageRefusedError
from components.shared.events.redaction import redact
from components.shared.retry import retry_after_s
from components.shared.storage.checksums import PIECE, Checked, Checksum
from components.shared.storage.encoding import is_packed, unpacked_bytes
from components.shared.storage.location import Location
from components.shared.storage.transfer import RetryableError, Transfer
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


class ChangedError(Exception):
    """An object has not, or no longer, the version that a request is for."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one object.

    Attributes:
        key: Its whole key in the bucket.
        bytes: Its size.
        version: GCS's generation or S3's ETag.
        checksum: The store's own, of the bytes as they are stored; None where it has none that can be computed.
        encoding: Their Content-Encoding; None where it is not known yet, as S3's listings do not tell.
    """

    key: str
    bytes: int
    version: str
    checksum: Checksum | None
    encoding: str | None = field(default=None, compare=False)


class Store(ABC):
    """One bucket. May be used by several threads at once.

    Requests are retried inside until the transfer's timeout; only `read` is one attempt, since its caller knows from
    which byte to go on. Every method raises StorageRefusedError where asking again will not help, and
    StorageUnavailableError when the timeout is over.
    """

    login_advice: str
    grant_advice: str
    endpoint_variable: str

    def __init__(self, location: Location, transfer: Transfer) -> None:
        self.location = location
        self.transfer = transfer

    @abstractmethod
    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key begins with a prefix, in the order of their keys."""

    @abstractmethod
    def stat(self, key: str) -> StoredObject | None:
        """The present version of an object; None if it is not there."""

    @abstractmethod
    def read(self, stored: StoredObject, start: int, stop: int) -> tuple[StoredObject, Pieces]:
        """Stored bytes [start, stop) of exactly this version, in pieces that are valid until the next one.

        Returns:
            The object, its encoding known, and the pieces.

        Raises:
            ChangedError: This version is no longer there.
            RetryableError: The connection broke, or could not be made; the bytes so far are right.
        """

    @abstractmethod
    def write(self, key: str, data: bytes, version: str | None) -> StoredObject:
        """Put bytes in place of a version: ABSENT if there must be none, None for whatever is there.

        Raises:
            ChangedError: Another version is there.
        """

    @abstractmethod
    def upload(self, key: str, file: Path) -> None:
        """Put a file in place of whatever is there, in parts or resumed where it broke if it is large."""

    @abstractmethod
    def delete(self, key: str, version: str | None) -> None:
        """Remove a version of an object, None for whatever is there; nothing happens if it is not there.

        Raises:
            ChangedError: Another version is there.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def read_whole(self, stored: StoredObject) -> bytes:
        """A small object, verified and unpacked.

        Raises:
            StorageRefusedError: It is packed in a way that is not read.
            ChangedError: This version is no longer there.
        """

        def attempt() -> bytes:
            found, pieces = self.read(stored, 0, stored.bytes) if stored.bytes else (stored, iter(()))
            data = b"".join(map(bytes, pieces))
            checked = Checked(found.checksum)
            checked.update(memoryview(data))
            if wrong := checked.wrong():
                raise RetryableError(f"its bytes came with a wrong {wrong} checksum")
            uri = self.uri(stored.key)
            return unpacked_bytes(data, uri) if is_packed(found.encoding or "", uri) else data

        return self.transfer.retry(self.uri(stored.key), attempt)

    def uri(self, key: str) -> str:
        """The address of an object, for messages."""
        return str(Location(self.location.scheme, self.location.bucket, key))

    def conditional_write(
        self, key: str, write: Callable[[], StoredObject], is_ours: Callable[[StoredObject], bool]
    ) -> StoredObject:
        """Retry a write on a condition, and recognise the work of an attempt whose answer was lost.

        Such an attempt may have been the one that changed the object, so that the next one fails its condition.
        """
        uncertain = False

        def attempt() -> StoredObject:
            nonlocal uncertain
            try:
                return write()
            except RetryableError:
                uncertain = True
                raise
            except ChangedError:
                found = self.stat(key) if uncertain else None
                if found is None or not is_ours(found):
                    raise
                return found

        return self.transfer.retry(self.uri(key), attempt)

    def error_of(self, key: str, status: int, code: str, text: str, retry_after: str = "") -> Exception:
        """The error that an answer means."""
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

    Args:
        location: In the bucket.
        transfer: What the store is for.
        credentials: A file of Google credentials, where the environment names none.

    Raises:
        StorageRefusedError: The client is not installed, or there are no credentials.
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


def pieces_of_body(readinto: Callable[[memoryview], int], expected: int) -> Pieces:
    """A body of so many bytes as it comes; `readinto` fills a buffer as far as bytes are there, 0 at the body's end.

    Raises:
        RetryableError: It ended early.
    """
    buffer = memoryview(bytearray(min(PIECE, expected)))
    left = expected
    while left > 0:
        count = readinto(buffer[: min(left, len(buffer))])
        if not count:
            raise RetryableError("the connection ended early")
        left -= count
        yield buffer[:count]


def content_type(name: str) -> str:
    """The content type of a file, by its name."""
    suffix = Path(name).suffix.lower()
    # Of a compressed file the type would be that of what is inside, and readers would unpack it.
    guessed, encoding = mimetypes.guess_type(name)
    return _TYPES.get(suffix) or (guessed if guessed and not encoding else None) or "application/octet-stream"
