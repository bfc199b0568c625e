"""Where versions are published: each whole or not at all, and never replaced."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from components.shared.errors import InputError, StorageRefusedError
from components.shared.files import is_full, naming, new_folder, sha256_of, unwritable
from components.shared.locks import HeldError, locked, remove_held
from components.shared.logs import step_logger
from components.shared.storage.location import AnyPath, Location
from components.shared.storage.store import Store, connect
from components.shared.storage.transfer import OnProgress, Transfer

# Another publisher of the same version is waited for: it publishes the same, or ends.
_LOCK_TIMEOUT_S = 600.0

_log = step_logger("publish")


def publish_version(
    where: AnyPath, version: str, files: Mapping[str, Path], last: str, progress: OnProgress | None = None
) -> bool:
    """Publish files as a version, all of them before the last one; a version that is whole is never changed.

    Args:
        where: The directory or bucket prefix of all versions.
        version: Its name there.
        files: By relative name.
        last: The name without which the version does not count as whole.
        progress: Gets the progress of an upload.

    Returns:
        Whether it is new; False: it was whole already, with the same files.

    Raises:
        InputError: Something else is there under the version's name, or the directory cannot be written.
        StorageUnavailableError: The store does not answer.
    """
    if isinstance(where, Location):
        with closing(connect(where, Transfer(progress))) as store:
            return _to_bucket(store, where.child(version), files, last)
    return _to_directory(where.absolute() / version, files)


def _to_bucket(store: Store, version: Location, files: Mapping[str, Path], last: str) -> bool:
    key_of = {name: version.child(name).key for name in files}
    there = {stored.key: stored for stored in store.list(version.prefix)}
    if foreign := sorted(there.keys() - key_of.values()):
        raise StorageRefusedError(f"{store.uri(foreign[0])}: is no file of this version; {version} is left as it is")
    is_new = key_of[last] not in there
    # Files that an interrupted attempt left are compared, and not sent again.
    store.transfer.expect(len(files), sum(file.stat().st_size for file in files.values()))

    def create(name: str) -> None:
        store.create(key_of[name], files[name])
        store.transfer.finished_file()

    largest_first = sorted(files.keys() - {last}, key=lambda name: (-files[name].stat().st_size, name))
    store.transfer.run_all(partial(create, name) for name in largest_first)
    create(last)
    store.transfer.report()
    return is_new


def _to_directory(version: Path, files: Mapping[str, Path]) -> bool:
    try:
        version.parent.mkdir(parents=True, exist_ok=True)
        with _alone(version):
            if os.path.lexists(version):
                _require_same(version, files)
                return False
            _remove_unfinished(version)
            with new_folder(version) as folder:
                _copy(folder, files)
            return True
    except OSError as error:
        if is_full(error):
            raise
        raise unwritable("publish_uri", version.parent, error) from error


@contextmanager
def _alone(version: Path) -> Iterator[None]:
    """Within, no other process publishes this version."""
    lock = version.with_name(f".{version.name}.lock")

    def wait(error: HeldError) -> None:
        _log.info("%s: %s publishes it, too; waiting for its end", version, error)

    try:
        with locked(lock, timeout_s=_LOCK_TIMEOUT_S, on_wait=wait):
            try:
                yield
            finally:
                remove_held(lock)
    except HeldError as error:
        raise InputError(f"{version}: is being published by {error}; wait for its end, or end it") from error


def _remove_unfinished(version: Path) -> None:
    """Remove what a publisher that was killed has left."""
    for folder in version.parent.glob(f".{version.name}-????????"):
        shutil.rmtree(folder, ignore_errors=True)


def _copy(folder: Path, files: Mapping[str, Path]) -> None:
    for name, file in files.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with naming(copy):
            shutil.copyfile(file, copy)
            with copy.open("rb+") as stream:
                os.fsync(stream.fileno())


def _require_same(version: Path, files: Mapping[str, Path]) -> None:
    """Refuse to go on where something else is there."""
    there = {path.relative_to(version).as_posix(): path for path in version.rglob("*") if path.is_file()}
    for name in sorted(there.keys() | files.keys()):
        if name in there and name in files:
            same = there[name].stat().st_size == files[name].stat().st_size
            if same and sha256_of(there[name]) == sha256_of(files[name]):
                continue
        raise InputError(
            f"{version / name}: is not what this version has there; a published version stays as it is; remove "
            f"{version} if it is not meant"
        )
