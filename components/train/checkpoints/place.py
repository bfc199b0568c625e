"""Where a run keeps its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and what becomes of those of another.

    Attributes:
        directory: The same for every attempt of a run; None: beside the model, where checkpoints of another run go,
            as the model itself does.
        start_over: Remove what is there and begin anew.
        on_saved: Called on a thread of its own with each checkpoint's manifest file, once it is whole;
            whether it may be told of.
    """

    directory: Path | None = None
    start_over: bool = False
    on_saved: Callable[[Path], bool] | None = None

    def beside(self, model: Path) -> Path:
        """The directory."""
        return self.directory if self.directory is not None else model.with_name(f"{model.name}-checkpoints")
