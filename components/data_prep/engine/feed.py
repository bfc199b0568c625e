"""What a split hands out, pulled by a thread of its own, so that it is fetched or inflated while others decode."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from types import TracebackType
from typing import Self

from components.data_prep.contents import Block, Encoded, Read

# Of bytes and pixels that are in memory, and of images that are none: what keeps all workers busy.
_AHEAD_BYTES, _AHEAD_CHUNKS = 64 * 1024**2, 6
# Bytes of fetched files, until they are decoded, that are as good as one in memory: a disk has a gigabyte for them.
_FETCHED = 16
# How long one that has nothing to do waits for a whole chunk.
_PATIENCE_S = 0.02


class Feed:
    """Hands out chunks of images, or blocks, to threads that ask; use as a context manager.

    Args:
        read: What hands out images.
        wanted: Their positions.
        most: Images that a chunk has at most.
        takers: How many ask at once, in the end.
    """

    def __init__(self, read: Read, wanted: Collection[int], most: int, takers: int) -> None:
        self._read, self._wanted, self._most, self._takers = read, wanted, most, takers
        self._left = len(wanted)
        self._waiting: deque[Encoded | Block] = deque()
        self._held = 0  # bytes of what was pulled and is not done
        self._changed = threading.Condition()
        self._has_ended = self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._pull, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        # What fetches may wait for room, which is there once these are given up.
        with suppress(IndexError):  # the thread gives up the same
            while self._waiting:
                self.release(self._waiting.popleft())
        self._thread.join(timeout=5)

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _pull(self) -> None:
        most_waiting = _AHEAD_CHUNKS * self._takers * self._most
        try:
            for number, each in enumerate(self._read(self._wanted), start=1):
                size = _bytes_of(each)
                if size or len(self._waiting) >= most_waiting:
                    self._wait_for_room(size, most_waiting)
                self._waiting.append(each)
                if self._is_closed:
                    break
                if isinstance(each, Block) or number % self._most == 0:
                    with self._changed:
                        self._changed.notify_all()
        except BaseException as error:  # raised where the next is asked for
            self._error = error
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        while self._is_closed and self._waiting:
            with suppress(IndexError):  # the main thread gives up the same
                self.release(self._waiting.popleft())

    def _wait_for_room(self, size: int, most_waiting: int) -> None:
        with self._changed:
            while not self._is_closed and (
                len(self._waiting) >= most_waiting or (self._held and self._held + size > _AHEAD_BYTES)
            ):
                self._changed.wait()
            self._held += size

    def take(self, *, patiently: bool = True) -> list[Encoded] | Block | None:
        """The next images: a chunk, or fewer where no more come for a while; None: there are none.

        Args:
            patiently: Whether to wait for some; else there are none where there is no whole chunk now.

        Raises:
            DataError: What `read` raised.
        """
        with self._changed:
            while not (self._has_ended or self._is_closed or self._has_whole()):
                if not patiently:
                    return None
                if not self._changed.wait(_PATIENCE_S) and self._waiting:
                    break
            if self._error is not None:
                raise self._error
            if self._is_closed or not self._waiting:
                return None
            if isinstance(first := self._waiting.popleft(), Block):
                self._left -= len(first.images)
                self._changed.notify_all()
                return first
            images, size = [first], self._size()
            while len(images) < size and self._waiting and isinstance(self._waiting[0], Encoded):
                images.append(self._waiting.popleft())  # type: ignore[arg-type]
            self._left -= len(images)
            self._changed.notify_all()
            return images

    def _has_whole(self) -> bool:
        """Whether there is a block, or a chunk."""
        waiting = self._waiting
        return len(waiting) >= self._size() or (bool(waiting) and isinstance(waiting[0], Block))

    def _size(self) -> int:
        """Images of the next chunk: fewer towards the end, so that all are done at about the same time."""
        return max(1, min(self._most, self._left // (2 * self._takers)))

    def release(self, each: Encoded | Block) -> None:
        """Give up what an image or block held."""
        if isinstance(each, Encoded) and each.release is not None:
            each.release()
        if size := _bytes_of(each):
            with self._changed:
                self._held -= size
                self._changed.notify_all()


def _bytes_of(each: Encoded | Block) -> int:
    if isinstance(each, Block):
        return each.images.nbytes
    return len(each.content) if isinstance(each.content, bytes) else -(-each.fetched // _FETCHED)
