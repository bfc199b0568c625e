"""How training is getting on: a line an epoch and a bar for people, status events for watchers elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from components.shared.artifacts.model import EpochRecord
from components.shared.events.data import Checkpoint, Emit, Progress
from components.shared.params.params import Params
from components.shared.process_group import is_rank_zero
from components.train.checkpoints.format import CheckpointManifest

# An epoch that takes longer has events before its end.
EVENT_EVERY_S = 5.0
# At most 55 columns for a hundred epochs of a thousand batches; a bar that is wider than its terminal is cut.
_BAR, _NARROW_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]", "{l_bar}{bar}|"
_NARROW = 60


class TrainingProgress:
    """Progress of a training run; use as a context manager.

    Args:
        params: The run's options; ``mode: notebook`` shows a notebook's bar, and on it what else is logged each epoch.
        emit: Gets the status events.
        log: Gets one line an epoch.
        batches: In one epoch, as `images`.
        images: Training images.
        split: The one that is evaluated.
        device: Where training runs.
        done: Batches that an earlier attempt has trained.
    """

    def __init__(
        self,
        params: Params,
        emit: Emit,
        log: logging.Logger,
        *,
        batches: int,
        images: int,
        split: str,
        device: str,
        done: int = 0,
    ) -> None:
        self._epochs, self._emit, self._log = params.num_epochs, emit, log
        self._batches, self._images, self._split, self._device = batches, images, split, device
        self._done = self._first = self._done_at_event = done
        self._begun = self._event_at = time.monotonic()
        self._last: EpochRecord | None = None
        self._bar: Any = None
        self._is_notebook = params.mode == "notebook" and _in_notebook()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        options: dict[str, Any] = {"total": self._epochs * self._batches, "initial": self._done, "unit": "batch"}
        if self._is_notebook:
            from tqdm.notebook import tqdm as notebook_tqdm  # needs ipywidgets, which only notebooks have

            self._bar = self._stack.enter_context(notebook_tqdm(desc="training", **options))
        elif is_rank_zero() and sys.stderr.isatty():
            # `docker run -t` may give a terminal of no size, on which tqdm alone would draw nothing.
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            options |= {"dynamic_ncols": True} if columns else {"ncols": 80, "nrows": 24}
            shape = _NARROW_BAR if 0 < columns < _NARROW else _BAR
            bar = tqdm(leave=False, bar_format=shape, desc=self._epoch_of_all, **options)
            self._bar = self._stack.enter_context(bar)
            # What is logged meanwhile stands above the bar.
            self._stack.enter_context(logging_redirect_tqdm([logging.getLogger(self._log.name.partition(".")[0])]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def _epoch_of_all(self) -> str:
        return f"epoch {min(self._done // self._batches + 1, self._epochs)}/{self._epochs}"

    def step(self, epoch: int, batch: int, loss: Callable[[], float]) -> None:
        """Some batches are trained. `loss`, for which the host waits, is asked only for an event."""
        done = (epoch - 1) * self._batches + batch
        if self._bar is not None:
            if not self._is_notebook and not self._done % self._batches:
                self._bar.set_description_str(self._epoch_of_all, refresh=False)
            self._bar.update(done - self._done)
        self._done = done
        # Of a whole epoch there is one event, with its figures.
        if batch < self._batches and time.monotonic() - self._event_at > EVENT_EVERY_S:
            self._emit_progress(epoch, loss())

    def epoch(self, record: EpochRecord) -> None:
        """An epoch has ended: a line for people."""
        parts = [f"loss {record.train_loss:.4f}", f"accuracy {record.train_accuracy:.4f}"]
        if record.accuracy is not None and record.loss is not None:
            parts += [f"held-out loss {record.loss:.4f}", f"accuracy {record.accuracy:.4f}"]
        head = f"epoch {record.epoch}/{self._epochs}"
        if self._is_notebook:
            self._bar.set_postfix_str(", ".join([head, *parts]))
            return
        lowest, highest = record.lowest_learning_rate, record.highest_learning_rate
        has_moved = lowest is not None and highest is not None and lowest != highest
        parts.append(f"lr {lowest:.3g} to {highest:.3g}" if has_moved else f"lr {record.learning_rate:.3g}")
        if record.images_per_second is not None:
            parts.append(f"{record.images_per_second:,.0f} images/s")
        line = "  ".join([head, *parts])
        if self._bar is None or self._log.isEnabledFor(logging.INFO):
            self._log.info("%s", line)
        else:  # of a script that shows no log
            self._bar.write(line, file=sys.stderr)

    def emit_epoch(self, record: EpochRecord) -> None:
        """An epoch has ended: a status event."""
        self._last, self._done = record, record.epoch * self._batches
        self._emit_progress(record.epoch, record.train_loss, record.images_per_second)

    def emit_checkpoint(self, manifest: CheckpointManifest, file: Path) -> None:
        """A checkpoint has become whole: a status event."""
        self._emit(Checkpoint(manifest.epoch - 1, self._epochs, str(file), manifest.batch))

    def _emit_progress(self, epoch: int, train_loss: float, images_per_second: float | None = None) -> None:
        now, last, steps = time.monotonic(), self._last, self._epochs * self._batches
        if images_per_second is None:
            images = (self._done - self._done_at_event) * self._images / self._batches
            images_per_second = images / max(now - self._event_at, 1e-9)
        losses: dict[str, float | None] = {"train": train_loss}
        metrics: dict[str, float | None] = {}
        if last is not None:
            metrics["train_accuracy"] = last.train_accuracy
            if last.loss is not None:
                losses[self._split] = last.loss
                metrics |= {name: getattr(last, name) for name in ("accuracy", "precision", "recall", "f1")}
        self._emit(
            Progress(
                step=self._done,
                steps=steps,
                unit="batches",
                epoch=epoch,
                epochs=self._epochs,
                samples_per_second=images_per_second,
                losses=losses,
                metrics=metrics,
                learning_rate=last.learning_rate if last else None,
                eta_seconds=(now - self._begun) / max(self._done - self._first, 1) * (steps - self._done),
                device=self._device,
            )
        )
        self._event_at, self._done_at_event = now, self._done


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel that can show widgets."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel") and find_spec("ipywidgets") is not None
