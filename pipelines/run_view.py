"""`shutterline run` on a terminal: its steps with bars, drawn in one place, below the lines that they log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from components.shared.events.data import Progress, Succeeded
from components.shared.events.event import EventError, StepEvent
from components.shared.events.runs import RunView
from components.shared.events.spool import spools_of
from components.shared.logs import LINE, fitted
from components.shared.step import read_records
from pipelines.targets.run_directory import STEPS
from pipelines.targets.steps import LocalRunPaths
from pipelines.watch_text import count, duration, event_words, name, printable, share
from pipelines.watch_view import symbol

# How late what a step told is seen; and how much of it is read at once.
_FRAME_S = 1 / 4
_PIECE_BYTES = 1 << 20
# Two blanks, the state, the name.
_LEFT = 2 + 13 + 1 + 9 + 1
_LONGEST_BAR, _SHORTEST_BAR, _WORDS = 30, 10, 33
_LEVELS = {"WARNING": "yellow", "ERROR": "red"}


class LiveLines:
    """The lines that a run's steps log, and below them a live view of the steps.

    Args:
        stream: A terminal, where both go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._unicode = self._console.encoding.startswith("utf")
        self._lock = threading.Lock()  # a thread of rich's draws
        self._begun: dict[str, float] = {}  # by step, when it was first heard of
        self._is_over = False

    def __call__(self, line: str) -> None:
        """Print a line above the view."""
        found = LINE.fullmatch(line)
        if found is not None:
            with self._lock:
                self._begun.setdefault(found["step"], time.monotonic())
        style = _LEVELS.get(found["level"] or "", "") if found is not None else ""
        text = Text(fitted(printable(line), self._console.width), style)
        with suppress(OSError):  # of a terminal that was closed
            self._console.print(text, no_wrap=True, overflow="ignore", crop=False)

    @contextmanager
    def running(self, paths: LocalRunPaths) -> Iterator[None]:
        """Within, the view of a run is shown; its last state stays."""
        self._paths = paths
        self._view = RunView(paths.run)
        self._events = _NewEvents(paths.out / "events", paths.run)
        self._began = time.monotonic()
        live = Live(
            console=self._console,
            get_renderable=self._frame,
            refresh_per_second=1 / _FRAME_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with suppress(OSError):
            live.start(refresh=True)
        try:
            yield
        finally:
            self._is_over = True
            with suppress(OSError):
                live.stop()

    def _frame(self) -> RenderableType:
        with self._lock:
            for event in self._events.read():
                self._view.add(event)
                self._begun.setdefault(event.step, time.monotonic())
            return Group(self._heading(), self._steps())

    def _heading(self) -> RenderableType:
        spent = Text(duration(time.monotonic() - self._began), "dim")
        state = Text() if self._is_over else Text("running  ", "cyan")
        return Text.assemble((name(self._paths.run), "bold"), "  ", state, spent, no_wrap=True, overflow="ellipsis")

    def _steps(self) -> RenderableType:
        room = self._console.width - 1 - _LEFT
        bar = max(_SHORTEST_BAR, min(_LONGEST_BAR, room - 1 - _WORDS))
        grid = Table.grid(padding=(0, 1, 0, 0))
        for width in (1, 13, 9, bar):
            grid.add_column(no_wrap=True, width=width)
        grid.add_column(no_wrap=True)
        for step, state in self._states():
            word, style = symbol(state, self._unicode)
            done = self._share(step, state)
            shown = "" if done is None else ProgressBar(total=1.0, completed=done, width=bar)
            grid.add_row("", Text(word, style), step, shown, Text(_as_fit(self._words(step, state), room - 1 - bar)))
        return grid

    def _share(self, step: str, state: str) -> float | None:
        """How much of a step is done; None where it tells nothing of that."""
        view = self._view.steps.get(step)
        if state == "succeeded":
            return 1.0
        return share(view.progress.step, view.progress.steps) if view is not None and view.progress else None

    def _states(self) -> Iterator[tuple[str, str]]:
        """Every step with the state that it is in, in the order they run."""
        records = read_records(self._paths.records) if self._is_over else {}
        comes_next = True
        for step in STEPS:
            view, heard = self._view.steps.get(step), step in self._begun
            state: str
            if step in records:
                state = records[step].status
            elif self._is_over:
                state = "killed" if heard else "not started"
            elif view is not None and view.end is not None:
                state = view.state
            elif step == "exit" and self._view.ended is not None:
                state = "succeeded"
            else:
                state = "running" if heard else "starting" if comes_next else "waiting"
            comes_next = comes_next and state == "succeeded"
            yield step, state

    def _words(self, step: str, state: str) -> list[str]:
        """What a step's row says, as much as there may be room for, the most important first."""
        view = self._view.steps.get(step)
        if view is not None and isinstance(view.end, Succeeded):
            return event_words(view.end)
        if view is not None and view.end is not None:
            return event_words(view.end)[:1]  # why is logged above
        if state != "running":
            return []
        progress = view.progress if view is not None else None
        if progress is None:
            return [f"for {duration(time.monotonic() - self._begun.get(step, self._began))}"]
        return _progress_words(progress)


def _as_fit(words: list[str], room: int) -> str:
    """The first words, as many as there is room for whole."""
    text = ""
    for word in words:
        longer = f"{text}, {word}" if text else word
        if cell_len(longer) > room:
            break
        text = longer
    return text


def _progress_words(progress: Progress) -> list[str]:
    words = []
    if progress.epoch is not None:
        words.append(f"epoch {count(progress.epoch)}" + (f"/{count(progress.epochs)}" if progress.epochs else ""))
    elif progress.unit == "bytes":
        words.append(f"{progress.step / 1e6:,.0f}/{progress.steps / 1e6:,.0f} MB")
    else:
        words.append(f"{count(progress.step)}/{count(progress.steps)} {progress.unit}")
    if progress.eta_seconds is not None:
        words.append(f"{duration(progress.eta_seconds)} left")
    if progress.samples_per_second is not None:
        words.append(f"{progress.samples_per_second:,.0f} images/s")
    return words


class _NewEvents:
    """The events that come into the spools of a run from now on."""

    def __init__(self, directory: Path, run: str) -> None:
        self._directory = directory
        self._run = run
        # A run that goes on, under an id that it was given, has earlier ones.
        self._read = {path: path.stat().st_size for path in spools_of(directory, run)}

    def read(self) -> Iterator[StepEvent]:
        """What has come since the last time; a line that is not whole yet comes the next time."""
        for path in spools_of(self._directory, self._run):
            with suppress(OSError), path.open("rb") as stream:
                stream.seek(self._read.get(path, 0))
                lines = stream.read(_PIECE_BYTES)
                lines = lines[: lines.rfind(b"\n") + 1]
                self._read[path] = self._read.get(path, 0) + len(lines)
                for line in lines.splitlines():
                    with suppress(EventError):
                        yield StepEvent.from_bytes(line)
