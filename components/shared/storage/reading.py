"""What fetching and publishing both read: names below a place, and small objects."""

from __future__ import annotations

from components.shared.storage.content import Checked
from components.shared.storage.encoding import is_packed, unpacked_bytes
from components.shared.storage.location import Location
from components.shared.storage.objects import ObjectStore, StoredObject, Transient
from components.shared.storage.transfer import Transfer

# Unfinished files, below the directory they are for: on the same file system, and not among its names.
FETCHING = ".shutterline-fetching"


def below(location: Location) -> str:
    """What the keys of all objects below a location begin with."""
    return f"{location.key}/" if location.key else ""


def read_small(store: ObjectStore, transfer: Transfer, location: Location, stored: StoredObject) -> bytes:
    """The whole of a small object of a location's bucket, unpacked.

    Raises:
        StorageRefusedError: It is packed in a way that is not read.
        Changed: This version is no longer there.
    """
    uri = Location(location.scheme, location.bucket, stored.key)

    def attempt() -> bytes:
        data = b"".join(bytes(piece) for piece in store.read(stored, 0, stored.bytes))
        checked = Checked(stored.checksum)
        checked.update(memoryview(data))
        if wrong := checked.wrong():
            raise Transient(f"its bytes came with a wrong {wrong} checksum")
        return unpacked_bytes(data, uri) if is_packed(store.encoding(stored), uri) else data

    return transfer.persist(uri, attempt)
