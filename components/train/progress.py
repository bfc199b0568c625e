"""What a person sees while training: one line an epoch, and a bar below them in a terminal; a bar in a notebook."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from components.shared.artifacts.model import EpochRecord
from components.shared.process_group import is_rank_zero

# At most 55 columns for a hundred epochs of a thousand batches; a bar that is wider than its terminal is cut.
_BAR, _NARROW_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]", "{l_bar}{bar}|"
_NARROW = 60


class Progress:
    """Progress of a training run; use as a context manager.

    Args:
        mode: ``notebook`` for a notebook's bar, ``script`` for a terminal's.
        epochs: Epochs in all.
        steps_per_epoch: Batches in one epoch.
        log: Gets one line an epoch; in a notebook the bar shows it.
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
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._log = log
        self._done = done
        self._bar: Any = None
        self._is_notebook = mode == "notebook" and _in_notebook()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        total = self._epochs * self._steps_per_epoch
        if self._is_notebook:
            from tqdm.notebook import tqdm as notebook_tqdm  # needs ipywidgets, which only notebooks have

            self._bar = notebook_tqdm(total=total, initial=self._done, unit="batch", desc="training")
        elif is_rank_zero() and sys.stderr.isatty():
            # `docker run -t` may give a terminal of no size, on which tqdm alone would draw nothing.
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            width: dict[str, Any] = {"dynamic_ncols": True} if columns else {"ncols": 80, "nrows": 24}
            shape = _NARROW_BAR if 0 < columns < _NARROW else _BAR
            self._bar = tqdm(
                total=total, initial=self._done, unit="batch", leave=False, bar_format=shape, desc=self._place, **width
            )
            # What is logged meanwhile stands above the bar.
            self._stack.enter_context(logging_redirect_tqdm([logging.getLogger(self._log.name.partition(".")[0])]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._bar is not None:
            self._bar.close()

    @property
    def _place(self) -> str:
        """The epoch that is being trained, of how many."""
        return f"epoch {min(self._done // self._steps_per_epoch + 1, self._epochs)}/{self._epochs}"

    def reach(self, batches: int) -> None:
        """So many batches of the run are under way; costs the caller about a microsecond between redraws."""
        if self._bar is not None:
            if not self._is_notebook and not self._done % self._steps_per_epoch:
                self._bar.set_description_str(self._place, refresh=False)
            self._bar.update(batches - self._done)
            self._done = batches

    def epoch(self, record: EpochRecord) -> None:
        """An epoch has ended."""
        parts = [f"loss {record.train_loss:.4f}", f"accuracy {record.train_accuracy:.4f}"]
        if record.accuracy is not None and record.loss is not None:
            parts += [f"held-out loss {record.loss:.4f}", f"accuracy {record.accuracy:.4f}"]
        head = f"epoch {record.epoch}/{self._epochs}"
        if self._is_notebook:
            self._bar.set_postfix_str(", ".join([head, *parts]))
            return
        parts.append(f"lr {_rates(record)}")
        if record.images_per_second is not None:
            parts.append(f"{record.images_per_second:,.0f} images/s")
        line = "  ".join([head, *parts])
        if self._bar is None or self._log.isEnabledFor(logging.INFO):
            self._log.info("%s", line)
        else:  # of a script that shows no log
            self._bar.write(line, file=sys.stderr)


def _rates(record: EpochRecord) -> str:
    """The learning rate of an epoch; where it moved, the lowest and the highest."""
    lowest, highest = record.lowest_learning_rate, record.highest_learning_rate
    if lowest is None or highest is None or lowest == highest:
        return f"{record.learning_rate:.3g}"
    return f"{lowest:.3g} to {highest:.3g}"


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
