"""The spool: every event of one attempt on disk, one JSON line each, and a ledger of what each broker has taken.

The newest events are in memory, too, and are delivered from there; a broker that has fallen further behind, a later
step of the run and ``shutterline events replay`` read the file. A process that dies leaves at most one incomplete last
line, which readers pass over. While the disk takes nothing, events wait in memory and are delivered all the same.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import threading
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

from components.shared.errors import ArtifactError
from components.shared.events.event import EncodedEvent, EventError, StepEvent
from components.shared.files import open_regular

SPOOL_SUFFIX = ".jsonl"
LEDGER_SUFFIX = ".delivery.json"

# A window is what a broker is sent at a time.
WINDOW_EVENTS = 256
_WINDOW_BYTES = 256 * 1024
# At about 2 kB each; a run has a few hundred.
MEMORY_EVENTS = 10_000

# What others may have put into a directory that many write to is neither followed nor waited for.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

# Files of this process: its own locks would not keep it from opening a spool twice.
_open_here: set[str] = set()


class Spool:
    """One attempt's events, numbered from 0, and how many of them each broker has.

    One thread appends, one writes to the disk, any may read. The ledger may lag behind what brokers have taken: then
    some events are sent twice, under the same ids.

    Attributes:
        path: The file; None: memory alone.
        attempt: The attempt's number.
        targets: By broker, as the ledger's JSON has it: where its events go; ``delivered``, the bytes of the file that
            it has; ``set_aside``, offsets of the events before that which it refused for their size, and ``why``.
        trouble: What the disk answered last, if that was an error.
        milestones: Events on disk that are more than progress.
    """

    def __init__(
        self,
        path: Path | None,
        attempt: int,
        targets: Mapping[str, dict[str, Any]],
        descriptors: tuple[int, int] | None = None,
        *,
        memory_events: int = MEMORY_EVENTS,
    ) -> None:
        self.path = path
        self.attempt = attempt
        self.targets: dict[str, dict[str, Any]] = {name: {"delivered": 0, **target} for name, target in targets.items()}
        self.trouble: OSError | None = None
        self.milestones = 0
        self._file: int | None = None
        self._ledger: int | None = None
        if descriptors is not None:
            self._file, self._ledger = descriptors
        self._starts = array("q", [0])  # offset of each event in the file, and of its end
        if self._file is not None:
            self._starts.extend(_line_ends(self._file))
        self._on_disk = self.count  # events
        self._memory: deque[EncodedEvent] = deque()  # the newest events
        self._memory_events = memory_events
        self._written_ledger = b""
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        directory: Path,
        run: str,
        step: str,
        attempt: int,
        targets: Mapping[str, dict[str, Any]],
        *,
        memory_events: int = MEMORY_EVENTS,
    ) -> Self:
        """Begin a spool in a directory that the steps of a run share, with the first free attempt from `attempt` on.

        Raises:
            OSError: The directory cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            path = directory / f"{run}.{step}.{attempt}{SPOOL_SUFFIX}"
            try:
                file = os.open(path, _FLAGS | os.O_EXCL, 0o644)
                break
            except FileExistsError:
                attempt += 1
        try:
            ledger = os.open(ledger_of(path), _FLAGS, 0o644)
        except OSError:
            os.close(file)
            raise
        _lock(ledger, otherwise=True)  # on a file system without locks the next step will leave this to a replay
        _open_here.add(str(path.absolute()))
        spool = cls(path, attempt, targets, (file, ledger), memory_events=memory_events)
        spool.write()
        return spool

    @classmethod
    def open(cls, path: Path, *, unlocked: bool = False) -> Self | None:
        """Open an earlier spool to deliver the rest of it; None while another process has it.

        Without a ledger, or with a damaged one, it has no targets.

        Args:
            path: The spool's file.
            unlocked: Whether to open it even where the file system has no locks to show whether a process has it.

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
            descriptors = [os.dup(stream.fileno())]
        try:
            descriptors.append(os.open(ledger_of(path), _FLAGS, 0o644))
            if _lock(descriptors[1], otherwise=unlocked):
                spool = cls(path, int(parts[2]), _read_targets(descriptors[1]), (descriptors[0], descriptors[1]))
                _open_here.add(str(path.absolute()))
                return spool
        except OSError:
            _close(descriptors)
            raise
        _close(descriptors)
        return None

    def close(self) -> None:
        """Close the files, which ends the lock."""
        if self._file is not None and self._ledger is not None and self.path is not None:
            _open_here.discard(str(self.path.absolute()))
            _close([self._file, self._ledger])
        self._file = self._ledger = None

    # Events.

    @property
    def count(self) -> int:
        """Events so far."""
        return len(self._starts) - 1

    @property
    def is_full(self) -> bool:
        """Whether memory holds as many events as it may that are neither on disk nor, without one, at every broker."""
        with self._lock:
            return self.count - self._kept_elsewhere() >= self._memory_events

    @property
    def unspooled(self) -> int:
        """Events that are not on disk."""
        return self.count - self._on_disk

    def append(self, event: EncodedEvent) -> None:
        """Add an event, in memory; :meth:`write` puts it on disk."""
        with self._lock:
            self._memory.append(event)
            self._starts.append(self._starts[-1] + len(event.body) + 1)
            while len(self._memory) > self._memory_events and self.count - len(self._memory) < self._kept_elsewhere():
                self._memory.popleft()

    def _kept_elsewhere(self) -> int:
        """How many of the first events need not be in memory."""
        if self.path is not None:
            return self._on_disk
        return min((self.position(name) for name in self.targets), default=self.count)

    def read(self, number: int) -> tuple[list[EncodedEvent], list[int]]:
        """The next events from a number on, at most a window of them, without what is damaged in the file.

        Returns:
            The events; and the number of each and, behind them, of what comes next.

        Raises:
            OSError: The file cannot be read, or is no longer what was written.
        """
        with self._lock:
            if (skipped := number - (self.count - len(self._memory))) >= 0:
                events = list(islice(self._memory, skipped, skipped + WINDOW_EVENTS))
                return events, list(range(number, number + len(events) + 1))
            start = self._starts[number]
            end = max(number + 1, bisect_right(self._starts, start + _WINDOW_BYTES) - 1)
            end = min(end, number + WINDOW_EVENTS, self._on_disk)
            size = self._starts[end] - start
        assert self._file is not None  # noqa: S101 - without a file all that is wanted is in memory
        lines = os.pread(self._file, size, start).split(b"\n")
        if len(lines) != end - number + 1 or lines[-1]:
            raise OSError(errno.EIO, "the spool is not what was written to it")
        events, numbers = [], []
        for line_number, line in enumerate(lines[:-1], number):
            with suppress(EventError):
                events.append(EncodedEvent.from_body(line))
                numbers.append(line_number)
        return events, [*numbers, end]

    def write(self) -> None:
        """Put on disk what is in memory alone, and the ledger; what the disk does not take is tried again next time.

        Only progress may be lost in a power cut.
        """
        if self._file is None:
            return
        with self._lock:
            skipped = self._on_disk - (self.count - len(self._memory))
            events = list(islice(self._memory, skipped, None)) if self._on_disk < self.count else []
        if events:
            self._write_events(self._file, events)
        self._write_ledger()

    def _write_events(self, file: int, events: Sequence[EncodedEvent]) -> None:
        start = self._starts[self._on_disk]
        data = b"".join([event.body + b"\n" for event in events])
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(file, data[written:], start + written)
            self.trouble = None
            if not all(event.is_progress for event in events):
                os.fsync(file)
        except OSError as error:
            self.trouble = error
        with self._lock:
            done = bisect_right(self._starts, start + written) - 1 - self._on_disk
            self._on_disk += done
            self.milestones += sum(not event.is_progress for event in events[:done])
        if self.trouble is not None:
            with suppress(OSError):
                os.ftruncate(file, self._starts[self._on_disk])

    # The ledger.

    def position(self, broker: str) -> int:
        """The number of the first event that a broker was not offered yet."""
        return min(self._number_at(self.targets[broker]["delivered"]), self.count)

    def set_aside(self, broker: str) -> list[int]:
        """Numbers of the events that a broker refuses for their size."""
        return [self._number_at(offset) for offset in self.targets[broker].get("set_aside", ())]

    def why_set_aside(self, broker: str) -> str:
        """Why the last of them was refused."""
        return str(self.targets[broker].get("why", ""))

    def undelivered(self, broker: str) -> int:
        """Events that a broker does not have, those that were set aside included."""
        return self.count - self.position(broker) + len(self.set_aside(broker))

    def advance(self, broker: str, number: int) -> None:
        """Note that a broker has all events before a number, but for those that are set aside."""
        with self._lock:
            self.targets[broker]["delivered"] = self._starts[number]

    def add_set_aside(self, broker: str, number: int, why: str) -> None:
        """Note that a broker refuses an event for its size, and has those before it."""
        with self._lock:
            target = self.targets[broker]
            target["delivered"] = max(target["delivered"], self._starts[number + 1])
            target["set_aside"] = sorted({*target.get("set_aside", ()), self._starts[number]})
            target["why"] = why

    def remove_set_aside(self, broker: str, number: int) -> None:
        """Note that a broker has an event now that was set aside."""
        with self._lock:
            target = self.targets[broker]
            target["set_aside"] = [offset for offset in target["set_aside"] if self._number_at(offset) != number]
            if not target["set_aside"]:
                del target["set_aside"], target["why"]

    def _number_at(self, offset: int) -> int:
        """The number of the event at an offset."""
        return bisect_right(self._starts, offset) - 1

    def _write_ledger(self) -> None:
        assert self._ledger is not None  # noqa: S101 - it is opened with the file
        with self._lock:
            ledger = json.dumps({"schema_version": 1, "targets": self.targets}).encode() + b"\n"
        if ledger != self._written_ledger:
            with suppress(OSError):  # a full disk: events may be sent twice, never lost
                os.pwrite(self._ledger, ledger, 0)
                os.ftruncate(self._ledger, len(ledger))
                self._written_ledger = ledger


def spools_of(directory: Path, run: str | None = None) -> list[Path]:
    """The spools in a directory, of one run or of all, oldest first; none where it cannot be read."""
    found = []
    with suppress(OSError):
        for path in directory.glob(f"*{SPOOL_SUFFIX}") if directory.is_dir() else []:
            if run is None or path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)[:-2] == [run]:
                with suppress(FileNotFoundError):  # somebody clears up
                    found.append((_first_time(path), path.stat().st_mtime_ns, path.name, path))
    return [path for *_, path in sorted(found)]


def _first_time(path: Path) -> str:
    """The time of a spool's first event as text that sorts; empty where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return str(json.loads(os.pread(stream.fileno(), _WINDOW_BYTES, 0).split(b"\n", 1)[0])["time"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def events_in(directory: Path | None, run: str | None = None) -> Iterator[StepEvent]:
    """The events of the spools in a directory, of one run or of all, step by step, also while others write them."""
    for path in spools_of(directory, run) if directory is not None else []:
        with suppress(OSError), open_regular(path) as raw, io.BufferedReader(raw) as stream:  # type: ignore[type-var]
            for line in stream:
                with suppress(EventError):  # a last line that a killed step did not finish
                    yield StepEvent.from_bytes(line.rstrip(b"\n"))


def ledger_of(spool: Path) -> Path:
    """The file of a spool's ledger."""
    return spool.with_name(spool.name.removesuffix(SPOOL_SUFFIX) + LEDGER_SUFFIX)


def _lock(descriptor: int, *, otherwise: bool) -> bool:
    """Take a lock that ends with the process, however it ends, and that forked workers do not inherit."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN) and otherwise
    return True


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _line_ends(descriptor: int) -> Iterator[int]:
    """The offset behind every whole line."""
    start = 0
    while chunk := os.pread(descriptor, 1 << 20, start):
        found = -1
        while (found := chunk.find(b"\n", found + 1)) >= 0:
            yield start + found + 1
        start += len(chunk)


def _read_targets(descriptor: int) -> dict[str, dict[str, Any]]:
    """The targets of a ledger; none if a crash left it unreadable."""
    try:
        document = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0) or b"{}")
        targets = document.get("targets", {})
        return {name: target for name, target in targets.items() if _is_target(target)}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _is_target(target: Any) -> bool:
    if not isinstance(target, dict) or not isinstance(target.get("topic"), str):
        return False
    delivered, offsets = target.get("delivered"), target.get("set_aside", [])
    return (
        isinstance(delivered, int)
        and delivered >= 0
        and isinstance(offsets, list)
        and all(isinstance(each, int) and 0 <= each < delivered for each in offsets)
    )
