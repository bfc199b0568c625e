"""The spool: every event of one attempt on disk, one JSON line each, and a ledger of what each broker has taken.

The spool is the record of truth: delivery reads from it, a later step of the run and ``shutterline events replay``
deliver what an earlier one could not. A process that dies leaves at most one incomplete last line, which readers pass
over. While the disk takes nothing, events wait in memory and are still delivered from there.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from components.shared.errors import ArtifactError
from components.shared.events.event import EventError, StepEvent
from components.shared.files import open_regular

SPOOL_SUFFIX = ".jsonl"
_LEDGER_SUFFIX = ".delivery.json"

# What others may have put into a directory that many write to is neither followed nor waited for.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

WINDOW_EVENTS = 256
_WINDOW_BYTES = 256 * 1024


class EventLog:
    """Lines that are appended by one thread and read by others, from a file and, where that fails, from memory.

    Args:
        descriptor: The file, open for reading and writing; None: memory alone.
        size: Bytes of whole lines that the file already has.
    """

    def __init__(self, descriptor: int | None, size: int = 0) -> None:
        self._descriptor = descriptor
        self._spooled = size
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        self.trouble: OSError | None = None

    @property
    def end(self) -> int:
        """Bytes of all lines so far."""
        with self._lock:
            return self._spooled + sum(map(len, self._waiting))

    @property
    def waiting(self) -> int:
        """Lines that are in memory alone."""
        return len(self._waiting)

    def append(self, lines: list[bytes], *, durable: bool = False) -> None:
        """Add whole lines; a disk that takes nothing is tried again with the next ones.

        Args:
            lines: Each ends with a newline.
            durable: Whether they must survive a power cut.
        """
        with self._lock:
            self._waiting += lines
            waiting = b"".join(self._waiting)
        if self._descriptor is None or not waiting:
            return
        written = 0
        try:
            while written < len(waiting):
                written += os.pwrite(self._descriptor, waiting[written:], self._spooled + written)
            self.trouble = None
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            self.trouble = error
        whole = waiting.rfind(b"\n", 0, written) + 1
        with self._lock:
            self._spooled += whole
            del self._waiting[: waiting.count(b"\n", 0, whole)]
        if self.trouble is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._spooled)

    def forget(self, offset: int) -> None:
        """Let go of lines before an offset that are in memory for good, because there is no file."""
        if self._descriptor is None:
            with self._lock:
                while self._waiting and self._spooled + len(self._waiting[0]) <= offset:
                    self._spooled += len(self._waiting.pop(0))

    def read(self, offset: int) -> list[bytes]:
        """The next whole lines from an offset, at most one window of them.

        Raises:
            OSError: The file cannot be read, or is no longer what was written.
        """
        with self._lock:
            on_disk = self._spooled
            if offset >= on_disk or self._descriptor is None:
                position = on_disk
                lines: list[bytes] = []
                for line in self._waiting:
                    if position >= offset and len(lines) < WINDOW_EVENTS:
                        lines.append(line)
                    position += len(line)
                return lines
        assert self._descriptor is not None  # noqa: S101 - nothing is on a disk without it
        size = min(_WINDOW_BYTES, on_disk - offset)
        while (whole := (chunk := os.pread(self._descriptor, size, offset)).rfind(b"\n") + 1) == 0:
            if size == on_disk - offset or len(chunk) < size:
                raise OSError(errno.EIO, "the spool is not what was written to it")
            size = min(2 * size, on_disk - offset)  # a line that is longer than a window
        return [line + b"\n" for line in chunk[: whole - 1].split(b"\n", WINDOW_EVENTS)[:WINDOW_EVENTS]]

    def count(self, start: int) -> int:
        """Lines from an offset to the end."""
        number = 0
        while lines := self.read(start):
            number += len(lines)
            start += sum(map(len, lines))
        return number


class Ledger:
    """How far each broker has come with a spool, and which events it refused; it survives the process.

    Not necessarily its last word: one that lags behind only means that some events are sent twice, under the same ids.
    """

    def __init__(self, descriptor: int | None, targets: Mapping[str, dict[str, Any]]) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self.targets: dict[str, dict[str, Any]] = {name: {"delivered": 0, **target} for name, target in targets.items()}

    def delivered(self, name: str) -> int:
        """Bytes of the spool that a broker has, but for what it set aside."""
        return int(self.targets[name]["delivered"])

    def advance(self, name: str, offset: int) -> None:
        """A broker has the spool up to an offset."""
        with self._lock:
            self.targets[name]["delivered"] = offset
            self.write()

    def set_aside(self, name: str, start: int, end: int, why: str) -> None:
        """A broker has the spool up to an event and refuses that event.

        Args:
            name: The broker's.
            start: Offset of the event's line.
            end: Offset behind it.
            why: For people.
        """
        with self._lock:
            target = self.targets[name]
            target["delivered"] = max(self.delivered(name), end)
            target["set_aside"] = sorted({*self.aside(name), start})
            target["why"] = why
            self.write()

    def take_back(self, name: str, start: int) -> None:
        """An event that was set aside is so no more: the broker has it."""
        with self._lock:
            target = self.targets[name]
            target["set_aside"] = [offset for offset in self.aside(name) if offset != start]
            if not target["set_aside"]:
                del target["set_aside"], target["why"]
            self.write()

    def aside(self, name: str) -> list[int]:
        """Offsets of the events that a broker refuses for what they are, in order."""
        return list(self.targets[name].get("set_aside", ()))

    def why_aside(self, name: str) -> str:
        """Why the last of them was refused, for people."""
        return str(self.targets[name].get("why", ""))

    def write(self) -> None:
        """Put the ledger on disk, as far as the disk takes it."""
        if self._descriptor is None:
            return
        text = json.dumps({"schema_version": 1, "targets": self.targets}).encode() + b"\n"
        with suppress(OSError):  # a full disk: events may be sent twice, never lost
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))


# Files of this process: its own locks would not keep it from opening a spool twice.
_open_here: set[str] = set()


@dataclass
class Spool:
    """One attempt's events and their ledger.

    Attributes:
        path: The spool's file; None: memory alone.
        attempt: The attempt's number.
        log: The events.
        ledger: How far each broker has come.
    """

    path: Path | None
    attempt: int
    log: EventLog
    ledger: Ledger
    _descriptors: tuple[int, ...] = ()

    @classmethod
    def create(cls, directory: Path, run: str, step: str, attempt: int, targets: Mapping[str, dict[str, Any]]) -> Self:
        """Begin a spool in a directory that the steps of a run share.

        Args:
            directory: Made if it is not there.
            run: The run's id.
            step: The step's name.
            attempt: The first number to try; one that is taken is passed over.
            targets: By broker, where its events go; names, no secrets.

        Raises:
            OSError: The directory cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            path = directory / f"{run}.{step}.{attempt}{SPOOL_SUFFIX}"
            try:
                descriptor = os.open(path, _FLAGS | os.O_EXCL, 0o644)
                break
            except FileExistsError:
                attempt += 1
        descriptors = [descriptor]
        try:
            ledger = os.open(_ledger_of(path), _FLAGS, 0o644)
            descriptors.append(ledger)
            with suppress(OSError):  # a filesystem without locks: the next step will leave this spool to a replay
                _lock(ledger)
        except OSError:
            for opened in descriptors:
                os.close(opened)
            raise
        _open_here.add(str(path.absolute()))
        spool = cls(path, attempt, EventLog(descriptor), Ledger(ledger, targets), tuple(descriptors))
        spool.ledger.write()
        return spool

    @classmethod
    def in_memory(cls, attempt: int, targets: Mapping[str, dict[str, Any]]) -> Self:
        """A spool for a step that has nowhere to write."""
        return cls(None, attempt, EventLog(None), Ledger(None, targets))

    @classmethod
    def open(cls, path: Path, *, unlocked: bool = False) -> Self | None:
        """Open an earlier spool to deliver the rest of it; None while another process is at it.

        Args:
            path: The spool's file; without a ledger, or with a damaged one, it has no targets.
            unlocked: Whether to open it even where the filesystem has no locks to tell whether somebody is at it.

        Raises:
            ArtifactError: The file is no spool.
            OSError: It cannot be opened.
        """
        if str(path.absolute()) in _open_here:
            return None
        parts = path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)
        if not path.name.endswith(SPOOL_SUFFIX) or len(parts) != 3 or not parts[2].isdecimal():
            raise ArtifactError(f"{path}: is not a spool; its name would be RUN.STEP.ATTEMPT{SPOOL_SUFFIX}")
        with open_regular(path) as stream:
            descriptor = os.dup(stream.fileno())
        descriptors = [descriptor]
        try:
            ledger = os.open(_ledger_of(path), _FLAGS, 0o644)
            descriptors.append(ledger)
            if not _lock_if_any(ledger, unlocked):
                for opened in descriptors:
                    os.close(opened)
                return None
            targets = _read_targets(ledger)
            log = EventLog(descriptor, _whole_lines(descriptor))
        except OSError:
            for opened in descriptors:
                os.close(opened)
            raise
        _open_here.add(str(path.absolute()))
        return cls(path, int(parts[2]), log, Ledger(ledger, targets), tuple(descriptors))

    def undelivered(self, name: str) -> int:
        """Events that a broker does not have yet, those that were set aside included."""
        return self.log.count(self.ledger.delivered(name)) + len(self.ledger.aside(name))

    def close(self) -> None:
        """Let go of the files, and so of the lock."""
        if self.path is not None:
            _open_here.discard(str(self.path.absolute()))
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()


def spools_of(directory: Path, run: str | None = None) -> list[Path]:
    """The spools in a directory, of one run or of all, oldest first; none where it cannot be read."""
    found = []
    with suppress(OSError):
        for path in directory.glob(f"*{SPOOL_SUFFIX}") if directory.is_dir() else []:
            if run is None or path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)[:-2] == [run]:
                with suppress(FileNotFoundError):  # somebody clears up
                    found.append((_begin(path), path.stat().st_mtime_ns, path.name, path))
    return [path for *_, path in sorted(found)]


def _begin(path: Path) -> str:
    """The time of a spool's first event as text that sorts; empty where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return str(json.loads(os.pread(stream.fileno(), _WINDOW_BYTES, 0).split(b"\n", 1)[0])["time"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def events_in(directory: Path | None, run: str | None = None) -> Iterator[StepEvent]:
    """The events of the spools in a directory, step by step, without taking a spool from whoever is at it.

    Args:
        directory: None, or one that is not there, has none.
        run: Only those of one run.
    """
    for path in spools_of(directory, run) if directory is not None else []:
        with suppress(OSError), open_regular(path) as raw, io.BufferedReader(raw) as stream:  # type: ignore[type-var]
            for line in stream:
                with suppress(EventError):  # a last line that a killed step did not finish
                    yield StepEvent.from_bytes(line.rstrip(b"\n"))


def _ledger_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SPOOL_SUFFIX) + _LEDGER_SUFFIX)


def _lock(descriptor: int) -> bool:
    """Take a lock that ends with the process, however it ends, and that forked workers do not inherit.

    Raises:
        OSError: The filesystem has no locks.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _lock_if_any(descriptor: int, otherwise: bool) -> bool:
    """The same; where the filesystem has no locks, `otherwise`."""
    try:
        return _lock(descriptor)
    except OSError:
        return otherwise


def _whole_lines(descriptor: int) -> int:
    """Bytes up to the last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _read_targets(descriptor: int) -> dict[str, dict[str, Any]]:
    """The targets of a ledger; none if a crash left it unreadable."""
    try:
        document = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0) or b"{}")
        targets = document.get("targets", {})
        return {name: target for name, target in targets.items() if _is_target(target)}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _is_target(target: Any) -> bool:
    return (
        isinstance(target, dict)
        and isinstance(target.get("topic"), str)
        and isinstance(target.get("delivered"), int)
        and target["delivered"] >= 0
        and _is_aside(target.get("set_aside", []), target["delivered"])
    )


def _is_aside(offsets: Any, delivered: int) -> bool:
    return isinstance(offsets, list) and all(isinstance(each, int) and 0 <= each < delivered for each in offsets)
