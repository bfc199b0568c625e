"""Worker processes that decode chunks, each served by a thread; one that crashes is replaced, its chunk tried again."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from components.data_prep.contents import Encoded
from components.data_prep.engine.chunks import Chunk, Rows
from components.data_prep.engine.worker import Setting, receive, send
from components.shared.decoding.rendering import Rendering
from components.shared.errors import ShutterlineError
from components.shared.limits import free_memory, usable_cpus

# What a process should be able to decode beside others: a photo of 12 megapixels, at 14 bytes a pixel.
_SHARE = 192 * 1024**2
# Chunks that a worker has: one is sent while another is decoded.
_AT_ONCE = 2
_ENVIRONMENT = {
    # BLAS would start a thread for each CPU in each of them.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # glibc keeps what an image took for the next one; else its pages, 80 of a JPEG of 256² pixels, are cleared anew.
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
# How often one image alone may end the process that decodes it: somebody else may have ended it once.
_TRIES = 2


def worker_count() -> int:
    """Processes that the machine can keep busy, with enough memory for each; 0: one, which need be no other."""
    count = min(usable_cpus(), free_memory() // 2 // _SHARE)
    return count if count > 1 else 0


@dataclass(slots=True)
class Job:
    """Images of a split that are decoded together."""

    images: list[Encoded]
    chunk: Chunk
    files: list[int]  # of the placing, by the chunk's numbers
    tries: int = 0


class Jobs(Protocol):
    """Where jobs come from and go to; called in the threads of a pool."""

    def take(self, *, patiently: bool) -> Job | None:
        """The next; None: there is none, or none now."""

    def opened(self, job: Job) -> AbstractContextManager[list[int]]:
        """The files that its rows go to."""

    def parts(self, job: Job) -> list[Job]:
        """A job for each of its images."""

    def finish(self, job: Job, rows: Rows) -> list[Job]:
        """Take what was found out; those for which the worker has too little memory, each a job."""

    def set_aside(self, job: Job, reason: str) -> None:
        """Take note that its images cannot be read."""

    def decode_alone(self, job: Job) -> None:
        """Decode it in this process, while nothing else is decoded."""


class Worker:
    """One process."""

    def __init__(self, setting: Setting) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | _ENVIRONMENT
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, "-m", "components.data_prep.engine.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    start_new_session=True,  # a Ctrl-C is the main process's
                )
            except OSError as error:
                ours.close()
                raise ShutterlineError(
                    f"a process that decodes cannot be started: {error.strerror or error}"
                ) from error
        self.connection = ours
        send(ours, setting)

    def is_ready(self) -> bool:
        """Whether it has begun to serve, or has ended."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def end(self) -> str:
        """End it, if it has not ended by itself; how it did."""
        self._process.kill()
        code = self._process.wait()
        self.connection.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Pool:
    """Worker processes; use as a context manager, which ends them.

    Args:
        count: How many.
        rendering: What is made of every image.
    """

    def __init__(self, count: int, rendering: Rendering) -> None:
        self._setting = Setting(rendering, free_memory() // 2 // count)
        self._workers: list[Worker] = []
        self._changed = threading.Condition()
        self._shared = self._waiting = 0  # threads whose workers decode; threads that wait until none does
        self._is_closed = self._has_served = False
        self._count = count

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(Worker(self._setting))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            for worker in self._workers:
                worker.end()

    def is_ready(self) -> bool:
        """Whether a worker has begun to serve."""
        return self._has_served or any(worker.is_ready() for worker in self._workers)

    def serve(self, jobs: Jobs, stop: Callable[[], None]) -> Iterator[None]:
        """Have all jobs done; gives way now and then. `stop` is called on the first error, and has `take` give none."""
        errors: list[BaseException] = []
        self._has_served = True  # workers are silent until they get a job, once they have said that they are there

        def serve_one(number: int) -> None:
            try:
                _Serving(self, number, jobs).run()
            except BaseException as error:
                errors.append(error)
                stop()

        threads = [
            threading.Thread(target=serve_one, args=(number,), name=f"worker {number}", daemon=True)
            for number in range(len(self._workers))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
                yield
        if errors:
            raise errors[0]

    def worker(self, number: int) -> Worker:
        """The process of a number."""
        return self._workers[number]

    def replace(self, number: int) -> str | None:
        """Start another process in the place of one that ended; how that ended, None: the pool is closed."""
        with self._changed:
            if self._is_closed:
                return None
            ended = self._workers[number].end()
            self._workers[number] = Worker(self._setting)
            return ended

    def begin(self) -> None:
        """Have a worker decode, once nothing is decoded alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._shared += 1

    def end(self) -> None:
        """A worker has nothing to decode any more."""
        with self._changed:
            self._shared -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, no worker decodes, and no other thread is in here."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._shared)
            self._shared = 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1
                self._shared = 0
                self._changed.notify_all()


class _Serving:
    """One thread of a pool and its worker."""

    def __init__(self, pool: Pool, number: int, jobs: Jobs) -> None:
        self._pool, self._number, self._jobs = pool, number, jobs
        self._given: deque[Job] = deque()  # what the worker has, in its order
        self._again: deque[Job] = deque()  # what is to be tried again
        self._large: list[Job] = []

    def run(self) -> None:
        """Serve until there are no jobs."""
        try:
            self._serve()
        finally:
            if self._given:
                self._pool.end()

    def _serve(self) -> None:
        while True:
            is_idle = not self._given
            try:
                if (job := self._next()) is not None:
                    self._give(job)
                if self._given and (job is None or len(self._given) == _AT_ONCE):
                    self._take()
            except (EOFError, BrokenPipeError, ConnectionResetError):
                if not self._recover():
                    return
            else:
                if self._large and not self._given:
                    with self._pool.alone():
                        while self._large:
                            self._jobs.decode_alone(self._large.pop())
                elif job is None and is_idle:  # else there may only be none yet
                    return

    def _next(self) -> Job | None:
        if self._large:
            return None
        return self._again.popleft() if self._again else self._jobs.take(patiently=not self._given)

    def _give(self, job: Job) -> None:
        if not self._given:
            self._pool.begin()
        self._given.append(job)  # first, so that it is tried again if the worker has ended
        with self._jobs.opened(job) as descriptors:
            send(self._pool.worker(self._number).connection, job.chunk, descriptors)

    def _take(self) -> None:
        answer = None
        while answer is None:  # as its first is
            answer, _ = receive(self._pool.worker(self._number).connection)
        job = self._given.popleft()
        if not self._given:
            self._pool.end()
        if isinstance(answer, Exception):
            with self._jobs.opened(job):  # which names them
                raise answer
        self._large += self._jobs.finish(job, answer)

    def _recover(self) -> bool:
        """Try again what a worker had that ended: the first chunk, which it was at, image by image."""
        if (ended := self._pool.replace(self._number)) is None:
            return False
        if not self._given:
            raise ShutterlineError(f"a process that decodes ended as it began, with {ended}")
        self._pool.end()
        first = self._given.popleft()
        first.tries += 1
        if len(first.images) > 1:
            self._again.extend(self._jobs.parts(first))
        elif first.tries < _TRIES:
            self._again.append(first)
        else:
            killed = "; it may need more memory than there is" if ended == "SIGKILL" else ""
            self._jobs.set_aside(first, f"ends the process that decodes it ({ended}){killed}")
        self._again.extend(self._given)
        self._given.clear()
        return True
