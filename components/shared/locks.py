"""One writer of a directory at a time: a lock that ends with its process, however that ends, and names its holder.

``flock`` on a file belongs to the open file, so it keeps out other processes, containers and threads alike; NFS and
cluster file systems extend it to other machines. ``shutterline run`` holds the lock of its directory, and its steps end
when that is released.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from components.shared.errors import InputError
from components.shared.events.redaction import redact
from components.shared.files import open_for_update, open_regular
from components.shared.process_group import is_launched

RUN_LOCK_VARIABLE = "SHUTTERLINE_RUN_LOCK"  # set for the steps: the lock's file; empty: there is none
RUN_LOCK_FILE = ".shutterline-run"
MAX_BYTES = 1 << 24  # of a lock's file: the holder's line and names of files
_LONGEST_COMMAND = 120
_PAUSE_S = 0.2
# Steps of a run that was killed look at the lock for a moment while they notice that.
_RUN_TIMEOUT_S = 1.0
_log = logging.getLogger("shutterline.locks")
_watched: set[str] = set()
# A forked worker would hold its parent's locks for as long as it lives.
_held: set[int] = set()


def _close_all() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_all)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    pid: int
    host: str
    since: str
    command: str
    kernel: str  # its id, the same in every container on it; empty where it has none

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


class HeldError(Exception):
    """Another process holds a lock; `holder` is None where it has not written its name yet."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(str(holder or "another process"))
        self.holder = holder


@contextmanager
def locked(
    file: Path, *, timeout_s: float = 0.0, on_wait: Callable[[HeldError], None] = lambda error: None
) -> Iterator[bool]:
    """Hold the lock of a file; made if it is not there, and its lines are kept behind the holder's.

    Args:
        file: The file.
        timeout_s: Seconds to wait for another holder's end.
        on_wait: Called once before waiting.

    Yields:
        Whether there is a lock; not where a file system has none, which is warned of.

    Raises:
        HeldError: Another process holds it.
        OSError: The file cannot be made or written, is a link or no regular file, or is too large.
    """
    deadline, is_waiting = time.monotonic() + timeout_s, False
    while True:
        try:
            descriptor, is_locked = _opened(file)
            break
        except BlockingIOError:
            error = HeldError(holder_of(file))
            if time.monotonic() >= deadline:
                raise error from None
            if not is_waiting:
                on_wait(error)
                is_waiting = True
            time.sleep(_PAUSE_S)
    try:
        with suppress(OSError):  # of a full disk: the lock is one without its holder's name, too
            _sign(descriptor)
        yield is_locked
    finally:
        _close(descriptor)


@contextmanager
def run_locked(out: Path) -> Iterator[Path | None]:
    """Hold the lock of a run's directory, and yield its file; None where the file system has no locks.

    Raises:
        InputError: Another run is under way there.
        OSError: The directory cannot be written.
    """
    file = out / RUN_LOCK_FILE
    with ExitStack() as stack:
        try:
            is_locked = stack.enter_context(locked(file, timeout_s=_RUN_TIMEOUT_S))
        except HeldError as error:
            raise InputError(
                f"--out {out}: {error} is running there; wait for its end, end it, or name another directory"
            ) from error
        if is_locked:
            stack.callback(remove_held, file)  # while it is still locked
        yield file if is_locked else None


def end_with_run() -> None:
    """From now on this process gets SIGTERM when the run that has started it is gone; for a step, at its start."""
    file, number = os.environ.get(RUN_LOCK_VARIABLE), threading.main_thread().ident
    if not file or file in _watched or number is None or is_launched():  # a launched process ends with its launcher
        return
    _watched.add(file)

    def end() -> None:
        _log.warning("the run that started this step is gone (its lock, %s, is released), so the step ends", file)
        signal.pthread_kill(number, signal.SIGTERM)

    when_released(Path(file), end)


def remove_held(file: Path) -> None:
    """Remove a lock's file where this process holds it; not another's, made where somebody has removed this one's."""
    with suppress(OSError):
        there = file.lstat()
        if any(os.path.samestat(os.fstat(descriptor), there) for descriptor in list(_held)):
            file.unlink()


def holder_of(file: Path) -> Holder | None:
    """Who has signed a lock's file last; it may have ended since. None: nobody has."""
    try:
        with open_regular(file) as stream:
            return Holder(**json.loads(stream.read(4096).partition(b"\n")[0]))
    except (OSError, ValueError, TypeError):
        return None


def when_released(file: Path, then: Callable[[], None]) -> None:
    """Call something, on a thread of its own, once a lock that another process holds is released, or now if it is.

    Nothing happens where the lock cannot be seen: in a virtual machine that only shares the directory.
    """
    holder = holder_of(file)
    if holder is None or not holder.kernel or holder.kernel != _kernel():
        return

    def wait() -> None:
        with suppress(OSError):
            with open_regular(file) as stream:
                fcntl.flock(stream, fcntl.LOCK_SH)
            then()

    threading.Thread(target=wait, name="wait for a lock", daemon=True).start()


def _opened(file: Path) -> tuple[int, bool]:
    """A file's descriptor, and whether it is locked; BlockingIOError where another process has it."""
    while True:
        descriptor = open_for_update(file)
        _held.add(descriptor)
        try:
            if (size := os.fstat(descriptor).st_size) > MAX_BYTES:
                raise OSError(
                    errno.EINVAL, f"{file.name} there has {size:,} bytes, so it is no lock's; remove it", str(file)
                )
            is_locked = _lock(descriptor, file)
        except BaseException:
            _close(descriptor)
            raise
        if is_locked is not None:
            return descriptor, is_locked
        _close(descriptor)


def _lock(descriptor: int, file: Path) -> bool | None:
    """Lock an open file; false where there are no locks, None where a writer that ended has removed its name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True if os.path.samestat(os.fstat(descriptor), file.lstat()) else None
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # the latter is NFS's, for what another machine removed
            return None
        _log.warning("%s: has no lock (%s), so a second writer there would not be noticed", file, error.strerror)
        return False


def _close(descriptor: int) -> None:
    if descriptor in _held:  # not in a forked worker, where the number may be another file's by now
        _held.discard(descriptor)
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    command = redact(shlex.join(sys.orig_argv))
    if len(command) > _LONGEST_COMMAND:
        command = f"{command[:_LONGEST_COMMAND]}…"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = Holder(os.getpid(), socket.gethostname(), since, command, _kernel())
    lines = os.pread(descriptor, os.fstat(descriptor).st_size, 0).splitlines(keepends=True)
    kept = (line for line in lines if not line.startswith(b"{"))
    data = b"".join([json.dumps(asdict(holder)).encode(), b"\n", *kept])
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))


def _kernel() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
