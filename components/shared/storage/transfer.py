"""What the threads of one transfer share: how far it is, how long to go on trying, when to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

from components.shared.backoff import pause_s, seconds_from
from components.shared.errors import StorageUnavailableError
from components.shared.events.redaction import redact
from components.shared.limits import usable_cpus
from components.shared.storage.location import Location
from components.shared.storage.objects import Transient
from components.shared.storage.progress import OnProgress, TransferProgress

TIMEOUT_VARIABLE = "SHUTTERLINE_STORAGE_TIMEOUT"
_TIMEOUT_S = 120.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 8.0
_LONGEST_WISH_S = 30.0  # of a Retry-After
_TELL_EVERY_S = 0.5
_SILENCE_S = 30.0
# For threads that wait for the network when the transfer is given up; they end with the process in any case.
_GOODBYE_S = 2.0

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - nothing went wrong in the thread that gets it
    """The transfer was given up, for a reason that another thread has."""


def timeout_s() -> float:
    """For how many seconds without any byte of progress to go on trying.

    Raises:
        InputError: The environment variable is no positive number.
    """
    return seconds_from(TIMEOUT_VARIABLE, _TIMEOUT_S)


class Transfer:
    """One transfer to or from one location.

    Args:
        location: What is transferred, for messages.
        direction: ``down`` is from storage to here.
        progress: Told how far it is.
        patience_s: How long to go on trying without progress; None: as the environment says.

    Raises:
        InputError: The environment's patience is no positive number.
    """

    def __init__(
        self,
        location: Location,
        direction: Literal["down", "up"],
        progress: OnProgress | None = None,
        patience_s: float | None = None,
    ) -> None:
        self.location = location
        self._direction = direction
        self._progress = progress
        self._patience_s = timeout_s() if patience_s is None else patience_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self.expect(0, 0)

    @property
    def silence_s(self) -> float:
        """How long a connection may be silent before it counts as broken."""
        return min(_SILENCE_S, self._patience_s)

    def expect(self, files: int, total: int) -> None:
        """Begin, or begin again, to count: so many files, of so many bytes together."""
        self._files, self._total = files, total
        self._files_done = self._done = self._moved = 0
        self._started = self._told = self._last_moved = time.monotonic()

    def moved(self, count: int) -> None:
        """So many more bytes are transferred.

        Raises:
            Stopped: The transfer is given up.
        """
        self._count(count, count, 0)
        self.check()

    def found(self, count: int) -> None:
        """So many bytes need no transfer; or, where negative, have to be transferred again."""
        self._count(count, 0, 0)

    def finished_file(self) -> None:
        """One more file is whole."""
        self._count(0, 0, 1)

    def finished(self) -> None:
        """All is done: tell it, whenever it was told last."""
        self._tell()

    def stop(self) -> None:
        """Let every thread of the transfer end soon."""
        self._stop.set()

    def resume(self) -> None:
        """Take a stop back, once every thread has ended."""
        self._stop.clear()

    def check(self) -> None:
        """Go on only while the transfer does.

        Raises:
            Stopped: It is given up.
        """
        if self._stop.is_set():
            raise Stopped

    def persist(self, uri: object, attempt: Callable[[], T]) -> T:
        """Make an attempt until it succeeds: with backoff and jitter, while anything of the transfer moves.

        Raises:
            StorageUnavailableError: Nothing moved for too long.
            Stopped: The transfer is given up.
        """
        began = time.monotonic()
        failures, moved = 0, self._moved
        while True:
            self.check()
            try:
                return attempt()
            except Transient as error:
                if self._moved != moved:
                    failures, moved = 0, self._moved
                waited = time.monotonic() - max(began, self._last_moved)
                if waited >= self._patience_s:
                    raise StorageUnavailableError(
                        f"{uri}: {redact(str(error))}; gave up after {waited:.0f} s without progress; check the "
                        f"network and the store, and start again ({TIMEOUT_VARIABLE} sets the seconds)"
                    ) from error
                pause = pause_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                if error.retry_after_s is not None:
                    pause = max(pause, min(error.retry_after_s, _LONGEST_WISH_S))
                failures += 1
                self._stop.wait(min(pause, self._patience_s - waited))

    def _count(self, done: int, moved: int, files: int) -> None:
        with self._lock:
            self._done += done
            self._moved += moved
            self._files_done += files
            now = time.monotonic()
            if moved:
                self._last_moved = now
            if self._progress is None or now - self._told < _TELL_EVERY_S:
                return
            self._told = now
        self._tell()

    def _tell(self) -> None:
        if self._progress is None:
            return
        with self._telling:
            seconds = max(time.monotonic() - self._started, 1e-3)
            self._progress(
                TransferProgress(
                    what=str(self.location),
                    direction=self._direction,
                    done=min(self._done, self._total),
                    total=self._total,
                    files_done=self._files_done,
                    files=self._files,
                    bytes_per_second=self._moved / seconds,
                )
            )


def workers() -> int:
    """How many threads a transfer gets.

    Small objects wait for the store's answers, so more threads than cores; past some the interpreter's lock is what
    they wait for: measured on 2 cores, 4 to 16 make no difference against a store on the same machine.
    """
    return min(32, 4 * usable_cpus() + 4)


def run_all(transfer: Transfer, tasks: Iterable[Callable[[], None]]) -> None:
    """Run tasks in threads, in their order; the first error ends them all.

    Threads and never processes: by now a process may hold a GPU, which does not survive a fork. They are daemons, so
    that one which waits for a dead connection does not keep the process.

    Raises:
        Exception: The first that a task raised.
    """
    waiting, lock = iter(tasks), threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                with lock:
                    task = next(waiting, None)  # which may raise as well as the task
                if task is None or errors:
                    return
                task()
            except Stopped:
                return
            except BaseException as error:
                errors.append(error)
                transfer.stop()
                return

    threads = [threading.Thread(target=work, name=f"storage-{index}", daemon=True) for index in range(workers())]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # a signal's
        errors.append(Stopped())
        transfer.stop()
        end = time.monotonic() + _GOODBYE_S
        for thread in _started(threads):
            thread.join(max(0.0, end - time.monotonic()))
        raise
    if errors:
        transfer.resume()  # what follows, such as another attempt, is of the same transfer
        raise errors[0]
    transfer.check()


def _started(threads: Iterable[threading.Thread]) -> Iterator[threading.Thread]:
    return (thread for thread in threads if thread.ident is not None)
