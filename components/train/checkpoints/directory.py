"""Where a run keeps its checkpoints: one directory, one training at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.shared.artifacts.artifact import WRITING_MARKER, read_manifest
from components.shared.artifacts.model import MODEL
from components.shared.claims import unwritable
from components.shared.errors import ArtifactError, CheckpointError
from components.shared.locks import HeldError, locked
from components.train.checkpoints.resume import newest, remove_all

LOCK = ".shutterline-training"
# A pod that was told to end may still be at it while the next attempt begins: Kubernetes gives it 30 s.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and what becomes of those of another.

    Attributes:
        directory: The same for every attempt of a run; None: beside the model.
        start_over: Remove what is there and begin anew.
        on_saved: Called on a thread of its own with each checkpoint's manifest file, once it is whole;
            whether it may be told of.
        on_cleared: Called when all that was there has been removed.
        named: What the user calls the place, where `directory` only stands for it.
        is_there: Whether a checkpoint is in that place, by its manifest's file.
        beside_whole_model: Whether they lie beside a whole model, which this run replaces; None: where `directory` is,
            and a whole model lies there.
    """

    directory: Path | None = None
    start_over: bool = False
    on_saved: Callable[[Path], bool] | None = None
    on_cleared: Callable[[], None] | None = None
    named: str | None = None
    is_there: Callable[[Path], bool] = lambda path: True
    beside_whole_model: bool | None = None

    def may_go(self, model: Path) -> bool:
        """Whether checkpoints of another run are removed, as the model that they lie beside is replaced.

        Only where that run is finished and its model is whole: what was not trained to its end is kept.
        """
        found = newest(self.beside(model))
        if found is None or not found.finished:
            return False
        if self.beside_whole_model is not None:
            return self.beside_whole_model
        if self.directory is not None or (model / WRITING_MARKER).exists():
            return False
        try:
            read_manifest(model, MODEL)
        except ArtifactError:
            return False
        return True

    def beside(self, model: Path) -> Path:
        """The directory."""
        return self.directory if self.directory is not None else model.with_name(f"{model.name}-checkpoints")

    def clear(self, directory: Path) -> None:
        """Remove what is there."""
        remove_all(directory)
        if self.on_cleared is not None:
            self.on_cleared()


@contextmanager
def held(directory: Path, log: logging.Logger) -> Iterator[None]:
    """Make a directory for checkpoints and have it for this training alone.

    Another training there is waited for as long as one that was told to end may take. Where a file system has no locks
    there is none.

    Raises:
        InputError: The directory cannot be made or written.
        CheckpointError: Another training is at it.
    """

    def say(error: HeldError) -> None:
        log.warning("%s: another training keeps its checkpoints there, %s; waiting for its end", directory, error)

    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(directory / LOCK, patience_s=_PATIENCE_S, on_wait=say))
        except HeldError as error:
            raise CheckpointError(
                f"{directory}: another training keeps its checkpoints there, {error}; end it, or name another place"
            ) from error
        except OSError as error:
            raise unwritable("checkpoints", directory, error) from error
        yield
