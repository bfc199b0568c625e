"""Work done ahead of its use by one background thread, in order, a bounded number of results at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def read_ahead(
    work: Callable[[ItemT], ResultT], items: Iterable[ItemT], depth: int = 2
) -> Generator[ResultT, None, None]:
    """Yield ``work(item)`` for each item in order, made by a thread up to `depth` results before they are asked for.

    The thread starts with the first result asked for. It ends when the items do, when `work` fails, or when the
    generator is closed, which waits for the one item in work and for nothing else. Closing happens by itself where the
    generator is the only thing that refers to it; ``contextlib.closing`` makes sure of it.

    Args:
        work: Called in the thread, one item after the other.
        items: Read in the thread.
        depth: How many results may wait.

    Raises:
        BaseException: Whatever `work` raised, after the results before it.
    """
    shelf: _Shelf[ResultT] = _Shelf(depth)
    thread = threading.Thread(target=_fill, args=(shelf, work, items), name="read-ahead", daemon=True)
    try:
        thread.start()
        while (result := shelf.take()) is not None:
            yield result.value
    finally:
        shelf.close()
        if thread.ident is not None:
            thread.join()


class _Result(Generic[ResultT]):
    """One result; its own class, so that a result may be None."""

    __slots__ = ("value",)

    def __init__(self, value: ResultT) -> None:
        self.value = value


class _Shelf(Generic[ResultT]):
    """Where the thread puts results and the consumer takes them.

    Not ``queue.Queue``: a thread that waits to put a result there cannot be told that nobody will take it.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._results: deque[_Result[ResultT]] = deque()
        self._changed = threading.Condition()
        self._complete = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, value: ResultT) -> bool:
        """Put a result; waits while the shelf is full. False: nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._results) < self._depth)
            if not self._closed:
                self._results.append(_Result(value))
                self._changed.notify_all()
            return not self._closed

    def end(self, error: BaseException | None) -> None:
        """No result comes after those that are here."""
        with self._changed:
            self._complete, self._error = True, error
            self._changed.notify_all()

    def take(self) -> _Result[ResultT] | None:
        """The next result, waited for; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._results or self._complete)
            if self._results:
                result = self._results.popleft()
                self._changed.notify_all()
                return result
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._closed = True
            self._results.clear()
            self._changed.notify_all()


def _fill(shelf: _Shelf[ResultT], work: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> None:
    try:
        for item in items:
            if not shelf.put(work(item)):
                return
    except BaseException as error:
        shelf.end(error)
    else:
        shelf.end(None)
