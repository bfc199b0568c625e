"""Files as steps read and write them: regular, of a bounded size, replaced as a whole, errors with the file's name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from components.shared.errors import InputError

CLAIMS_VARIABLE = "SHUTTERLINE_CLAIMS"  # a JSON object, mount path to name of the claim; set in the compiled pipeline
_SHELL_PIPE = re.compile(r"/dev/stdin|/(dev|proc/self)/fd/[0-9]+")
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PIECE = 2**20
# What a disk answers that takes no more, with what to do.
_FULL = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "the user's quota is used up: free some space, or have it raised",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "name a location that may be written",
}
# What it answers that fails, where it is known of which file.
_FAILING = {
    errno.EIO: "the disk fails: see the system's log",
    errno.ESTALE: "the server of the file system lost it: see that it is mounted",
}


# Reading.


def open_regular(path: str | Path, *, shell_pipes: bool = False) -> IO[bytes]:
    """Open a regular file for reading, unbuffered; anything else, such as a pipe, is an OSError.

    With `shell_pipes` an open pipe will do: ``/dev/stdin``, or what a shell makes of ``<(…)``.
    """
    if shell_pipes and _SHELL_PIPE.fullmatch(str(path)) and stat.S_ISFIFO(Path(path).stat().st_mode):
        return Path(path).open("rb", buffering=0)
    # Opening a device may do something to it, so it is looked at before; and after, as it may be another by then.
    _require_file(path, Path(path).stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_file(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _require_file(path: str | Path, mode: int, *, is_own: bool = False) -> None:
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is not None and is_own:  # the message names the file, as callers name its directory
        raise OSError(errno.EINVAL, f"{Path(path).name} there is {kind}, not a file; remove it", str(path))
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "Is a directory", str(path))
    if kind is not None:
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))


def open_for_update(path: Path) -> int:
    """The descriptor of a regular file, for reading and appending, made if it is not there; or OSError."""
    with suppress(FileNotFoundError):
        _require_file(path, path.lstat().st_mode, is_own=True)
    # Not O_APPEND, with which Linux has pwrite append, too.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _require_file(path, os.fstat(descriptor).st_mode, is_own=True)
        os.lseek(descriptor, 0, os.SEEK_END)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str | Path, limit: int, *, shell_pipes: bool = False) -> bytes:
    """The content of a regular file; OSError as :func:`open_regular`, or if it has more than `limit` bytes."""
    with open_regular(path, shell_pipes=shell_pipes) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= limit:
            # Not `read()` without a number: a file may grow meanwhile, and those of /proc have no size. In pieces, as
            # memory is taken for what is asked for, however short the file.
            parts, left = [], limit + 1
            while left and (part := stream.read(min(left, _PIECE))):
                parts.append(part)
                left -= len(part)
            if left:
                return b"".join(parts)
    raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", str(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type] # a FileIO


# Writing.


class Output:
    """A file that is being written: counts what it is given, and keeps its first error for `check`.

    A write never raises: torch's writers of archives, in C++, lose the error or end the whole process (torch 2.15), and
    numpy's loses its number. `digest` of :mod:`hashlib` is updated with what is written: reading it again would take as
    long as writing.
    """

    def __init__(self, stream: Any, digest: hashlib._Hash | None = None) -> None:
        self._stream = stream
        self._digest = digest
        self._error: OSError | None = None
        self.bytes = 0

    def write(self, data: Any) -> int:
        """Write all of it."""
        view = memoryview(data).cast("B")
        self.bytes += len(view)
        if self._error is None:
            if self._digest is not None:
                self._digest.update(view)
            rest = view
            try:
                while rest:  # Linux takes at most 2 GiB at once, and less where a disk is nearly full
                    rest = rest[self._stream.write(rest) or 0 :]
            except OSError as error:
                self._error = error
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def check(self) -> None:
        """Raise the first OSError that a write has met."""
        if self._error is not None:
            raise self._error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, an error of the file system has the name of a file, which a write by descriptor leaves out."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def writing(path: Path, digest: hashlib._Hash | None = None) -> Iterator[Output]:
    """A new file, durable when the block is left; its mode is what the umask gives. `digest` is as for Output."""
    with naming(path), path.open("wb", buffering=0) as stream:
        output = Output(stream, digest)
        yield output
        output.check()
        os.fsync(stream.fileno())


def write_at(descriptor: int, data: Any, offset: int) -> None:
    """Write all of it at an offset of an open file."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read_at(descriptor: int, into: Any, offset: int) -> None:
    """Fill a buffer from an offset of an open file; OSError: it ends before."""
    view = memoryview(into).cast("B")
    while view:
        if not (count := os.preadv(descriptor, [view], offset)):
            raise OSError(f"ends at {offset} bytes")
        view, offset = view[count:], offset + count


@contextmanager
def replacing(path: Path, digest: hashlib._Hash | None = None) -> Iterator[Output]:
    """As `writing`, replacing the file at once: a reader, or a power cut, sees the old one or the whole new one."""
    # Not by the process's number, which in containers all of them share.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            with writing(temporary, digest) as output:
                yield output
            temporary.replace(path)
    finally:
        with suppress(OSError):  # a file system that has become read-only, which is not to hide why
            temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """As :func:`replacing`, with all of the content at once."""
    with replacing(path) as stream:
        stream.write(data)


def write_json(path: Path, document: object) -> None:
    """Write a JSON document atomically; ValueError where it holds NaN or infinity."""
    write_atomically(path, json_bytes(document))


def json_bytes(document: object) -> bytes:
    """A JSON document as files have it; ValueError where it holds NaN or infinity."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears as `path`, with all that was put into it, as the context ends; OSError: one is there.

    Files in it are made durable by what writes them. A process that is killed leaves ``.NAME-`` and 8 digits.
    """
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    unfinished.mkdir()
    try:
        yield unfinished
        for folder, *_ in os.walk(unfinished):
            fsync_directory(Path(folder))
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable; a no-op where a file system does not offer it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# What cannot be written.


def is_full(error: OSError) -> bool:
    """Whether an error says that a file system takes no more, and not that something else is wrong with a path."""
    return error.errno in _FULL and error.errno != errno.EROFS


def disk_message(error: OSError) -> str | None:
    """The message of an error of a disk, in one line with what to do; None of an error that is something else."""
    what = _FULL.get(error.errno or 0) or (_FAILING.get(error.errno or 0) if error.filename else None)
    if what is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    size = f" (limit {limit:,} bytes)" if error.errno == errno.EFBIG and limit != resource.RLIM_INFINITY else ""
    return f"{error.strerror}{size}: {error.filename or 'while writing'}; {what} and run the step again"


def require_writable(what: str, directory: Path, named: Path | None = None) -> None:
    """Make a directory if need be, and check that a file can be written in it; or InputError.

    Args:
        what: What the directory is for, for the message: ``checkpoints``.
        directory: The directory.
        named: The path that the user gave, for the message; by default `directory`.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0")
    except OSError as error:
        if is_full(error):
            raise
        raise unwritable(what, named or directory, error) from error


def unwritable(what: str, path: Path, error: OSError) -> InputError:
    """The error for a directory that cannot be written: the claim that it is in, if it is in one, and what to do."""
    message = f"{what} {path}: cannot be written by user {os.geteuid()} ({error.strerror or error})"
    # A claim's fresh file system, and the directory that sub_path makes in it, belong to root with mode 0755.
    if claim := _claim_of(path):
        return InputError(
            f'{message}; it is in the claim "{claim}", whose directory must be handed to that user once: see "Volumes" '
            "in pipelines/README.md (claim-owner.yaml)"
        )
    return InputError(f"{message}; make it writable for that user, or name another directory")


def _claim_of(path: Path) -> str:
    try:
        claims = json.loads(os.environ.get(CLAIMS_VARIABLE) or "{}")
        mounts = {Path(mount): str(name) for mount, name in claims.items()}
    except (ValueError, AttributeError):
        return ""
    return next((mounts[parent] for parent in (path, *path.parents) if parent in mounts), "")
