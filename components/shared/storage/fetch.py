"""Fetch: objects in a bucket become files here, whole and verified or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from components.shared.artifacts.artifact import (
    WRITING_MARKER,
    ArtifactKind,
    FileRecord,
    Manifest,
    contents_folder,
    read_manifest,
    remove_files,
)
from components.shared.errors import ArtifactError, StorageRefusedError
from components.shared.files import naming
from components.shared.storage.content import is_packed
from components.shared.storage.download import Download
from components.shared.storage.location import Location, key_problem
from components.shared.storage.publish import FETCHING, writer_of
from components.shared.storage.store import ChangedError, Store, StoredObject, connect
from components.shared.storage.transfer import OnProgress, Transfer

_TRIES = 4  # of reading a location from the beginning, when it changes meanwhile

T = TypeVar("T")


def fetch_artifact(
    location: Location,
    kind: ArtifactKind,
    into: Path,
    *,
    wanted: Callable[..., Iterable[FileRecord]] = Manifest.files,
    progress: OnProgress | None = None,
) -> Path:
    """Fetch an artifact, or the `wanted` files of its manifest, to a local directory that opens like any other.

    Files are put below `into` under the manifest's names, each when it is whole and verified; the manifest last.
    Calling it again fetches only what is missing.

    Raises:
        StorageRefusedError: It is not there or cannot be used, is being written, or changes again and again.
        StorageUnavailableError: The store does not answer, or sends wrong bytes again and again.
        OSError: The local file system: with its file name.
    """
    put: set[str] = set()  # names of files that earlier attempts have put there, or an earlier artifact

    def fetch(store: Store, folder: Path) -> Path:
        # One request a thousand objects tells version, size and checksum of each.
        found = {stored.key: stored for stored in store.list(location.prefix)}
        if (stored := found.get(location.child(kind.manifest_file).key)) is None:
            raise _absent(store, location, kind, found)
        data = store.read_whole(stored)
        manifest = _manifest(data, kind, folder, str(location.child(kind.manifest_file)))
        # Copies that others made, and versions up to 0.7, have the files beside the manifest.
        contents = location.child(contents_folder(data))
        root = contents if contents.child(kind.manifest_file).key in found else location

        def download(record: FileRecord) -> Download:
            uri = root.child(record.file)
            there = found.get(uri.key)
            if there is not None and there.bytes != record.bytes and there.encoding is None:
                there = store.stat(uri.key)
            if there is not None and (there.bytes == record.bytes or is_packed(there.encoding or "", uri)):
                return Download(store, there, into / record.file, folder, record.sha256, record.bytes)
            # The listing's pages are not of one moment: perhaps there is another artifact by now.
            present = store.stat(stored.key)
            if present is None or present.version != stored.version:
                raise ChangedError(str(location))
            what = "is missing" if there is None else f"has {there.bytes} bytes, not {record.bytes}"
            raise StorageRefusedError(
                f"{uri}: {what}, though {kind.manifest_file} names it; run the step that makes the {kind.name} again"
            )

        records = {record.file: record for record in wanted(manifest)}
        downloads = [download(record) for record in records.values()]
        manifest_file = into / kind.manifest_file
        with suppress(FileNotFoundError):
            if (earlier := manifest_file.read_bytes()) != data:
                with suppress(StorageRefusedError):
                    files = _manifest(earlier, kind, folder, str(manifest_file)).files()
                    put.update(record.file for record in files)
                manifest_file.unlink()  # before the first of its files is another
        remove_files(into, put - records.keys())
        put.update(records)
        _download(store, downloads)
        fresh = folder / kind.manifest_file
        with naming(fresh):
            fresh.write_bytes(data)
        fresh.replace(manifest_file)
        return into

    return _fetched(location, into, progress, fetch)


def fetch_tree(location: Location, into: Path, *, mirror: bool = False, progress: OnProgress | None = None) -> Path:
    """Fetch every object below a prefix to the same relative names; or one object, to a file of its key's last part.

    With `mirror`, files below `into` that storage does not have are removed. Raises as :func:`fetch_artifact`, and
    where a name would lead out of `into`. Returns `into`; of one object, its file.
    """

    def fetch(store: Store, folder: Path) -> Path:
        objects, result = _tree(store, location, into)
        downloads = [Download(store, stored, file, folder) for file, stored in objects.items()]
        if mirror:
            _remove_others(into, objects.keys())
        _download(store, downloads)
        return result

    return _fetched(location, into, progress, fetch)


def list_names(location: Location) -> list[str]:
    """The names of the objects below a location, relative to it, in the order of their keys."""
    with closing(connect(location, Transfer())) as store:
        return [stored.key.removeprefix(location.prefix) for stored in store.list(location.prefix)]


def _fetched(location: Location, into: Path, progress: OnProgress | None, fetch: Callable[[Store, Path], T]) -> T:
    with _fetching(location, into, progress) as (store, folder):
        for _ in range(_TRIES):
            with suppress(ChangedError):
                result = fetch(store, folder)
                store.transfer.report()
                return result
    raise StorageRefusedError(
        f"{location}: was changed again and again while it was read; wait until nothing is written there any more"
    )


@contextmanager
def _fetching(location: Location, into: Path, progress: OnProgress | None) -> Iterator[tuple[Store, Path]]:
    """A connection, and a folder for unfinished files, this fetch's alone; kept where something is unfinished."""
    with closing(connect(location, Transfer(progress))) as store:
        is_new = not into.exists()
        into.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(into, os.O_RDONLY)
        try:
            # Steps of one machine that share what they fetch then find it there; the first gives up when nothing comes.
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


def _download(store: Store, downloads: list[Download]) -> None:
    store.transfer.expect(len(downloads), sum(download.bytes for download in downloads))
    for parent in {download.file.parent for download in downloads}:
        parent.mkdir(parents=True, exist_ok=True)
    largest_first = sorted(downloads, key=lambda download: -download.bytes)
    store.transfer.run_all(task for download in largest_first for task in download.tasks())


def _manifest(data: bytes, kind: ArtifactKind, folder: Path, name: str) -> Manifest:
    copy = folder / kind.manifest_file  # read as a file, as everywhere; the message names the object
    with naming(copy):
        copy.write_bytes(data)
    try:
        manifest: Manifest = read_manifest(folder, kind)
    except ArtifactError as error:
        raise StorageRefusedError(str(error).replace(str(copy), name)) from error
    finally:
        copy.unlink()
    return manifest


def _absent(
    store: Store, location: Location, kind: ArtifactKind, found: dict[str, StoredObject]
) -> StorageRefusedError:
    if not found:
        why = f"nothing is there; check the name, or run the step that makes the {kind.name}"
    elif writer := writer_of(store, found.get(location.child(WRITING_MARKER).key)):
        why = (
            f"is being written by {writer}; wait until that is done, or, if it was interrupted, run the step that "
            "makes it again"
        )
    else:
        why = (
            f"is no complete {kind.name}: {kind.manifest_file}, which is written last, is missing; check the name, or "
            "run the step that makes it again"
        )
    return StorageRefusedError(f"{location}: {why}")


def _tree(store: Store, location: Location, into: Path) -> tuple[dict[Path, StoredObject], Path]:
    found = {
        stored.key.removeprefix(location.prefix): stored
        for stored in store.list(location.prefix)
        if not stored.key.endswith("/")
    }
    folders = {str(parent) for name in found for parent in Path(name).parents}
    for name in found:
        problem = "other objects lie below it" if name in folders else key_problem(name)
        if problem:
            raise StorageRefusedError(f"{location.child(name)}: cannot become a file: {problem}; rename the object")
    if found:
        return {into / name: stored for name, stored in found.items()}, into
    single = store.stat(location.key) if location.key else None
    if single is None:
        raise StorageRefusedError(f"{location}: nothing is there; check the name")
    return {into / location.name: single}, into / location.name


def _remove_others(into: Path, wanted: Iterable[Path]) -> None:
    for folder, folders, names in os.walk(into, topdown=False):
        if FETCHING in Path(folder).relative_to(into).parts:
            continue
        for file in {Path(folder, name) for name in names} - set(wanted):
            file.unlink()
        for inner in (Path(folder, name) for name in folders if name != FETCHING):
            with suppress(OSError):  # it is not empty
                inner.rmdir()
