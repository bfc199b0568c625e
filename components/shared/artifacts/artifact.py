"""The on-disk contracts between steps, and the one way they are written: files first, manifest last.

An interrupted step leaves nothing that opens. Readers trust the manifest alone: files it does not name are not read,
files it names are checked against their SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from components.shared.errors import ArtifactError
from components.shared.files import (
    fsync_directory,
    is_full,
    json_bytes,
    naming,
    open_for_update,
    read_regular,
    sha256_of,
    write_atomically,
)
from components.shared.limits import usable_cpus
from components.shared.locks import MAX_BYTES as MAX_MARKER_BYTES
from components.shared.locks import HeldError, locked, remove_held
from components.shared.params.types import LARGEST_DIVISOR, SMALLEST_DIVISOR
from components.shared.strict_json import MAX_BYTES, read_json
from components.shared.text import shortened

WRITING_MARKER = ".shutterline-writing"
CONTENTS = re.compile(r"files-[0-9a-f]{12}")  # the folder of an artifact's files in a bucket
# A part of a path has at most 255 bytes in the usual file systems, and a path 4,096 with the directory before it.
_LONGEST_PART, _LONGEST_FILE = 255, 1000
_MANIFESTS = ("dataset.json", "model.json", "evaluation.json")
_CLASS_NAME_LENGTH = 200
_AT_ONCE = 8
EARLIER: Literal["of_an_earlier_version"] = "of_an_earlier_version"  # the error of a manifest that is whole
_RELATIVE_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def _inside(file: str) -> str:
    if _RELATIVE_FILE.fullmatch(file) is None:
        raise ValueError("must be a plain path below the artifact's directory")
    if len(file) > _LONGEST_FILE or max(map(len, file.split("/"))) > _LONGEST_PART:
        raise ValueError(f"must have at most {_LONGEST_FILE:,} characters, and {_LONGEST_PART} between two slashes")
    return file


class Record(BaseModel):
    """A part of a manifest: known keys only, never changed after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(Record):
    """One file of an artifact, as its manifest names it."""

    file: Annotated[str, AfterValidator(_inside)]
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ImageShape(Record):
    """Shape of one image: height and width in pixels, 1 or 3 channels."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: Literal[1, 3]

    def as_tuple(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


def class_name_problem(name: str) -> str | None:
    """Why a text cannot be a class name; None if it can."""
    if not name:
        return "is empty, and must name a class"
    if len(name) > _CLASS_NAME_LENGTH:
        return f"has {len(name)} characters, and a class name may have {_CLASS_NAME_LENGTH}"
    if not name.isprintable():
        return "holds characters that cannot be printed, and must name a class"
    return None


def _class_names(names: list[str]) -> list[str]:
    for index, name in enumerate(names):
        if problem := class_name_problem(name):
            raise ValueError(f"the name of class {index} {problem}")
    if len(set(names)) != len(names):
        raise ValueError("two classes have one name")
    return names


ClassNames = Annotated[list[str], AfterValidator(_class_names)]


class Normalisation(Record):
    """What is subtracted from and divided into each channel of an image scaled to 0..1, or of all alike."""

    mean: list[Annotated[float, Field(allow_inf_nan=False)]]
    std: list[Annotated[float, Field(ge=SMALLEST_DIVISOR, le=LARGEST_DIVISOR)]]

    def require_channels(self, channels: int) -> None:
        """Raise ValueError unless it is of images of so many channels."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"its {name} has {len(values)} numbers, and images have {channels} channel(s)")


Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]  # RGB


class Manifest(Record):
    """What every manifest starts with."""

    schema_version: Literal[1] = 1
    created_by: str

    def files(self) -> Iterator[FileRecord]:
        """Every file the artifact consists of."""
        yield from _file_records(self.__dict__)


def _file_records(value: object) -> Iterator[FileRecord]:
    if isinstance(value, FileRecord):
        yield value
        return
    inner = value.__dict__ if isinstance(value, Record) else value
    for each in inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ():
        yield from _file_records(each)


@dataclass(frozen=True)
class ArtifactKind:
    """One kind of artifact directory."""

    name: str
    manifest_file: str
    manifest_type: type[Manifest]


class ArtifactWriter:
    """Writes one artifact directory; use as a context manager.

    Leaving the block without :meth:`commit` removes what was written. ArtifactError: the directory cannot be written,
    another process is writing it, or it holds anything but an earlier artifact of the kind or an interrupted attempt.
    """

    def __init__(self, path: Path, kind: ArtifactKind) -> None:
        self.path = path
        self._kind = kind
        self._manifest = path / kind.manifest_file
        self._marker = path / WRITING_MARKER
        self._written: list[Path] = []
        self._committed = False
        self._lock = ExitStack()

    def __enter__(self) -> Self:
        name = f"{'an' if self._kind.name[0] in 'aeiou' else 'a'} {self._kind.name}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._manifest.exists() and not self._marker.exists() and any(self.path.iterdir()):
                raise ArtifactError(
                    f"{self.path}: is not empty and holds no {self._kind.name} to replace; name an empty or new "
                    "directory"
                )
            self._lock.enter_context(locked(self._marker))
            self._remove_earlier()
        except HeldError as error:
            raise ArtifactError(
                f"{self.path}: {error} is writing {name} there; wait for its end, end it, or name another directory"
            ) from error
        except OSError as error:
            self._lock.close()
            if is_full(error):
                error.filename = error.filename or str(self.path)
                raise
            raise ArtifactError(f"{self.path}: cannot be written as {name}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if not self._committed:
                for file in (self._manifest, *reversed(self._written)):
                    with suppress(OSError):  # a file system that has become read-only, which is not to hide why
                        file.unlink(missing_ok=True)
                        if file.parent != self.path:
                            file.parent.rmdir()
            with suppress(OSError):
                # What a step leaves beside its artifact keeps the marker, so that the next attempt may take over.
                if self._committed or set(self.path.iterdir()) == {self._marker}:
                    remove_held(self._marker)

    def _remove_earlier(self) -> None:
        names = []
        if self._manifest.exists():
            with suppress(ArtifactError):  # a damaged manifest names nothing we may delete
                names += [record.file for record in read_manifest(self.path, self._kind).files()]
            self._manifest.unlink()
        text = read_regular(self._marker, MAX_MARKER_BYTES).decode(errors="replace")
        names += [name for name in text.splitlines() if _RELATIVE_FILE.fullmatch(name)]
        remove_files(self.path, names)

    def new_file(self, name: str) -> Path:
        """The path for a new file of the artifact; its folders exist, an older file of that name does not."""
        path = self.path / _inside(name)
        # Before the file itself, so that after a kill the next attempt knows what to clear away.
        with naming(self._marker), os.fdopen(open_for_update(self._marker), "wb", buffering=0) as stream:
            stream.write(f"{name}\n".encode())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._written.append(path)
        return path

    def record(self, path: Path, sha256: str | None = None) -> FileRecord:
        """The manifest's entry for a finished file, whose SHA-256 may be known."""
        name = path.relative_to(self.path).as_posix()
        return FileRecord(file=name, bytes=path.stat().st_size, sha256=sha256 or sha256_of(path))

    def commit(self, manifest: Manifest) -> None:
        """Make the files durable and write the manifest: from here on the artifact is whole.

        ArtifactError: the manifest is larger than one may be.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # file systems make several durable in the time of one
            for _ in pool.map(_make_durable, (self.path / record.file for record in manifest.files())):
                pass
        for folder in {file.parent for file in self._written} | {self.path}:
            fsync_directory(folder)
        text = json_bytes(manifest.model_dump(mode="json"))
        if len(text) > MAX_BYTES:
            raise ArtifactError(
                f"{self._manifest}: would have {len(text):,} bytes, and a manifest has at most {MAX_BYTES:,}; make the "
                f"{self._kind.name} of fewer classes, or of images of which fewer are unreadable"
            )
        write_atomically(self._manifest, text)
        self._committed = True


def _make_durable(file: Path) -> None:
    with naming(file), file.open("rb+") as stream:
        os.fsync(stream.fileno())


def read_manifest(path: Path, kind: ArtifactKind) -> Any:
    """The manifest of an artifact directory, checked against its schema but not against the files; or ArtifactError."""
    file = path / kind.manifest_file
    try:
        document = read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_dir():
            raise ArtifactError(f"{path}: there is no such {kind.name} directory") from None
        raise ArtifactError(_absent(path, kind)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:
        raise ArtifactError(f"{file}: is not JSON ({shortened(str(error), 100)}); the file is damaged") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != 1 or not isinstance(version, int) or isinstance(version, bool):
        raise ArtifactError(
            f"{file}: has schema_version {shortened(version)}, and this version reads 1; make the {kind.name} again"
        )
    try:
        return kind.manifest_type.model_validate(document, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == EARLIER:
            raise ArtifactError(f"{file}: {first['msg']}") from None
        where = shortened(".".join(str(part) for part in first["loc"]), 100) or "as a whole"
        raise ArtifactError(f"{file}: {where}: {shortened(first['msg'], 150)}; the file is damaged") from error


def _absent(path: Path, kind: ArtifactKind) -> str:
    if inner := sorted(path.glob(f"*/{kind.manifest_file}")):  # such as a run's, or versions that were published
        return f"{path}: is no {kind.name} directory; name one that is in it, such as {inner[-1].parent}"
    if other := next((name for name in _MANIFESTS if (path / name).is_file()), None):
        return f"{path}: is no {kind.name} directory, but one with {other}; name one that has {kind.manifest_file}"
    missing = f"{kind.manifest_file}, which is written last, is missing"
    return f"{path}: is not a complete {kind.name}: {missing}; run the step that makes it again"


def contents_folder(manifest: bytes) -> str:
    """The folder, beside its manifest, in which a bucket has the files of an artifact; the manifest is in it, too."""
    return f"files-{hashlib.sha256(manifest).hexdigest()[:12]}"


def open_artifact(
    path: Path, kind: ArtifactKind, wanted: Callable[..., Iterable[FileRecord]] = Manifest.files
) -> tuple[Path, Any]:
    """Open an artifact directory, every wanted file checked; the others need not be there.

    Returns the directory of its files, its folder of contents where it was copied from a bucket, and the manifest.
    ArtifactError: not a complete artifact of the kind, or damaged.
    """
    with suppress(OSError):
        # Only then, as most directories have none, and their manifest is read below.
        if any(CONTENTS.fullmatch(entry.name) for entry in path.iterdir()):
            inner = path / contents_folder(read_regular(path / kind.manifest_file, MAX_BYTES))
            path = inner if (inner / kind.manifest_file).is_file() else path
    manifest = read_manifest(path, kind)
    verify_files(path, wanted(manifest))
    return path, manifest


def manifest_digest(path: Path, kind: ArtifactKind) -> str:
    """SHA-256 of an artifact's manifest, and so of all that the artifact is; ArtifactError where there is none."""
    read_manifest(path, kind)
    return sha256_of(path / kind.manifest_file)


def require_same(kind: ArtifactKind, found: str, expected: str) -> None:
    """Refuse an artifact whose SHA-256 is not the one that the step which made it reported; empty: it reported none."""
    if expected and found != expected:
        raise ArtifactError(
            f"the {kind.name} that arrived is not the one that was made (SHA-256 {found[:12]}…, and {expected[:12]}… "
            "was reported): something else was stored in its place; run the step that makes it again without cache"
        )


def verify_files(path: Path, records: Iterable[FileRecord], *, sizes_alone: bool = False) -> None:
    """Check files that a manifest names: there, inside the directory, of that size and SHA-256; or ArtifactError."""
    root = path.resolve()

    def verify(record: FileRecord) -> None:
        file = path / record.file
        if not file.is_file():
            raise ArtifactError(f"{file}: is missing, though the manifest names it")
        if not file.resolve().is_relative_to(root):
            raise ArtifactError(f"{file}: leads out of the artifact's directory")
        if (size := file.stat().st_size) != record.bytes:
            raise ArtifactError(f"{file}: has {size} bytes, and the manifest says {record.bytes}; it is damaged")
        try:
            is_whole = sizes_alone or sha256_of(file) == record.sha256
        except OSError as error:
            raise ArtifactError(f"{file}: cannot be read: {error.strerror or error}") from error
        if not is_whole:
            raise ArtifactError(f"{file}: its SHA-256 is not the manifest's; it is damaged")

    with ThreadPoolExecutor(usable_cpus()) as pool:
        for _ in pool.map(verify, records):  # which raises the first error, in the order of the files
            pass


def remove_files(path: Path, names: Iterable[str]) -> None:
    """Remove files of an artifact that is no longer there, and the folders that are empty then."""
    root = path.resolve()
    for name in names:
        file = path / name
        if file.parent.resolve().is_relative_to(root):  # a folder may be a link to elsewhere
            file.unlink(missing_ok=True)
            with suppress(OSError):  # it is not empty, or a link
                for folder in Path(name).parents:
                    (path / folder).rmdir()
