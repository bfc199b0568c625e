"""Writes a version of a model to a model repository, in a folder or a bucket: whole, or not at all.

What versions share is written first and the model's file last, each at once, so that a version that can be seen is
whole. A version that is there is never replaced.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from components.shared.artifacts.artifact import remove_files
from components.shared.artifacts.model import MAX_ONNX_BYTES
from components.shared.errors import InputError, ShutterlineError
from components.shared.files import is_full, new_folder, read_regular, replacing, unwritable, writing
from components.shared.storage.location import AnyPath, Location
from components.shared.storage.store import ABSENT, ChangedError, Store, connect
from components.shared.storage.transfer import Transfer
from pipelines.serving.layouts import CONFIG_FILE, LABELS_FILE, MARK, Repository, interface


class _Target(ABC):
    """A folder or a prefix, by names below it."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Of what is there, at least down to the folders of models."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file; None: it is not there."""

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file at once, over an earlier one."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, and a folder that it leaves empty."""

    @abstractmethod
    def add(self, name: str, data: bytes) -> bool:
        """Write a new file at once; False: it is there already."""


class _Folder(_Target):
    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Iterator[str]:
        for entry in self._path.iterdir() if self._path.exists() else ():
            for inner in entry.iterdir() if entry.is_dir() else [entry]:
                yield inner.relative_to(self._path).as_posix()

    def read(self, name: str) -> bytes | None:
        try:
            return read_regular(self._path / name, MAX_ONNX_BYTES)
        except FileNotFoundError:
            return None

    def replace(self, name: str, data: bytes) -> None:
        file = self._path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as output:
            output.write(data)

    def remove(self, name: str) -> None:
        remove_files(self._path, [name])

    def add(self, name: str, data: bytes) -> bool:
        # The folder of a version appears with its file: a server that watches loads any that it sees.
        file = self._path / name
        try:
            with new_folder(file.parent) as folder, writing(folder / file.name) as output:
                output.write(data)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            return False
        return True


class _Bucket(_Target):
    def __init__(self, location: Location, store: Store) -> None:
        self._location = location
        self._store = store

    def names(self) -> Iterator[str]:
        for stored in self._store.list(self._location.prefix):
            if not stored.key.endswith("/"):  # consoles put empty objects named like folders
                yield stored.key.removeprefix(self._location.prefix)

    def read(self, name: str) -> bytes | None:
        stored = self._store.stat(self._location.child(name).key)
        return None if stored is None else self._store.read_whole(stored)

    def replace(self, name: str, data: bytes) -> None:
        self._store.write(self._location.child(name).key, data, None)

    def remove(self, name: str) -> None:
        self._store.delete(self._location.child(name).key, None)

    def add(self, name: str, data: bytes) -> bool:
        try:
            self._store.write(self._location.child(name).key, data, ABSENT)
        except ChangedError:
            return False
        return True


def write_version(target: AnyPath, wanted: Repository, model: bytes) -> bool:
    """Write one version of a model to a repository that is new, empty, or an earlier export.

    Args:
        target: The repository.
        wanted: The version.
        model: Content of its model.onnx.

    Returns:
        Whether it was written; False: this very version is there already.

    Raises:
        InputError: Something else is there, another model under this version, or under this name one of other classes
            or images; or the folder cannot be written.
        StorageRefusedError: The bucket cannot be used.
        StorageUnavailableError: The store does not answer.
    """
    with _opened(target) as there:
        _require_own(target, wanted, there)
        if (present := there.read(wanted.model_file)) is not None:
            return _is_same(target, wanted, present, model)
        made = []
        try:
            for name, data in wanted.beside.items():
                if (earlier := there.read(name)) is None:
                    made.append(name)
                if earlier != data:
                    there.replace(name, data)
            is_new = there.add(wanted.model_file, model)
        except BaseException:
            with suppress(OSError, ShutterlineError):
                for name in made:
                    there.remove(name)
            raise
        return is_new or _is_same(target, wanted, there.read(wanted.model_file) or b"", model)


@contextmanager
def _opened(target: AnyPath) -> Iterator[_Target]:
    if isinstance(target, Location):
        with closing(connect(target, Transfer())) as store:
            yield _Bucket(target, store)
        return
    try:
        yield _Folder(target)
    except OSError as error:
        if is_full(error):
            raise
        raise unwritable("the repository", target, error) from error


def _require_own(target: AnyPath, wanted: Repository, there: _Target) -> None:
    names = sorted(there.names())
    mine = {name for name in names if name.count("/") == 1 and name.endswith(f"/{CONFIG_FILE}")}
    is_own = any((there.read(name) or b"").startswith(MARK.encode()) for name in mine)
    # Labels come first, so an attempt that was cut off may have left them alone.
    if names and not is_own and names != [f"{wanted.name}/{LABELS_FILE}"]:
        raise InputError(
            f"{target}: holds other files, such as {names[0]}, and no repository that shutterline export wrote; "
            "name an empty or new one"
        )
    config = there.read(f"{wanted.name}/{CONFIG_FILE}")
    if config is None:
        return
    labels = there.read(f"{wanted.name}/{LABELS_FILE}")
    ours = wanted.beside[f"{wanted.name}/{CONFIG_FILE}"]
    if interface(config) != interface(ours) or labels != wanted.beside[f"{wanted.name}/{LABELS_FILE}"]:
        raise InputError(
            f"{target}: its {wanted.name} has other classes or images, and all versions of a model share them; name "
            "another model by --name"
        )


def _is_same(target: AnyPath, wanted: Repository, present: bytes, model: bytes) -> bool:
    if present == model:
        return False
    raise InputError(
        f"{target}: version {wanted.version} of {wanted.name} is there and is another model; a version is never "
        f"replaced: name the next one, such as --version {wanted.version + 1}"
    )
