"""Images in buckets that a manifest names by their URIs: found when it is listed, fetched ahead while they are read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from components.data_prep.contents import Block, Encoded, FilePart, Read
from components.shared.errors import StorageRefusedError
from components.shared.storage.fetch_ahead import FetchAhead
from components.shared.storage.location import Location
from components.shared.storage.store import StoredObject

# To ask for an object costs a request, and to list a thousand another: a folder is listed for as many as this, and
# until it has shown so many others for each.
_LISTED_FROM, _OTHERS, _FIRST_OTHERS = 20, 20, 10_000


class BucketImages:
    """Objects of one bucket.

    Args:
        ahead: Fetches from it.
        location: Any in it.
    """

    def __init__(self, ahead: FetchAhead, location: Location) -> None:
        self._ahead, self._location = ahead, location
        self._found: dict[str, StoredObject] = {}

    def find(self, keys: Collection[str]) -> list[str]:
        """Find objects by their keys; those that are not there."""
        wanted: dict[str, set[str]] = {}
        for key in keys:
            wanted.setdefault(key.rpartition("/")[0], set()).add(key)
        for folder, inside in wanted.items():
            if len(inside) >= _LISTED_FROM:
                location = Location(self._location.scheme, self._location.bucket, folder)
                most = _FIRST_OTHERS + _OTHERS * len(inside)
                with suppress(StorageRefusedError):  # nothing is there, or it may not be listed: each is asked for
                    listed = islice(self._ahead.objects(location), most)
                    self._found |= {stored.key: stored for stored in listed if stored.key in inside}
        rest = [key for key in keys if key not in self._found]
        for key, stored in self._ahead.stated(rest):
            if stored is not None:
                self._found[key] = stored
        return [key for key in rest if key not in self._found]

    def read(self, keys: Sequence[str]) -> Read:
        """What hands out fetched files by their positions in `keys`, in the order in which they come."""
        return partial(self._read, keys)

    def _read(self, keys: Sequence[str], wanted: Collection[int]) -> Iterator[Encoded | Block]:
        return fetched(self._ahead, ((position, self._found[keys[position]]) for position in sorted(wanted)))


def fetched(ahead: FetchAhead, objects: Iterable[tuple[int, StoredObject]]) -> Iterator[Encoded | Block]:
    """Objects by their positions as images, in the order in which they come; each is removed once it is decoded."""
    for (position, size), path in ahead.arrived(((position, stored.bytes), stored) for position, stored in objects):
        yield Encoded(position, FilePart(str(path)), release=partial(os.unlink, path), fetched=size)
