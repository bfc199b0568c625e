"""Objects of a bucket as temporary files, one after another: fetched before they are needed, removed after use."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

from components.shared.errors import StorageRefusedError
from components.shared.storage.download import Download
from components.shared.storage.location import Location
from components.shared.storage.store import ChangedError, StoredObject, connect
from components.shared.storage.transfer import Transfer, workers

# What is on this machine's disk at once: enough that no thread waits for the network, however many objects there are.
AHEAD_BYTES, AHEAD_FILES = 256 << 20, 512


T = TypeVar("T")


class FetchAhead:
    """Reads one bucket as a stream of files; use as a context manager.

    Args:
        location: Any in the bucket.
        scratch: Directory for the temporary files; None: the machine's.
    """

    def __init__(self, location: Location, scratch: str | None = None) -> None:
        self._transfer = Transfer()
        self._store = connect(location, self._transfer)
        self._folder = tempfile.TemporaryDirectory(prefix="shutterline-", dir=scratch, ignore_cleanup_errors=True)
        self._pool = ThreadPoolExecutor(workers(), thread_name_prefix="fetch")
        self._changed = threading.Condition()
        self._bytes = self._files = self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transfer.stop()
        with self._folder, closing(self._store):
            self._pool.shutdown(cancel_futures=True)

    def objects(self, location: Location) -> Iterator[StoredObject]:
        """The objects below a location, in the order of their keys, as the store lists them; or the one object there.

        StorageRefusedError: nothing is there, or it may not be listed.
        """
        is_empty = True
        for stored in self._store.list(location.prefix):
            is_empty = False
            if not stored.key.endswith("/"):  # a folder, as consoles make them
                yield stored
        if is_empty:
            single = self._store.stat(location.key) if location.key else None
            if single is None:
                raise StorageRefusedError(f"{location}: nothing is there; check the name")
            yield single

    def arrived(self, wanted: Iterable[tuple[T, StoredObject]]) -> Iterator[tuple[T, Path]]:
        """Fetch objects, several at once, and hand out each when it is there, in the order in which they come.

        The file is the caller's to remove. Only so much is fetched that is not yet handed out as there is room for.
        Raises as :func:`~components.shared.storage.fetch.fetch_tree`, and StorageRefusedError where an object is gone,
        or is another by now.
        """
        done: SimpleQueue[tuple[T, StoredObject, Future[Path]]] = SimpleQueue()
        files = size = 0
        coming = iter(wanted)
        following = next(coming, None)
        while files or following:
            while following and (not files or (files < AHEAD_FILES and size + following[1].bytes <= AHEAD_BYTES)):
                key, stored = following
                files, size, self._number = files + 1, size + stored.bytes, self._number + 1
                fetching = self._pool.submit(self._download, stored, f"{self._number}")
                fetching.add_done_callback(partial(_put, done, key, stored))
                following = next(coming, None)
            key, stored, fetched = done.get()
            files, size = files - 1, size - stored.bytes
            try:
                yield key, fetched.result()
            except ChangedError as error:
                uri = self._store.uri(stored.key)
                raise StorageRefusedError(
                    f"{uri}: was removed or replaced while the others were read; start again"
                ) from error

    def stated(self, keys: Iterable[str]) -> Iterator[tuple[str, StoredObject | None]]:
        """Keys in their order with the present version of each, or None; several are asked for at once."""
        coming = iter(keys)
        while asked := list(islice(coming, AHEAD_FILES)):
            yield from zip(asked, self._pool.map(self._store.stat, asked), strict=True)

    def beginning(self, stored: StoredObject, most: int) -> bytes:
        """An object's first bytes; a small one is verified and, where it is packed, unpacked."""
        if stored.bytes <= most:
            return self._store.read_whole(stored)

        def attempt() -> bytes:
            _, pieces = self._store.read(stored, 0, most)
            with closing(pieces):
                return b"".join(map(bytes, pieces))

        return self._transfer.retry(self._store.uri(stored.key), attempt)

    def fetch(self, stored: StoredObject) -> AbstractContextManager[Path]:
        """Begin to fetch an object, as soon as there is room for it; within the context it is a file.

        Earlier ones must be used, by other threads, while this waits for room. The context raises as
        :func:`~components.shared.storage.fetch.fetch_tree`, and ChangedError where the object is another by now.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._files or (self._files < AHEAD_FILES and self._bytes + stored.bytes <= AHEAD_BYTES)
            )
            self._files += 1
            self._bytes += stored.bytes
            self._number += 1
        return self._fetched(stored, self._pool.submit(self._download, stored, f"{self._number}"))

    def _download(self, stored: StoredObject, name: str) -> Path:
        folder = Path(self._folder.name)
        download = Download(self._store, stored, folder / name, folder)
        for task in download.tasks():
            task()
        return download.file

    @contextmanager
    def _fetched(self, stored: StoredObject, fetching: Future[Path]) -> Iterator[Path]:
        try:
            file = fetching.result()
            try:
                yield file
            finally:
                file.unlink(missing_ok=True)
        finally:
            with self._changed:
                self._files -= 1
                self._bytes -= stored.bytes
                self._changed.notify_all()


def _put(
    done: SimpleQueue[tuple[T, StoredObject, Future[Path]]], key: T, stored: StoredObject, fetched: Future[Path]
) -> None:
    done.put((key, stored, fetched))
