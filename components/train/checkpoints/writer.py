"""Keeps a run's checkpoints: the training thread hands over a copy of the state, a thread behind it does the rest."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.classifier.device import is_out_of_memory
from components.shared.errors import HostMemoryError
from components.train.checkpoints.format import (
    CheckpointManifest,
    list_checkpoints,
    remove_checkpoint,
    remove_leftovers,
    superseded,
    write_checkpoint,
)
from components.train.checkpoints.snapshot import Snapshot

# Copies of the state: one is written while the next is made. The second is made only where saving is due that early.
_SNAPSHOTS = 2


# Without a manifest only memory is made ready.
_Work = tuple[Snapshot, CheckpointManifest | None, dict[str, Any]]


class CheckpointWriter:
    """Writes checkpoints behind the training thread; use as a context manager, which waits for the last one.

    Args:
        directory: Where they lie.
        keep: How many of the newest stay.
        on_saved: Called on the thread behind with each checkpoint's manifest file, once it is whole; whether it may be
            told of.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        on_saved: Callable[[Path], bool] | None = None,
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._on_saved = on_saved
        self._free: queue.LifoQueue[Snapshot] = queue.LifoQueue()
        for _ in range(_SNAPSHOTS):
            self._free.put(Snapshot())
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._saved: deque[tuple[CheckpointManifest, Path]] = deque()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def __enter__(self) -> Self:
        remove_leftovers(self._directory)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way: the last checkpoint of a training that was ended is the one to go on from."""
        self._work.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return self._free.qsize() < _SNAPSHOTS

    def prepare(self, state: dict[str, Any]) -> None:
        """Have memory for such a state ready before it is needed, without holding up the training.

        Args:
            state: Of the same shapes as the states to come; what is in it does not matter, and may change meanwhile.
        """
        self._work.put((self._free.get(), None, state))

    def save(self, manifest: CheckpointManifest, state: dict[str, Any]) -> None:
        """Hand over a state; returns once it is copied, and waits only where two are being written already.

        Raises:
            OSError: An earlier one could not be written.
            HostMemoryError: There is no memory for the copy.
        """
        self._raise()
        snapshot = self._free.get()
        try:
            self._raise()
            copied = snapshot.take(state)
        except BaseException as error:
            self._free.put(snapshot)
            if is_out_of_memory(error):
                raise HostMemoryError(
                    "this machine has no memory for a copy of the training's state, which a checkpoint is written "
                    "from; give the step more memory"
                ) from error
            raise
        self._work.put((snapshot, manifest, copied))

    def saved(self) -> list[tuple[CheckpointManifest, Path]]:
        """The checkpoints that have become whole since the last call, with their manifests' files.

        Raises:
            OSError: One could not be written.
        """
        self._raise()
        found = []
        while self._saved:
            found.append(self._saved.popleft())
        return found

    def wait(self) -> None:
        """Wait until everything handed over is written.

        Raises:
            OSError: It could not be.
        """
        taken = [self._free.get() for _ in range(_SNAPSHOTS)]
        for snapshot in taken:
            self._free.put(snapshot)
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            snapshot, manifest, state = work
            try:
                if manifest is None:
                    with suppress(RuntimeError, MemoryError):  # if there is none, saving says so
                        snapshot.take(state)  # for its pages: the first copy is then as quick as any other
                elif self._error is None:
                    path = write_checkpoint(self._directory, manifest, state)
                    there = [each.name for each in list_checkpoints(self._directory)]
                    for old in superseded(there, path.name, self._keep):
                        remove_checkpoint(self._directory / old)
                    if self._on_saved is None or self._on_saved(path):
                        self._saved.append((manifest, path))
            except BaseException as error:  # it is raised where the training is
                self._error = error
            finally:
                del state, work
                self._free.put(snapshot)
