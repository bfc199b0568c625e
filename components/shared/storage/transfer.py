"""What the threads of one transfer share: progress, the timeout of retries, and when to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from components.shared.errors import RetryableError, StorageUnavailableError
from components.shared.events.redaction import redact
from components.shared.limits import usable_cpus
from components.shared.retry import pause_s, seconds_from

TIMEOUT_VARIABLE = "SHUTTERLINE_STORAGE_TIMEOUT"
_TIMEOUT_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 8.0
_LONGEST_RETRY_AFTER_S = 30.0
_PROGRESS_EVERY_S = 0.5
_SILENCE_S = 30.0
# For threads that wait for the network when the transfer is given up; they end with the process in any case.
_STOP_S = 2.0

T = TypeVar("T")


class StoppedError(Exception):
    """The transfer was given up, for a reason that another thread has."""


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far a transfer is.

    Attributes:
        done: Bytes transferred so far, or found to be there already.
        files_done: Files that are whole and verified.
        bytes_per_second: Of the transfer so far, without what was there already.
    """

    done: int
    total: int
    files_done: int
    files: int
    bytes_per_second: float


# Called about twice a second at most, by any thread but never by two at once, and once at the end.
OnProgress = Callable[[TransferProgress], None]


def timeout_s() -> float:
    """For how many seconds without any byte of progress to go on trying; InputError if that is no positive number."""
    return seconds_from(TIMEOUT_VARIABLE, _TIMEOUT_S)


class Transfer:
    """One transfer to or from a bucket; `timeout` in seconds without progress, by default as the environment says."""

    def __init__(self, progress: OnProgress | None = None, timeout: float | None = None) -> None:
        self.progress = progress
        self._timeout_s = timeout_s() if timeout is None else timeout
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._reporting = threading.Lock()
        self.expect(0, 0)

    @property
    def silence_s(self) -> float:
        """How long a connection may be silent before it counts as broken."""
        return min(_SILENCE_S, self._timeout_s)

    def expect(self, files: int, total: int) -> None:
        """Begin, or begin again, to count: so many files, of so many bytes together."""
        self._files, self._total = files, total
        self._files_done = self._done = self._moved = 0
        self._started = self._reported = self._last_moved = time.monotonic()

    def moved(self, count: int) -> None:
        """Count so many more bytes as transferred; StoppedError if the transfer is given up."""
        self._count(count, moved=count)
        self.check()

    def found(self, count: int) -> None:
        """Count bytes that need no transfer; or, where negative, have to be transferred again."""
        self._count(count)

    def finished_file(self) -> None:
        """Count one more file as whole."""
        self._count(0, files=1)

    def stop(self) -> None:
        """Let every thread of the transfer end soon."""
        self._stop.set()

    def check(self) -> None:
        """Raise StoppedError if the transfer is given up."""
        if self._stop.is_set():
            raise StoppedError

    def retry(self, uri: object, attempt: Callable[[], T]) -> T:
        """Make an attempt until it succeeds: with backoff and jitter, while anything of the transfer moves.

        StorageUnavailableError: nothing moved for too long. StoppedError: the transfer is given up.
        """
        began = time.monotonic()
        failures, moved = 0, self._moved
        while True:
            self.check()
            try:
                return attempt()
            except RetryableError as error:
                if self._moved != moved:
                    failures, moved = 0, self._moved
                waited = time.monotonic() - max(began, self._last_moved)
                if waited >= self._timeout_s:
                    raise StorageUnavailableError(
                        f"{uri}: {redact(str(error))}; gave up after {waited:.0f} s without progress; check the "
                        f"network and the store, and start again ({TIMEOUT_VARIABLE} sets the seconds)"
                    ) from error
                pause = pause_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                pause = max(pause, min(error.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S))
                failures += 1
                self._stop.wait(min(pause, self._timeout_s - waited))

    def run_all(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Run tasks in threads, in their order; the first error ends them all, and is raised.

        Threads and never processes: by now a process may hold a GPU, which does not survive a fork. They are daemons,
        so that one which waits for a dead connection does not keep the process.
        """
        waiting, lock = iter(tasks), threading.Lock()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                while True:
                    with lock:
                        task = next(waiting, None)  # which may raise as well as the task
                    if task is None or errors:
                        return
                    task()
            except StoppedError:
                return
            except BaseException as error:
                errors.append(error)
                self.stop()

        threads = [threading.Thread(target=work, name=f"storage-{index}", daemon=True) for index in range(workers())]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # a signal's
            errors.append(StoppedError())
            self.stop()
            end = time.monotonic() + _STOP_S
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end - time.monotonic()))
            raise
        if errors:
            self._stop.clear()  # what follows, such as another attempt, is of the same transfer
            raise errors[0]
        self.check()

    def _count(self, done: int, *, moved: int = 0, files: int = 0) -> None:
        with self._lock:
            self._done += done
            self._moved += moved
            self._files_done += files
            now = time.monotonic()
            if moved:
                self._last_moved = now
            if self.progress is None or now - self._reported < _PROGRESS_EVERY_S:
                return
            self._reported = now
        self.report()

    def report(self) -> None:
        """Call `progress`, as at the end."""
        if self.progress is None:
            return
        with self._reporting:
            rate = self._moved / max(time.monotonic() - self._started, 1e-3)
            done = min(self._done, self._total)
            self.progress(TransferProgress(done, self._total, self._files_done, self._files, rate))


def workers() -> int:
    """How many threads a transfer gets.

    Small objects wait for the store's answers, so more threads than cores; past some the interpreter's lock is what
    they wait for: measured on 2 cores, 4 to 16 make no difference against a store on the same machine.
    """
    return min(32, 4 * usable_cpus() + 4)
