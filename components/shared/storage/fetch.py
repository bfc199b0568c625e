"""Fetch: objects in a bucket become files here, whole and verified or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from components.shared.artifacts.artifact import (
    WRITING_MARKER,
    ArtifactKind,
    FileRecord,
    Manifest,
    contents_folder,
    read_manifest,
)
from components.shared.errors import ArtifactError, StorageRefusedError
from components.shared.files import naming
from components.shared.storage.download import Download, Wanted
from components.shared.storage.encoding import is_packed
from components.shared.storage.location import Location, key_problem
from components.shared.storage.publish import FETCHING, writer_of
from components.shared.storage.store import ChangedError, Store, StoredObject, connect
from components.shared.storage.transfer import OnProgress, Transfer

# From a manifest of the kind that is fetched (a ModelManifest, …) to the records of those files that are wanted.
Select = Callable[..., Iterable[FileRecord]]

_TRIES = 4  # of reading a location from the beginning, when it changes meanwhile


def fetch_artifact(
    location: Location,
    kind: ArtifactKind,
    into: Path,
    *,
    wanted: Select | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Fetch an artifact, or some of its files, to a local directory that opens like any other.

    Files are put below `into` under the manifest's names, each when it is whole and verified; the manifest last.
    Calling it again fetches only what is missing.

    Args:
        location: The artifact's prefix, such as ``gs://bucket/models/7``.
        kind: Which kind of artifact must be there.
        into: A directory; made if it is not there.
        wanted: From the manifest to the records of the files to fetch; None: all that the manifest names.
        progress: Called with how far it is.

    Raises:
        StorageRefusedError: It is not there or cannot be used, is being written, or changes again and again.
        StorageUnavailableError: The store does not answer, or sends wrong bytes again and again.
        OSError: The local file system: with its file name.
    """
    with _fetching(location, into, progress) as (store, folder):
        attempt = _Artifact(store, location, kind, into, folder)
        for _ in range(_TRIES):
            with suppress(ChangedError):
                attempt.fetch(wanted or Manifest.files)
                return into
    raise _unsteady(location)


def fetch_tree(location: Location, into: Path, *, mirror: bool = False, progress: OnProgress | None = None) -> Path:
    """Fetch every object below a prefix, or the one object of that name, to the same relative names.

    One object becomes the file ``into/<last part of its key>``.

    Args:
        location: A prefix, or one object.
        into: A directory; made if it is not there.
        mirror: Whether files that are below `into` and not in storage are removed: `into` is the fetch's alone then.
        progress: Called with how far it is.

    Returns:
        `into`; of one object, its file.

    Raises:
        StorageRefusedError: It is not there or cannot be used, a name would lead out of `into`, or it changes again and
            again.
        StorageUnavailableError: The store does not answer, or sends wrong bytes again and again.
        OSError: The local file system: with its file name.
    """
    with _fetching(location, into, progress) as (store, folder):
        for _ in range(_TRIES):
            with suppress(ChangedError):
                files, result = _tree(store, location, into)
                if mirror:
                    _remove_others(into, {wanted.file for wanted in files})
                _download(store, files, folder)
                store.transfer.finished()
                return result
    raise _unsteady(location)


def list_names(location: Location) -> list[str]:
    """The names of the objects below a location, relative to it, in the order of their keys."""
    store = connect(location, Transfer("down"))
    try:
        return [stored.key.removeprefix(location.prefix) for stored in store.list(location.prefix)]
    finally:
        store.close()


@dataclass(frozen=True)
class _Artifact:
    """An artifact that is fetched, over as many attempts as it takes.

    Attributes:
        put: Names of files that earlier attempts have put there, or an earlier artifact that was fetched.
    """

    store: Store
    location: Location
    kind: ArtifactKind
    into: Path
    folder: Path
    put: set[str] = field(default_factory=set)

    def fetch(self, select: Select) -> None:
        """Fetch the files of the manifest that is there, then the manifest; ChangedError if it is another by now."""
        # One request a thousand objects tells version, size and checksum of each.
        found = {stored.key: stored for stored in self.store.list(self.location.prefix)}
        if (stored := found.get(self.location.child(self.kind.manifest_file).key)) is None:
            raise self._absent(found)
        data = self.store.read_whole(stored)
        manifest = self._manifest(data, str(self.location.child(self.kind.manifest_file)))
        # Copies that others made, and versions up to 0.7, have the files beside the manifest.
        contents = self.location.child(contents_folder(data))
        root = contents if contents.child(self.kind.manifest_file).key in found else self.location
        records = {record.file: record for record in select(manifest)}
        wanted = [self._wanted(found, stored, root.child(record.file), record) for record in records.values()]
        manifest_file = self.into / self.kind.manifest_file
        with suppress(FileNotFoundError):
            if (earlier := manifest_file.read_bytes()) != data:
                with suppress(StorageRefusedError):
                    self.put.update(record.file for record in self._manifest(earlier, str(manifest_file)).files())
                manifest_file.unlink()  # before the first of its files is another
        self._remove(self.put - records.keys())
        self.put.update(records)
        _download(self.store, wanted, self.folder)
        fresh = self.folder / self.kind.manifest_file
        with naming(fresh):
            fresh.write_bytes(data)
        fresh.replace(manifest_file)
        self.store.transfer.finished()

    def _remove(self, names: set[str]) -> None:
        """Remove files of an artifact that is no longer there."""
        root = self.into.resolve()
        for name in names:
            file = self.into / name
            if file.parent.resolve().is_relative_to(root):  # a folder may be a link to elsewhere
                file.unlink(missing_ok=True)
                with suppress(OSError):
                    for folder in file.relative_to(self.into).parents:
                        (self.into / folder).rmdir()

    def _manifest(self, data: bytes, name: str) -> Manifest:
        # Read as a file, as everywhere; the message names the object.
        copy = self.folder / self.kind.manifest_file
        with naming(copy):
            copy.write_bytes(data)
        try:
            manifest: Manifest = read_manifest(self.folder, self.kind)
        except ArtifactError as error:
            raise StorageRefusedError(str(error).replace(str(copy), name)) from error
        finally:
            copy.unlink()
        return manifest

    def _wanted(
        self, found: dict[str, StoredObject], manifest: StoredObject, uri: Location, record: FileRecord
    ) -> Wanted:
        stored = found.get(uri.key)
        if stored is not None and stored.bytes != record.bytes and stored.encoding is None:
            stored = self.store.stat(uri.key)
        if stored is not None and (stored.bytes == record.bytes or is_packed(stored.encoding or "", uri)):
            return Wanted(stored, self.into / record.file, record.sha256, record.bytes)
        # The listing's pages are not of one moment: perhaps there is another artifact by now.
        present = self.store.stat(manifest.key)
        if present is None or present.version != manifest.version:
            raise ChangedError(str(self.location))
        what = "is missing" if stored is None else f"has {stored.bytes} bytes, not {record.bytes}"
        raise StorageRefusedError(
            f"{uri}: {what}, though {self.kind.manifest_file} names it; run the step that makes the "
            f"{self.kind.name} again"
        )

    def _absent(self, found: dict[str, StoredObject]) -> StorageRefusedError:
        if not found:
            return StorageRefusedError(
                f"{self.location}: nothing is there; check the name, or run the step that makes the {self.kind.name}"
            )
        if writer := writer_of(self.store, found.get(self.location.child(WRITING_MARKER).key)):
            return StorageRefusedError(
                f"{self.location}: is being written by {writer}; wait until that is done, or, if it was "
                "interrupted, run the step that makes it again"
            )
        return StorageRefusedError(
            f"{self.location}: is no complete {self.kind.name}: {self.kind.manifest_file}, which is written last, is "
            "missing; check the name, or run the step that makes it again"
        )


def _download(store: Store, files: list[Wanted], folder: Path) -> None:
    """Fetch files side by side, the largest first: they take longest."""
    store.transfer.expect(len(files), sum(wanted.stored.bytes for wanted in files))
    for parent in {wanted.file.parent for wanted in files}:
        parent.mkdir(parents=True, exist_ok=True)
    largest_first = sorted(files, key=lambda wanted: -wanted.stored.bytes)
    store.transfer.run_all(task for wanted in largest_first for task in Download(store, wanted, folder).tasks())


def _tree(store: Store, location: Location, into: Path) -> tuple[list[Wanted], Path]:
    """The objects below a prefix and their files; or one object and its file."""
    start = location.prefix
    found = [stored for stored in store.list(start) if not stored.key.endswith("/")]
    if found:
        names = {stored.key.removeprefix(start) for stored in found}
        folders = {str(parent) for name in names for parent in Path(name).parents}
        for name in names:
            uri = location.child(name)
            if problem := key_problem(name):
                raise StorageRefusedError(f"{uri}: cannot become a file: {problem}; rename the object")
            if name in folders:
                raise StorageRefusedError(f"{uri}: cannot become a file: other objects lie below it; rename the object")
        return [Wanted(stored, into / stored.key.removeprefix(start)) for stored in found], into
    single = store.stat(location.key) if location.key else None
    if single is None:
        raise StorageRefusedError(f"{location}: nothing is there; check the name")
    return [Wanted(single, into / location.name)], into / location.name


def _remove_others(into: Path, wanted: set[Path]) -> None:
    """Remove what earlier fetches have left and storage no longer has."""
    for folder, folders, names in os.walk(into, topdown=False):
        if FETCHING in Path(folder).relative_to(into).parts:
            continue
        for file in {Path(folder, name) for name in names} - wanted:
            file.unlink()
        for inner in (Path(folder, name) for name in folders if name != FETCHING):
            with suppress(OSError):  # it is not empty
                inner.rmdir()


@contextmanager
def _fetching(location: Location, into: Path, progress: OnProgress | None) -> Iterator[tuple[Store, Path]]:
    """A connection, and a folder for unfinished files, this fetch's alone; kept where something is unfinished.

    Another fetch into the same directory waits: steps of one machine that share what they fetch then find it there.
    It does not wait for ever, since the first gives up when nothing comes.
    """
    store = connect(location, Transfer("down", progress))
    try:
        is_new = not into.exists()
        into.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(into, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            folder = into / FETCHING
            try:
                folder.mkdir(parents=True, exist_ok=True)  # the fetch before may have removed all of it
                yield store, folder
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                with suppress(OSError):  # they are not empty
                    folder.rmdir()
                    if is_new:
                        into.rmdir()
        finally:
            os.close(descriptor)
    finally:
        store.close()


def _unsteady(location: Location) -> StorageRefusedError:
    return StorageRefusedError(
        f"{location}: was changed again and again while it was read; wait until nothing is written there any more"
    )
