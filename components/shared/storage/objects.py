"""What a store of objects is to fetching and publishing: list, stat, read a range, write and delete by version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from components.shared.storage.content import Checksum, Content

# The version of an object that is not there.
ABSENT = ""


class Transient(Exception):  # noqa: N818 - a state of the store or of the way there, not a fault of ours
    """Not now; the same request may succeed later.

    Attributes:
        retry_after_s: How long the store wants to be left alone, if it says so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Changed(Exception):  # noqa: N818 - what somebody else did
    """An object has not, or no longer, the version that a request is for."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one object.

    Attributes:
        key: Its whole key in the bucket.
        bytes: Its size.
        version: GCS's generation or S3's ETag.
        checksum: The store's own of the bytes as they are stored; None where it has none that can be computed.
        encoding: Their Content-Encoding; None where it has not been asked for.
    """

    key: str
    bytes: int
    version: str
    checksum: Checksum | None
    encoding: str | None = field(default=None, compare=False)


class ObjectStore(Protocol):
    """One bucket. May be used by several threads at once.

    Requests are retried inside, with the transfer's patience; only `read` is one attempt, since its caller knows from
    which byte to go on. Every method raises StorageRefusedError where asking again will not help, and
    StorageUnavailableError when patience ends.
    """

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key begins with a prefix, in the order of their keys; pages are asked for as needed."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """The present version of an object; None if it is not there."""
        ...

    def read(self, stored: StoredObject, start: int, stop: int) -> Iterator[memoryview]:
        """Stored bytes [start, stop) of exactly this version, in pieces that are valid until the next one is asked for.

        Raises:
            Changed: This version is no longer there.
            Transient: The connection broke, or was not to be had; what was given out so far is right.
        """
        ...

    def encoding(self, stored: StoredObject) -> str:
        """The Content-Encoding of exactly this version, empty if it has none; costs nothing after it was read.

        Raises:
            Changed: This version is no longer there.
        """
        ...

    def write(
        self, key: str, content: Content, version: str | None, check: Callable[[], None] | None = None
    ) -> StoredObject:
        """Put an object in place of a version: ABSENT if there must be none, None for whatever is there.

        Args:
            key: The object's.
            content: What it is to hold.
            version: What it is to replace.
            check: Raises where the object must no longer be written. Called at the last moment by stores whose versions
                are made of content, so that a version may come back; others need no such call.

        Raises:
            Changed: Something else lies there.
        """
        ...

    def delete(self, key: str, version: str | None) -> None:
        """Remove a version of an object, None for whatever is there; nothing happens if it is not there.

        Raises:
            Changed: Another version lies there.
        """
        ...

    def close(self) -> None:
        """Let go of the connections."""
        ...
