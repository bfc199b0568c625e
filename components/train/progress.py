"""What a person sees while training: a bar in a notebook or a terminal, else one line an epoch."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType
from typing import Any, Literal, Self

from tqdm import tqdm

from components.shared.model import EpochRecord


class Progress:
    """Progress of a training run; use as a context manager.

    Args:
        mode: ``notebook`` for a notebook's bar, ``script`` for a terminal's.
        epochs: Epochs in all.
        steps_per_epoch: Batches in one epoch.
        log: Gets one line an epoch where there is no bar.
        done: Batches that an earlier attempt has trained.
    """

    def __init__(
        self,
        mode: Literal["notebook", "script"],
        epochs: int,
        steps_per_epoch: int,
        log: logging.Logger,
        done: int = 0,
    ) -> None:
        self._mode = mode
        self._epochs = epochs
        self._steps = epochs * steps_per_epoch
        self._log = log
        self._done = done
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._mode == "notebook" and _in_notebook():
            from tqdm.notebook import tqdm as notebook_tqdm  # needs ipywidgets, which only notebooks have

            self._bar = notebook_tqdm(total=self._steps, initial=self._done, unit="batch", desc="training")
        elif sys.stderr.isatty():
            # `docker run -t` may give a terminal of no size, on which tqdm alone would draw nothing.
            sized = os.get_terminal_size(sys.stderr.fileno()).columns > 0
            width: dict[str, Any] = {"dynamic_ncols": True} if sized else {"ncols": 80, "nrows": 24}
            self._bar = tqdm(total=self._steps, initial=self._done, unit="batch", desc="training", leave=False, **width)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, batches: int = 1) -> None:
        """Some batches are under way; costs the caller well under a microsecond between redraws."""
        if self._bar is not None:
            self._bar.update(batches)

    def epoch(self, record: EpochRecord, images_per_second: float) -> None:
        """An epoch has ended."""
        parts = [f"loss {record.train_loss:.4f}", f"accuracy {record.train_accuracy:.4f}"]
        if record.accuracy is not None and record.loss is not None:
            parts += [f"held-out loss {record.loss:.4f}", f"accuracy {record.accuracy:.4f}"]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join([f"epoch {record.epoch}/{self._epochs}", *parts]))
        else:
            head = f"epoch {record.epoch}/{self._epochs}"
            tail = f"lr {record.learning_rate:.3g}  {images_per_second:,.0f} images/s"
            self._log.info("%s", "  ".join([head, *parts, tail]))


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel that can show widgets."""
    kernel = sys.modules.get("IPython")
    shell = kernel.get_ipython() if kernel is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return False
    try:
        import ipywidgets  # noqa: F401 - only whether it is there
    except ImportError:
        return False
    return True
