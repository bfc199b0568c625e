"""A bucket's copy of a run's spools, so that what a step could not deliver outlives its pod.

The step keeps its spool in a directory of its own; a thread puts it into the bucket whole, soon after it changed. A
process that is killed loses the events of its last seconds there, at most. The bucket has no locks, and needs none:
each spool is written by the process that claimed its name, and a ledger that another process replaces costs no more
than events that come again under the same ids.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from components.shared.errors import ShutterlineError, StorageRefusedError, StorageUnavailableError
from components.shared.events.redaction import redact
from components.shared.events.spool import LEDGER_SUFFIX, SPOOL_SUFFIX, Spool, ledger_of
from components.shared.files import write_atomically
from components.shared.retry import bounded
from components.shared.storage.location import Location
from components.shared.storage.store import ABSENT, ChangedError, Store, StoredObject, connect
from components.shared.storage.transfer import StoppedError, Transfer

_NAME = re.compile(
    r"(?P<run>[A-Za-z0-9][A-Za-z0-9._-]{0,127})\.(?P<step>[A-Za-z0-9_-]{1,64})\.(?P<attempt>[0-9]{1,9})"
    rf"({re.escape(SPOOL_SUFFIX)}|{re.escape(LEDGER_SUFFIX)})"
)
LARGEST_SPOOL = 64 << 20  # bytes; a run's has some hundred thousand

# Seconds: between polls of the spool; before a start, a checkpoint or an end is put, since GCS takes one change of an
# object a second; and before progress is.
POLL_S, SOON_S, PROGRESS_S = 0.5, 1.0, 10.0

T = TypeVar("T")


class EventsBucket:
    """Spools and ledgers of runs below a location in a bucket, and a local directory that has some of them.

    Nothing is connected before the first use. May be used by one thread at a time. Unless it says otherwise a method
    raises StorageRefusedError where there is no such bucket, it is forbidden or there are no credentials, and
    StorageUnavailableError where the store does not answer in time.

    Args:
        location: Where the spools are in the bucket.
        local: A directory of this process alone; made when it is needed.
        timeout_s: How long a method may take, and how long a put is tried.
        log: Gets a line when the spool can no longer be put, and when it can again.
        credentials: A file of Google credentials for ``gs://``, where the environment names none.
    """

    def __init__(
        self, location: Location, local: Path, *, timeout_s: float, log: logging.Logger, credentials: str | None = None
    ) -> None:
        self.location = location
        self.local = local
        self._timeout_s = timeout_s
        self._log = log
        self._credentials = credentials
        self._store: Store | None = None
        self._connecting = threading.Lock()
        self._own: Spool | None = None
        self._claimed = ""  # name of our own spool there
        self._put_bytes = 0  # of our own spool
        self._ledgers: dict[str, bytes] = {}  # by the spool's name, as last fetched or put
        self._thread = threading.Thread(target=self._mirror, name="events-bucket", daemon=True)
        self._ending = threading.Event()
        self._trouble: str | None = None

    @property
    def spool(self) -> str | None:
        """The address of this process's spool in the bucket; None where it has none there."""
        return str(self.location.child(self._claimed)) if self._claimed else None

    def fetch(self, run: str | None = None, *, name: str | None = None) -> list[Path]:
        """Copy spools, of one run or of one name, and their ledgers into the local directory, and return them.

        One that is there stays unless the bucket's goes on; one that its step has only claimed is empty. OSError where
        the local directory cannot be written.
        """
        return self._in_time(lambda store: self._fetch(store, run, name))

    def claim(self, run: str, step: str, attempt: int) -> int:
        """Take the first free attempt of a step, from `attempt` on: no two processes get the same.

        On a store without conditional writes, two that ask at the same moment may.
        """
        return self._in_time(lambda store: self._claim(store, run, step, attempt))

    def start(self, spool: Spool) -> None:
        """Begin to put a spool, and every ledger that changes, in a thread of its own. Never raises.

        Without a claim on its name the spool gets the next free one in the bucket.
        """
        self._own = spool
        if spool.path is not None and self._claimed != spool.path.name:
            self._claimed = ""
        self._thread.start()

    def close(self, within_s: float) -> bool:
        """Put what has changed since the last time, within a bound; whether the bucket has all of it. Never raises."""
        self._ending.set()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._abandon()
            self._note(f"the store does not answer within {within_s:g} s")
        return self._trouble is None

    def put_ledgers(self) -> None:
        """Put every ledger that has changed since it was fetched, and end the connection."""
        try:
            self._in_time(lambda _: self._put_ledgers())
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection; the next use opens another."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _fetch(self, store: Store, run: str | None, name: str | None) -> list[Path]:
        self.local.mkdir(parents=True, exist_ok=True)
        start = self.location.prefix
        found: dict[str, StoredObject] = {}
        for stored in store.list(start + (name.removesuffix(SPOOL_SUFFIX) if name else f"{run}." if run else "")):
            parts = _NAME.fullmatch(file := stored.key.removeprefix(start))
            if parts is None or (run is not None and parts["run"] != run):
                continue
            if stored.bytes > LARGEST_SPOOL:
                message = "%s is passed over: it has %d MB, and a spool has at most %d"
                self._log.warning(message, self.location.child(file), stored.bytes >> 20, LARGEST_SPOOL >> 20)
                continue
            found[file] = stored
        spools = [file for file in found if file.endswith(SPOOL_SUFFIX) and name in (None, file)]
        store.transfer.run_all([partial(self._fetch_spool, store, found, file) for file in spools])
        return [self.local / file for file in spools]

    def _fetch_spool(self, store: Store, found: dict[str, StoredObject], name: str) -> None:
        path = self.local / name
        ledger = ledger_of(path)
        here = _bytes_of(path)
        if not path.exists() or len(here) < found[name].bytes:
            # A ledger that is here stays: it may be open, and one that is behind costs no more than a second delivery.
            if ledger.name in found and not ledger.exists():
                write_atomically(ledger, _read(store, found[ledger.name]))
            data = _read(store, found[name])
            lines = data[: data.rfind(b"\n") + 1]
            # The bucket's copy of what this process writes itself is a part of it, or a claim, which has no line.
            if not path.exists() or (len(lines) > len(here) and lines.startswith(here)):
                write_atomically(path, lines)
        self._ledgers.setdefault(name, _bytes_of(ledger))

    def _claim(self, store: Store, run: str, step: str, attempt: int) -> int:
        # Unique, so that a claim whose answer was lost is known as our own; a line without an end is no event.
        content = uuid4().hex.encode()
        while True:
            name = f"{run}.{step}.{attempt}{SPOOL_SUFFIX}"
            key = self.location.child(name).key
            with suppress(ChangedError):
                if store.stat(key) is None:
                    try:
                        store.write(key, content, ABSENT)
                    except StorageRefusedError:
                        store.write(key, content, None)  # a store without conditions; or it refuses this, too
                    self._claimed = name
                    return attempt
            attempt += 1

    def _put(self) -> None:
        """Put the ledgers and our own spool where they have changed; else the store is asked for nothing."""
        path = self._own.path if self._own is not None else None
        if path is not None and not self._claimed:
            run, step, attempt = path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)
            self._claim(self._connected(), run, step, int(attempt))
        self._put_ledgers()  # first: whenever the process is killed, a spool without a ledger would name no broker
        if path is None:
            return
        data = path.read_bytes()
        lines = data[: data.rfind(b"\n") + 1]
        if len(lines) > self._put_bytes:
            self._connected().write(self.location.child(self._claimed).key, lines, None)
            self._put_bytes = len(lines)

    def _put_ledgers(self) -> None:
        own = self._own.path.name if self._own is not None and self._own.path is not None else ""
        for name in dict.fromkeys([*self._ledgers, own] if own else self._ledgers):
            ledger = _bytes_of(ledger_of(self.local / name))
            if ledger not in (self._ledgers.get(name), b""):
                there = ledger_of(Path(self._claimed if name == own else name)).name
                self._connected().write(self.location.child(there).key, ledger, None)
                self._ledgers[name] = ledger

    def _mirror(self) -> None:
        """The thread: put what has changed, soon where the spool has new milestones."""
        last, put_milestones, is_ending = float("-inf"), 0, False
        while not is_ending:
            is_ending = self._ending.wait(POLL_S)
            milestones = self._own.milestones if self._own is not None else 0
            is_soon = milestones > put_milestones and self._trouble is None
            if is_ending or time.monotonic() - last >= (SOON_S if is_soon else PROGRESS_S):
                try:
                    self._put()
                    self._note(None)
                    put_milestones = milestones
                except StoppedError:
                    if is_ending:
                        return
                except Exception as error:  # whatever it is, it must cost nobody a training
                    self._note(_reason_of(error))
                last = time.monotonic()
        self.disconnect()

    def _note(self, trouble: str | None) -> None:
        """Log a change of state, once."""
        before, self._trouble = self._trouble, trouble
        if trouble is not None and before is None:
            message = "events cannot be kept in %s: %s; what is not delivered when the pod ends is lost"
            self._log.warning(message, self.location, trouble)
        elif trouble is None and before is not None:
            self._log.info("events are kept in %s again", self.location)

    def _connected(self) -> Store:
        with self._connecting:
            if self._store is None:
                # The store's own timeout ends first: its message has the reason.
                transfer = Transfer(timeout=0.8 * self._timeout_s)
                self._store = connect(self.location, transfer, self._credentials)
            return self._store

    def _abandon(self) -> None:
        """Let whatever waits for the store end soon, and connect anew next time."""
        if self._store is not None:
            self._store.transfer.stop()
        self.disconnect()

    def _in_time(self, work: Callable[[Store], T]) -> T:
        """Do something in a thread, so that nothing that hangs, a name server or a token's, is waited for."""
        try:
            return bounded(lambda: work(self._connected()), self._timeout_s)
        except (TimeoutError, StorageUnavailableError) as error:
            self._abandon()
            why = f"no answer within {self._timeout_s:g} s" if isinstance(error, TimeoutError) else _reason_of(error)
            self._trouble = why  # which the caller logs
            raise StorageUnavailableError(f"events in {self.location}: {why}") from error


def spool_name(location: Location) -> str | None:
    """The name of the spool that a location in a bucket is; None where it is a prefix."""
    return location.name if location.name.endswith(SPOOL_SUFFIX) and _NAME.fullmatch(location.name) else None


def _read(store: Store, stored: StoredObject | None) -> bytes:
    """An object that its writer may replace meanwhile; nothing where it is gone."""
    for _ in range(5):
        if stored is None or stored.bytes > LARGEST_SPOOL:
            break
        try:
            return store.read_whole(stored)
        except ChangedError:
            stored = store.stat(stored.key)
    return b""


def _bytes_of(file: Path) -> bytes:
    with suppress(FileNotFoundError):
        return file.read_bytes()
    return b""


def _reason_of(error: Exception) -> str:
    """Why something failed, on one line, without the advice for who waits for it."""
    if isinstance(error, StorageUnavailableError) and error.__cause__ is not None:
        return redact(str(error.__cause__))
    if isinstance(error, ShutterlineError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return redact(f"{type(error).__name__}: {error}")
