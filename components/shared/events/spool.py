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
from collections.abc import Iterator, Mapping
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

    Args:
        path: The file; None: memory alone.
        targets: By broker, as the ledger's JSON has it: where its events go; ``delivered``, the bytes of the file that
            it was offered; ``too_large``, how many events of those it refused for their size.
        descriptors: Of the file and its ledger.

    Attributes:
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
        self._descriptors = descriptors
        self._starts = array("q", [0])  # offset of each event in the file, and of its end
        if descriptors is not None and path is not None:
            _open_here.add(str(path.absolute()))
            self._starts.extend(_line_ends(descriptors[0]))
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
        """Begin a spool in a directory that the steps of a run share, with the first free attempt from `attempt` on."""
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            path = directory / f"{run}.{step}.{attempt}{SPOOL_SUFFIX}"
            try:
                file = os.open(path, _FLAGS | os.O_EXCL, 0o644)
                break
            except FileExistsError:
                attempt += 1
        # On a file system without locks the next step will leave this to a replay.
        ledger = _locked_ledger(path, file, unlocked=True)
        assert ledger is not None  # noqa: S101 - nobody else has a file that is new
        spool = cls(path, attempt, targets, (file, ledger), memory_events=memory_events)
        spool.write()
        return spool

    @classmethod
    def open(cls, path: Path, *, unlocked: bool = False) -> Self | None:
        """Open an earlier spool to deliver the rest of it; None while another process has it.

        Without a ledger, or with a damaged one, it has no targets. ArtifactError if the file is no spool.

        Args:
            path: The spool's file.
            unlocked: Whether to open it even where the file system has no locks to show whether a process has it.
        """
        if str(path.absolute()) in _open_here:
            return None
        parts = path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)
        if not path.name.endswith(SPOOL_SUFFIX) or len(parts) != 3 or not parts[2].isdecimal():
            raise ArtifactError(f"{path}: is not a spool; its name would be RUN.STEP.ATTEMPT{SPOOL_SUFFIX}")
        with open_regular(path) as stream:
            file = os.dup(stream.fileno())
        ledger = _locked_ledger(path, file, unlocked=unlocked)
        return None if ledger is None else cls(path, int(parts[2]), _targets_of(ledger), (file, ledger))

    def close(self) -> None:
        """Close the files, which ends the lock."""
        descriptors, self._descriptors = self._descriptors, None
        if descriptors is not None:
            _open_here.discard(str(self.path.absolute() if self.path else ""))
            for descriptor in descriptors:
                os.close(descriptor)

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

    def read(self, number: int) -> list[EncodedEvent]:
        """The events from a number on, at most a window, up to a damaged line; none where the first is damaged.

        OSError where the file cannot be read, or is no longer what was written.
        """
        with self._lock:
            if (skipped := number - (self.count - len(self._memory))) >= 0:
                return list(islice(self._memory, skipped, skipped + WINDOW_EVENTS))
            start = self._starts[number]
            end = max(number + 1, bisect_right(self._starts, start + _WINDOW_BYTES) - 1)
            end = min(end, number + WINDOW_EVENTS, self._on_disk)
            size = self._starts[end] - start
        assert self._descriptors is not None  # noqa: S101 - without a file all that is wanted is in memory
        lines = os.pread(self._descriptors[0], size, start).split(b"\n")
        if len(lines) != end - number + 1 or lines[-1]:
            raise OSError(errno.EIO, "the spool is not what was written to it")
        events = []
        with suppress(EventError):
            for line in lines[:-1]:
                events.append(EncodedEvent.from_body(line))
        return events

    def write(self) -> None:
        """Put on disk what is in memory alone, and the ledger; what the disk does not take is tried again next time.

        Only progress may be lost in a power cut.
        """
        if self._descriptors is None:
            return
        file, ledger = self._descriptors
        if self.unspooled:
            with self._lock:
                events = list(islice(self._memory, self._on_disk - (self.count - len(self._memory)), None))
            self._write_events(file, events)
        with self._lock:
            document = json.dumps({"schema_version": 1, "targets": self.targets}).encode() + b"\n"
        if document != self._written_ledger:
            with suppress(OSError):  # a full disk: events may be sent twice, never lost
                os.pwrite(ledger, document, 0)
                os.ftruncate(ledger, len(document))
                self._written_ledger = document

    def _write_events(self, file: int, events: list[EncodedEvent]) -> None:
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
        return min(bisect_right(self._starts, self.targets[broker]["delivered"]) - 1, self.count)

    def too_large(self, broker: str) -> int:
        """Events that a broker refused for their size."""
        return int(self.targets[broker].get("too_large", 0))

    def undelivered(self, broker: str) -> int:
        """Events that a broker does not have."""
        return self.count - self.position(broker) + self.too_large(broker)

    def advance(self, broker: str, number: int) -> None:
        """Note that a broker was offered all events before a number."""
        with self._lock:
            self.targets[broker]["delivered"] = self._starts[number]

    def pass_over(self, broker: str, number: int) -> None:
        """Note that a broker refuses an event for its size."""
        self.advance(broker, number + 1)
        with self._lock:
            self.targets[broker]["too_large"] = self.too_large(broker) + 1

    def begin_again(self, broker: str) -> None:
        """Offer a broker all events again, if it has refused some for their size: its limit may be another now."""
        with self._lock:
            if self.targets[broker].pop("too_large", 0):
                self.targets[broker]["delivered"] = 0


def spools_of(directory: Path, run: str | None = None) -> list[Path]:
    """The spools in a directory, of one run or of all, by their first events' times; none where it cannot be read."""
    found = []
    with suppress(OSError):
        for path in directory.glob(f"*{SPOOL_SUFFIX}") if directory.is_dir() else []:
            if run is None or path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)[:-2] == [run]:
                with suppress(FileNotFoundError):  # somebody clears up
                    found.append((_first_time(path), path))
    return [path for _, path in sorted(found)]


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


def _locked_ledger(path: Path, file: int, *, unlocked: bool) -> int | None:
    """The ledger's descriptor, locked until the process ends or closes it; without it, `file` is closed.

    The lock is one that forked workers do not inherit.
    """
    ledger = -1
    try:
        ledger = os.open(ledger_of(path), _FLAGS, 0o644)
        fcntl.lockf(ledger, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if ledger >= 0 and unlocked and error.errno not in (errno.EACCES, errno.EAGAIN):
            return ledger
        os.close(file)
        if ledger < 0:
            raise
        os.close(ledger)
        return None
    return ledger


def _line_ends(descriptor: int) -> Iterator[int]:
    """The offset behind every whole line."""
    start = 0
    while chunk := os.pread(descriptor, 1 << 20, start):
        found = -1
        while (found := chunk.find(b"\n", found + 1)) >= 0:
            yield start + found + 1
        start += len(chunk)


def _targets_of(ledger: int) -> dict[str, dict[str, Any]]:
    """The targets of a ledger; none if a crash left it unreadable."""
    try:
        document = json.loads(os.pread(ledger, os.fstat(ledger).st_size, 0) or b"{}")
        return {
            name: target
            for name, target in document.get("targets", {}).items()
            if isinstance(target.get("topic"), str)
            and all(isinstance(n, int) and n >= 0 for n in (target.get("delivered"), target.get("too_large", 0)))
        }
    except (ValueError, AttributeError, RecursionError):
        return {}
