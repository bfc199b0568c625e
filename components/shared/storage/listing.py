"""What lies below a place in a bucket, by name."""

from __future__ import annotations

from components.shared.storage.location import Location
from components.shared.storage.reading import below
from components.shared.storage.stores import connect
from components.shared.storage.transfer import Transfer


def list_names(location: Location) -> list[str]:
    """The names of the objects below a location, relative to it, in the order of their keys.

    Raises:
        StorageRefusedError: No such bucket, forbidden, no credentials.
        StorageUnavailableError: The store does not answer.
    """
    store = connect(location, Transfer(location, "down"))
    try:
        start = below(location)
        return [stored.key.removeprefix(start) for stored in store.list(start)]
    finally:
        store.close()
