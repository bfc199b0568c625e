"""Publish: a local directory becomes an artifact in a bucket, whole or not at all, of one writer alone.

Stores compare and swap one object at a time, so the object of the manifest is what writers compete for:

1. A writer puts its claim in the manifest's place. From there no reader opens the artifact, and no earlier writer can
   finish: each replaces its own claim alone.
2. It lists the versions of what lies there, and writes each file in place of the version listed. An earlier writer
   that is still at it has listed versions of before: what the new one has written it cannot replace. (S3's versions
   are made of the content and may come back, so there a writer also looks at the claim right before each write.)
3. It removes what earlier writers left, as far as their manifests and claims name it.
4. It replaces its claim by the manifest.

So whoever claims last wins, everybody else gets an error, and no mixture is ever opened. No file is taken for written
because the same bytes lie there already: an earlier writer could still replace that version.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from components.shared.artifacts.artifact import WRITING_MARKER, ArtifactKind, Manifest, read_manifest, verify_files
from components.shared.errors import ArtifactError, ShutterlineError, StorageRefusedError
from components.shared.storage.claim import Claim, claim_in, earlier_files, told
from components.shared.storage.content import Content, content_of
from components.shared.storage.location import Location, key_problem
from components.shared.storage.objects import ABSENT, Changed, ObjectStore, StoredObject
from components.shared.storage.progress import OnProgress
from components.shared.storage.reading import FETCHING, below, read_small
from components.shared.storage.stores import connect
from components.shared.storage.transfer import Transfer, run_all

_TRIES = 8  # of a step that others' writes undo
# What is given to taking a claim back: a step that is told to end has seconds.
_GOODBYE_S = 4.0
_HERE_ALONE = (WRITING_MARKER, FETCHING)


class Publication:
    """Claims a place for an artifact, and publishes a directory there; use as a context manager.

    Args:
        location: The prefix that becomes the artifact.
        kind: Which kind of artifact; an earlier one of this kind is replaced.
        progress: Told how far it is.

    Raises:
        InputError: The environment's patience is no positive number.
    """

    def __init__(self, location: Location, kind: ArtifactKind, *, progress: OnProgress | None = None) -> None:
        self.location = location
        self._kind = kind
        self._manifest_key = location.child(kind.manifest_file).key
        self._transfer = Transfer(location, "up", progress)
        self._open: ObjectStore | None = None
        self._claim = Claim(kind.name)
        self._held: StoredObject | None = None  # the claim as it lies there
        self._earlier: bytes | None = None  # the manifest that the claim replaced
        self._uploaded: dict[str, StoredObject] | None = None  # by key; None before the first is begun
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Claim the place: from here on no reader opens what lies there, and earlier writers cannot finish.

        Raises:
            StorageRefusedError: No such bucket, forbidden, no credentials, or something else lies there.
            StorageUnavailableError: The store does not answer.
        """
        self._open = connect(self.location, self._transfer)
        try:
            for _ in range(_TRIES):
                with suppress(Changed):
                    self._take_over()
                    return self
            raise StorageRefusedError(
                f"{self.location}: others claim it again and again; let one of them finish, or name another place"
            )
        except BaseException:
            self._open.close()
            raise

    def publish(self, directory: Path) -> None:
        """Upload every file of an artifact directory and commit its manifest last.

        Once it returns, readers see this artifact, and what earlier writers left of theirs is gone. What a writer that
        was overtaken still had on the way may arrive later; no manifest names it.

        Args:
            directory: A whole artifact of the kind; files beside those of the manifest go along.

        Raises:
            ArtifactError: The directory is no whole artifact of the kind.
            StorageRefusedError: Another writer took over, or permission was taken away.
            StorageUnavailableError: The store does not answer.
            OSError: A file cannot be read.
        """
        manifest: Manifest = read_manifest(directory, self._kind)
        data = (directory / self._kind.manifest_file).read_bytes()
        records = {record.file: record for record in manifest.files()}
        files = {name: file for name, file in _files(directory) if name != self._kind.manifest_file}
        if missing := next((name for name in records if name not in files), None):
            raise ArtifactError(f"{directory / missing}: is missing, though the manifest names it")
        self._transfer.expect(len(files) + 1, sum(file.stat().st_size for file in files.values()) + len(data))

        before = self._claim.files
        # Before the first of them, so that whoever takes over after a kill knows what to clear away.
        self._claim = replace(self._claim, files=tuple(sorted({*before, *files})))
        self._held = self._replace_claim(self._claim.document())
        listed = self._listed()
        self._uploaded = {}
        # The largest first: they take longest.
        largest_first = sorted(files.items(), key=lambda entry: -entry[1].stat().st_size)

        def upload(name: str, file: Path) -> None:
            if record := records.get(name):
                verify_files(directory, [record])
            self._upload(name, file, listed)

        run_all(self._transfer, (partial(upload, name, file) for name, file in largest_first))
        # While the claim still says what may be there: once the manifest lies in its place, nobody knows. By what lies
        # there now: a writer that was overtaken may have had a file on the way when we listed first.
        self._clear_away(before, files, self._settled(files))
        self._replace_claim(data)
        self._held = None
        self._transfer.moved(len(data))
        self._transfer.finished_file()
        self._transfer.finished()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without :meth:`publish`, take the claim back and remove what was uploaded, as far as the store lets us."""
        self._store.close()
        if self._held is None:
            return
        self._transfer = Transfer(self.location, "up", patience_s=_GOODBYE_S)
        # It is an attempt: the claim that stays says who was interrupted, and the next writer takes it over.
        with suppress(ShutterlineError, Changed, OSError):
            self._open = connect(self.location, self._transfer)
            try:
                self._give_back()
            finally:
                self._store.close()

    @property
    def _store(self) -> ObjectStore:
        if self._open is None:
            raise RuntimeError("a Publication is a context manager")
        return self._open

    def _take_over(self) -> None:
        """Put the claim in the place of whatever is there and may be replaced.

        Raises:
            Changed: Somebody else was faster.
        """
        found = self._store.stat(self._manifest_key)
        if found is None:
            # Consoles put empty objects named like folders.
            others = (stored for stored in self._store.list(below(self.location)) if not stored.key.endswith("/"))
            if (other := next(others, None)) is not None:
                if self._store.stat(self._manifest_key) is not None:
                    raise Changed("a writer has claimed the place since")
                raise StorageRefusedError(
                    f"{self.location}: holds other objects, such as {other.key}, and no {self._kind.name} to replace; "
                    "name an empty or new place"
                )
            files: tuple[str, ...] = ()
            data = None
        else:
            data = read_small(self._store, self._transfer, self.location, found)
            names = earlier_files(data, self._kind)
            if names is None:
                raise StorageRefusedError(
                    f"{self.location.child(self._kind.manifest_file)}: is no manifest of a {self._kind.name}; name "
                    "an empty or new place"
                )
            files = names
        self._claim = Claim(self._kind.name, tuple(sorted({*self._claim.files, *files})))
        document = self._claim.document()
        self._held = self._put(self._manifest_key, document, found.version if found is not None else ABSENT)
        self._earlier = data if data is not None and claim_in(data) is None else None

    def _put(self, key: str, data: bytes, version: str | None) -> StoredObject:
        return self._store.write(key, Content(data, len(data), "application/json"), version)

    def _replace_claim(self, data: bytes) -> StoredObject:
        """Put a newer claim, or the manifest, in the place of the claim."""
        if self._held is None:
            raise RuntimeError("publish() is called once, within the context")
        try:
            return self._put(self._manifest_key, data, self._held.version)
        except Changed:
            raise self._taken_over() from None

    def _upload(self, name: str, file: Path, listed: dict[str, StoredObject]) -> None:
        """Write one file in place of the version that was listed."""
        key = self.location.child(name).key
        content = content_of(file)
        stored = listed.get(key)
        for _ in range(_TRIES):
            try:
                written = self._store.write(key, content, _version(stored), self._check_claim)
            except Changed:
                # If the claim is ours still, it was a writer who has lost it already, and who listed before us.
                stored = self._store.stat(key)
                self._check_claim()
                continue
            with self._lock:
                self._files_written[key] = written
            self._transfer.finished_file()
            return
        raise self._taken_over()

    @property
    def _files_written(self) -> dict[str, StoredObject]:
        if self._uploaded is None:
            raise RuntimeError("nothing is uploaded yet")
        return self._uploaded

    def _settled(self, files: dict[str, Path]) -> dict[str, StoredObject]:
        """See that what we wrote is what lies there; what lies there then.

        Not every S3 server heeds the conditions of a write; there a writer who has lost the place may have written
        over our files.
        """
        for _ in range(_TRIES):
            present = self._listed()
            lost = [
                name
                for name in files
                if _version(present.get(key := self.location.child(name).key)) != self._files_written[key].version
            ]
            if not lost:
                return present
            self._transfer.found(-sum(files[name].stat().st_size for name in lost))
            run_all(self._transfer, (partial(self._upload, name, files[name], present) for name in lost))
        raise self._taken_over()

    def _listed(self) -> dict[str, StoredObject]:
        """The versions of what lies below the place, all of a time when it was ours.

        That is checked after they are read: a listing may come so late that it has the next writer's files in it.
        """
        listed = {stored.key: stored for stored in self._store.list(below(self.location))}
        self._check_claim()
        return listed

    def _check_claim(self) -> None:
        """Go on only while the place is ours.

        Raises:
            StorageRefusedError: It is not.
        """
        present = self._store.stat(self._manifest_key)
        if _version(present) != _version(self._held):
            raise self._taken_over()

    def _taken_over(self) -> StorageRefusedError:
        """The error of a writer who has lost the place; from here on there is nothing of ours to take back."""
        self._held = None
        who = "somebody"
        with suppress(Changed, ShutterlineError):
            present = self._store.stat(self._manifest_key)
            if present is not None:
                claim = claim_in(read_small(self._store, self._transfer, self.location, present))
                who = f"a writer {told(claim)}" if claim is not None else "another writer, who has finished"
        return StorageRefusedError(
            f"{self.location}: was taken over by {who}; what lies there is theirs. If that is not meant, see that two "
            "runs do not write to the same place, and run this step again"
        )

    def _clear_away(self, before: Iterable[str], files: dict[str, Path], listed: dict[str, StoredObject]) -> None:
        """Remove what earlier writers left: what their manifests and claims name, and what lies in our own folders.

        Nothing else: other artifacts may lie below the same prefix.
        """
        named = {self.location.child(name).key for name in before}
        folders = tuple({self.location.child(name.partition("/")[0]).key + "/" for name in files if "/" in name})
        ours = {self.location.child(name).key for name in files} | {self._manifest_key}
        stale = [
            stored
            for key, stored in listed.items()
            if key not in ours and (key in named or (folders and key.startswith(folders)))
        ]
        run_all(self._transfer, (partial(self._remove, stored) for stored in stale))

    def _remove(self, stored: StoredObject) -> None:
        self._check_claim()
        # What may not be removed does no harm: no manifest names it.
        with suppress(Changed, StorageRefusedError):
            self._store.delete(stored.key, stored.version)

    def _give_back(self) -> None:
        """Leave the place as it was found; where that cannot be, leave the claim."""
        if self._held is None:
            return
        if self._uploaded is None and self._earlier is not None:
            self._put(self._manifest_key, self._earlier, self._held.version)
            return
        run_all(self._transfer, (partial(self._remove, stored) for stored in (self._uploaded or {}).values()))
        # What is left of an earlier artifact is only known to be one as long as a claim says so.
        left = (stored for stored in self._store.list(below(self.location)) if stored.key != self._manifest_key)
        if next(left, None) is None:
            self._store.delete(self._manifest_key, self._held.version)


def _version(stored: StoredObject | None) -> str:
    return stored.version if stored is not None else ABSENT


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Every file of a directory with its relative name.

    Raises:
        ArtifactError: A name cannot be that of an object.
    """
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


def write_file(location: Location, file: Path) -> None:
    """Write one file to one object, in one piece, over whatever was there.

    Raises:
        StorageRefusedError: No such bucket, forbidden, no credentials.
        StorageUnavailableError: The store does not answer.
        OSError: The file cannot be read.
    """

    def write(store: ObjectStore) -> None:
        store.write(location.key, content_of(file), None)

    _once(location, write)


def delete(location: Location) -> None:
    """Remove one object; nothing happens if it is not there.

    Raises:
        StorageRefusedError: No such bucket, forbidden, no credentials.
        StorageUnavailableError: The store does not answer.
    """
    _once(location, lambda store: store.delete(location.key, None))


def _once(location: Location, work: Callable[[ObjectStore], None]) -> None:
    if not location.key:
        raise StorageRefusedError(f"{location}: is a whole bucket, and one object is needed; add its key")
    store = connect(location, Transfer(location, "up"))
    try:
        work(store)
    except Changed as error:
        raise StorageRefusedError(f"{location}: the store refuses an unconditional change") from error
    finally:
        store.close()
