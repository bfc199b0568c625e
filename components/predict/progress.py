"""How far a prediction is: a bar on a terminal, else a line now and then, and events for status."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from components.shared.events.data import Emit, Progress
from components.shared.logs import step_logger

_LOG_SECONDS = 30.0
_STATUS_SECONDS = 2.0

_log = step_logger("predict")


class PredictionProgress:
    """Counts images; use as a context manager.

    Args:
        emit: Gets the status of the step.
        device: What the model runs on.
        total: How many files there are; None: that is not known.
        shows_bar: Whether standard error may show a bar, where it is a terminal.
    """

    def __init__(self, emit: Emit, device: str, total: int | None, *, shows_bar: bool) -> None:
        self._emit, self._device, self._total = emit, device, total
        self._shows_bar = shows_bar and sys.stderr.isatty()
        self._stack = ExitStack()
        self._bar: Any = None
        self.done = 0
        self._start = self._reported = self._logged = time.monotonic()

    @property
    def images_per_second(self) -> float:
        """Of all images so far, decoding included."""
        return self.done / max(time.monotonic() - self._start, 1e-9)

    def __enter__(self) -> Self:
        if self._shows_bar:
            with suppress(ImportError):  # an image of a container has none
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
                from rich.progress import Progress as Bar

                columns = (
                    *(BarColumn(), MofNCompleteColumn(), TextColumn("images")),
                    *(TextColumn("{task.fields[rate]:,.0f} images/s"), TimeRemainingColumn(compact=True)),
                )
                # Standard output is the rows'.
                bar = Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
                self._bar = self._stack.enter_context(bar)
                self._task = self._bar.add_task("", total=self._total, rate=0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is None:
            self._emit(self._progress())

    def add(self, count: int) -> None:
        """Count so many more images as done."""
        self.done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=self.images_per_second)
        elif now - self._logged > _LOG_SECONDS:
            self._logged = now
            _log.info("%s images, %.0f images/s", self._count(), self.images_per_second)
        if now - self._reported > _STATUS_SECONDS:
            self._reported = now
            self._emit(self._progress())

    def _count(self) -> str:
        return f"{self.done:,}" if self._total is None else f"{self.done:,} of {self._total:,}"

    def _progress(self) -> Progress:
        rate, total = self.images_per_second, self.done if self._total is None else self._total
        eta = (total - self.done) / rate if rate and self._total is not None else None
        return Progress(self.done, total, "images", samples_per_second=rate, eta_seconds=eta, device=self._device)
