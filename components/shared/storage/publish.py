"""Publish: a local directory becomes an artifact in a bucket, whole or not at all.

Every publication puts its files into a folder named by its manifest's SHA-256, and then its manifest, in one
conditional write, in place of the one that is there. So two writers never write the same object unless it has the same
bytes, a reader has the files of the manifest that it has read, and a killed publication leaves a folder that no
manifest points to; the next publication removes it. A reader whose files are removed reads the newer manifest.

A marker says who writes. The writer who put it there last wins: each looks at it right before it replaces the
manifest, and before it removes anything. What is removed is only what a manifest that was replaced pointed to, or no
manifest does, in the version that was listed when the marker was still the writer's own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from components.shared.artifacts.artifact import (
    CONTENTS,
    WRITING_MARKER,
    ArtifactKind,
    Manifest,
    contents_folder,
    read_manifest,
    verify_files,
)
from components.shared.errors import ArtifactError, ShutterlineError, StorageRefusedError
from components.shared.storage.location import Location, key_problem
from components.shared.storage.store import ABSENT, ChangedError, Store, StoredObject, connect
from components.shared.storage.transfer import OnProgress, Transfer
from components.shared.text import shortened

# Unfinished files of a fetch, below the directory they are for: on the same file system, and not among its names.
FETCHING = ".shutterline-fetching"

_TRIES = 8  # of a step that others' writes undo
_GIVE_BACK_S = 4.0  # a step that is asked to end has seconds
_HERE_ALONE = (WRITING_MARKER, FETCHING)
_log = logging.getLogger("shutterline.storage")


class Publication:
    """Publishes a directory at a location, in place of an earlier artifact of the kind; use as a context manager.

    Raises:
        StorageRefusedError: At the start: no such bucket, forbidden, no credentials, or something else is there.
        StorageUnavailableError: The store does not answer.
    """

    def __init__(self, location: Location, kind: ArtifactKind) -> None:
        self.location = location
        self._kind = kind
        self._manifest = location.child(kind.manifest_file)
        self._marker_key = location.child(WRITING_MARKER).key
        self._transfer = Transfer()
        self._contents = re.compile(rf"{re.escape(location.prefix)}{CONTENTS.pattern}/")
        self._store: Store
        self._marker: StoredObject | None = None

    def __enter__(self) -> Self:
        # The marker is put there now, so that a missing bucket or permission is an error before the work.
        self._store = connect(self.location, self._transfer)
        try:
            self._require_own()
            since = datetime.now(UTC).isoformat(timespec="seconds")
            document = {"writer": uuid4().hex, "host": socket.gethostname(), "since": since}
            self._marker = self._store.write(self._marker_key, json.dumps(document).encode(), None)
        except BaseException:
            self._store.close()
            raise
        return self

    def publish(self, directory: Path, progress: OnProgress | None = None) -> Location:
        """Upload every file of an artifact directory, then its manifest: once it returns, readers have this artifact.

        Files beside those of the manifest go along. Returns the folder of the files.

        Raises:
            ArtifactError: The directory is no whole artifact of the kind.
            StorageRefusedError: Another writer took over, or permission was taken away.
            StorageUnavailableError: The store does not answer.
        """
        manifest: Manifest = read_manifest(directory, self._kind)
        data = (directory / self._kind.manifest_file).read_bytes()
        records = {record.file: record for record in manifest.files()}
        verify_files(directory, records.values(), sizes_alone=True)
        files = dict(_files(directory))
        sizes = {name: file.stat().st_size for name, file in files.items()}
        contents = self.location.child(contents_folder(data))
        keys = {name: contents.child(name).key for name in files}
        self._transfer.progress = progress
        self._transfer.expect(len(files) + 1, sum(sizes.values()) + len(data))

        def upload(name: str) -> None:
            self._store.upload(keys[name], files[name], records[name].sha256 if name in records else None)
            self._transfer.finished_file()

        left = sorted(files, key=lambda name: -sizes[name])  # the largest first: they take longest
        for _ in range(_TRIES):
            self._transfer.run_all(partial(upload, name) for name in left)
            # An earlier writer of the same bytes may have removed some a moment ago.
            there = {stored.key: stored.bytes for stored in self._store.list(contents.prefix)}
            left = [name for name in left if there.get(keys[name]) != sizes[name]]
            if not left:
                break
        else:
            raise self._taken_over()
        earlier = self._replace_manifest(data)
        self._transfer.finished_file()
        self._transfer.report()
        self._remove_earlier(earlier, {self._manifest.key, *keys.values()})
        return contents

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the marker, if it is this writer's; where that cannot be, the next writer replaces it."""
        self._store.close()
        if self._marker is None:
            return
        with (
            suppress(ShutterlineError, ChangedError),
            closing(connect(self.location, Transfer(timeout=_GIVE_BACK_S))) as store,
        ):
            store.delete(self._marker_key, self._marker.version)

    def _require_own(self) -> None:
        # In this order: a writer that ends meanwhile puts its manifest there before it removes its marker. Consoles put
        # empty objects named like folders.
        others = (stored.key for stored in self._store.list(self.location.prefix) if not stored.key.endswith("/"))
        other = next((key for key in others if key != self._marker_key and not self._contents.match(key)), None)
        found, data = self._present_manifest()
        problem = None
        if found is not None and not self._is_own(data):
            problem = f"{self._manifest}: is no manifest of a {self._kind.name}"
        elif found is None and other is not None:
            problem = f"{self.location}: holds other objects, such as {other}, and no {self._kind.name} to replace"
        if problem:
            raise StorageRefusedError(f"{problem}; name an empty or new location")

    def _is_own(self, data: bytes) -> bool:
        with suppress(ValueError, RecursionError):
            document = json.loads(data)
            if isinstance(document, dict) and {"schema_version", "created_by"} <= document.keys():
                kind = self._kind.manifest_type.model_fields.get("kind")
                return kind is None or document.get("kind") == kind.default
        return False

    def _replace_manifest(self, data: bytes) -> bytes:
        for _ in range(_TRIES):
            found, earlier = self._present_manifest()
            if not self._is_writer():
                break
            with suppress(ChangedError):
                self._store.write(self._manifest.key, data, found.version if found is not None else ABSENT)
                return earlier
        raise self._taken_over()

    def _present_manifest(self) -> tuple[StoredObject | None, bytes]:
        for _ in range(_TRIES):
            found = self._store.stat(self._manifest.key)
            with suppress(ChangedError):
                return found, self._store.read_whole(found) if found is not None else b""
        raise self._taken_over()

    def _is_writer(self) -> bool:
        present = self._store.stat(self._marker_key)
        return present is not None and self._marker is not None and present.version == self._marker.version

    def _taken_over(self) -> StorageRefusedError:
        writer = None
        with suppress(ChangedError, ShutterlineError):
            writer = writer_of(self._store, self._store.stat(self._marker_key))
        self._marker = None
        _log.warning("%s: files that this attempt uploaded stay there until the next publication", self.location)
        return StorageRefusedError(
            f"{self.location}: was taken over by {writer or 'another writer, who has finished'}; what is there is "
            "theirs. If that is not meant, see that two runs do not write to the same location, and run this step again"
        )

    def _remove_earlier(self, manifest: bytes, ours: set[str]) -> None:
        """Remove what no manifest points to any more; nothing else, as other artifacts may be below the same prefix."""
        beside: set[str] = set()  # as of versions up to 0.7, and of copies that others made
        with suppress(ValueError):
            replaced = self._kind.manifest_type.model_validate_json(manifest)
            beside = {self.location.child(record.file).key for record in replaced.files()}
        left = 0

        def remove(stored: StoredObject) -> None:
            nonlocal left
            with suppress(ChangedError, StorageRefusedError):
                if self._is_writer():
                    self._store.delete(stored.key, stored.version)
                    return
            left += 1

        try:
            stale = [
                stored
                for stored in self._store.list(self.location.prefix)
                if stored.key not in ours and (stored.key in beside or self._contents.match(stored.key))
            ]
            self._transfer.run_all(partial(remove, stored) for stored in stale)
        except ShutterlineError as error:
            _log.warning("%s: is published, and files of earlier versions may stay there: %s", self.location, error)
        if left:
            _log.warning("%s: is published, and %d files of earlier versions stay there", self.location, left)


def writer_of(store: Store, marker: StoredObject | None) -> str | None:
    """Who has put a marker there, and when, for a message; None where there is none."""
    if marker is None:
        return None
    try:
        document = json.loads(store.read_whole(marker))
        return f"a writer on {shortened(document['host'])} since {shortened(document['since'])}"
    except (ChangedError, ValueError, LookupError, TypeError):
        return "a writer"


def write_file(location: Location, file: Path) -> None:
    """Write one file to one object, over whatever was there."""
    with _object(location) as store:
        store.upload(location.key, file)


def delete(location: Location) -> None:
    """Remove one object; nothing happens if it is not there."""
    with _object(location) as store:
        store.delete(location.key, None)


@contextmanager
def _object(location: Location) -> Iterator[Store]:
    if not location.key:
        raise StorageRefusedError(f"{location}: is a whole bucket, and one object is needed; add its key")
    try:
        with closing(connect(location, Transfer())) as store:
            yield store
    except ChangedError as error:
        raise StorageRefusedError(f"{location}: the store refuses an unconditional change") from error


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Every file of a directory with its relative name; ArtifactError where that cannot be an object's."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name not in _HERE_ALONE)
        for name in names:
            file = Path(folder, name)
            if name in _HERE_ALONE or not file.is_file():
                continue
            relative = file.relative_to(directory).as_posix()
            if problem := key_problem(relative):
                raise ArtifactError(
                    f"{directory}: {relative!r} cannot be published: {problem}; rename or remove the file"
                )
            yield relative, file
