"""The files in a bucket: names are listed, and content is fetched, images ahead of their use."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from components.data_prep.contents import Block, Encoded, Read
from components.data_prep.trees.bucket_images import fetched
from components.data_prep.trees.file_tree import FileTree, Stamps
from components.data_prep.trees.folder_tree import Folder, shows_picture
from components.data_prep.trees.name_tree import NameTree
from components.shared.errors import StorageRefusedError
from components.shared.storage.fetch import fetch_tree
from components.shared.storage.fetch_ahead import FetchAhead
from components.shared.storage.location import Location, key_problem
from components.shared.storage.store import ChangedError, StoredObject
from components.shared.text import shown

# By this much of its beginning an object without an image's ending is recognised as a picture.
_BEGINNING = 1 << 20

Fetch = Callable[[Location], Path]


class BucketTree(FileTree):
    """All objects below a location; or the one object there, as a tree that holds it alone.

    Args:
        location: The objects' common part.
        fetch: Makes a local file of an object that is no image, which stays while the tree is open; None: a
            temporary one.
        scratch: Directory for images that have been fetched; None: the machine's.

    Raises:
        StorageRefusedError: Nothing is there, it may not be read, or a name cannot be that of a file.
        StorageUnavailableError: The store does not answer.
        DataError: There are too many names.
    """

    def __init__(self, location: Location, fetch: Fetch | None = None, scratch: str | None = None) -> None:
        super().__init__(str(location), f"a {location.scheme}:// bucket")
        self._location, self._fetch = location, fetch or self._fetched
        self._objects: dict[str, StoredObject] = {}
        self._scratch = scratch
        self._local: dict[str, Path] = {}
        with ExitStack() as stack:
            self._ahead = stack.enter_context(FetchAhead(location, scratch))
            self.root = self._listed()
            self.stack = stack.pop_all()

    def _listed(self) -> Folder:
        names = NameTree(self.at)
        for stored in self._ahead.objects(self._location):
            if stored.key == self._location.key:
                self.is_file = True
                return Folder("", others=[self._location.name])
            name = stored.key.removeprefix(self._location.prefix)
            if problem := key_problem(name):
                uri = shown(self._location.child(name))
                raise StorageRefusedError(f"{uri}: cannot become a file: {problem}; rename the object")
            if names.add(name):
                self._objects[name] = stored
        return names.root()

    def at(self, file: str = "") -> str:
        """The address of an object, or of all."""
        return shown(self.name) if self.is_file else super().at(file)

    def local(self, file: str) -> Path:
        """What is fetched of the object."""
        if file not in self._local:
            self._local[file] = self._fetch(self._location if self.is_file else self._location.child(file))
        return self._local[file]

    @contextmanager
    def borrowed(self, file: str) -> Iterator[Path]:
        """What is fetched of the object, once where the disk has room for it, and else each time."""
        stored = self._objects.get(file)
        if stored is None or file in self._local or self._has_room(stored.bytes):
            yield self.local(file)
            return
        ((_, path),) = self._ahead.arrived([(file, stored)])
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)  # with the whole folder, where reading was given up

    def _has_room(self, size: int) -> bool:
        """Whether the disk has room for twice so many bytes, as other files need some, too."""
        return 2 * size <= shutil.disk_usage(self._scratch or tempfile.gettempdir()).free

    def stamps(self, files: Sequence[str]) -> Stamps:
        """Those of the objects' versions, which the store gives anew with each change."""
        values = [(str(self._location.child(file)), self._objects[file].version) for file in files]
        digests = [hashlib.blake2b(repr(each).encode(), digest_size=8).digest() for each in values]
        return np.frombuffer(b"".join(digests), "<u8")

    def read(self, files: Sequence[str]) -> Read:
        """What hands out fetched files, in the order in which they come."""
        return partial(self._read, files)

    def _read(self, files: Sequence[str], wanted: Collection[int]) -> Iterator[Encoded | Block]:
        return fetched(self._ahead, ((position, self._objects[files[position]]) for position in sorted(wanted)))

    def around(self) -> FileTree:
        """The tree of all objects that are beside the one."""
        folder = Location(self._location.scheme, self._location.bucket, self._location.key.rpartition("/")[0])
        return BucketTree(folder, self._fetch, self._scratch)

    def is_picture(self, real: str) -> bool:
        """Whether an object is a picture, by its beginning."""
        try:
            return shows_picture(io.BytesIO(self._ahead.beginning(self._objects[real.removeprefix("/")], _BEGINNING)))
        except ChangedError:
            return False

    def _fetched(self, location: Location) -> Path:
        return fetch_tree(
            location,
            Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="shutterline-", dir=self._scratch))),
        )
