"""Checkpoints in a bucket: uploaded by a thread of their own, so that training goes on meanwhile."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from components.classifier.checkpoint import list_checkpoints
from components.shared.errors import ShutterlineError
from components.shared.storage.location import Location
from components.shared.storage.publish import delete, write_file


class CheckpointMirror:
    """Keeps a bucket's place like a local directory of checkpoints; use as a context manager.

    A checkpoint is there for training to go on from; that it cannot be uploaded is warned of and ends no training. That
    the place cannot be written at all ends it, before it begins.

    Args:
        local: The directory.
        place: What it stands for.
        log: Gets warnings.
    """

    def __init__(self, local: Path, place: Location, log: logging.Logger) -> None:
        self._local = local
        self._place = place
        self._log = log
        self._queue: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._uploaded: dict[Path, Location] = {}
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def __enter__(self) -> Self:
        probe, there = self._local / ".shutterline-writable", self._place.child(".shutterline-writable")
        probe.touch()
        write_file(there, probe)
        delete(there)
        probe.unlink()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way: the last checkpoint of a training that was ended is the one to go on from."""
        self._queue.put(None)
        self._thread.join()

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint was written; returns at once."""
        self._queue.put(checkpoint)

    def _run(self) -> None:
        while (checkpoint := self._queue.get()) is not None:
            try:
                self._upload(checkpoint)
            except FileNotFoundError:
                pass  # newer ones have been saved since, and this one is no longer kept
            except (ShutterlineError, OSError) as error:
                self._log.warning("a checkpoint was saved and not uploaded: %s", error)

    def _upload(self, checkpoint: Path) -> None:
        there = self._place.child(checkpoint.relative_to(self._local).as_posix())
        write_file(there, checkpoint)
        self._uploaded[checkpoint] = there
        kept = set(list_checkpoints(checkpoint.parent))
        for gone in [path for path in self._uploaded if path not in kept]:
            delete(self._uploaded.pop(gone))
