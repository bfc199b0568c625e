"""`shutterline run` on a terminal: its steps with bars, drawn in one place, below the lines that they log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.text import Text

from components.shared.events.data import Succeeded
from components.shared.events.event import EventError, StepEvent
from components.shared.events.runs import RunView
from components.shared.events.spool import spools_of
from components.shared.logs import LINE, fitted
from components.shared.step import read_records
from pipelines.targets.run_directory import STEPS
from pipelines.targets.steps import LocalRunPaths
from pipelines.watch_text import duration, event_words, name, printable, progress_words, share
from pipelines.watch_view import FRAME_S, STATE_WIDTH, live, step_lines

_PIECE_BYTES = 1 << 20  # how much of a spool is read at once
_NAME_WIDTH = 9
_LONGEST_BAR, _SHORTEST_BAR, _WORDS = 30, 10, 33
_LEVELS = {"WARNING": "yellow", "ERROR": "red"}


class LiveLines:
    """The lines that a run's steps log, and below them a live view of the steps.

    Args:
        stream: A terminal, where both go.
        frame_s: Seconds between two frames.
    """

    def __init__(self, stream: TextIO, frame_s: float = FRAME_S) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._frame_s = frame_s
        self._lock = threading.Lock()  # a thread of rich's draws
        self._begun: dict[str, float] = {}  # by step, when it first logged or reported something
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
        self._begin = time.monotonic()
        display = live(self._console, self._frame, self._frame_s)
        with suppress(OSError):
            display.start(refresh=True)
        try:
            yield
        finally:
            self._is_over = True
            with suppress(OSError):
                display.stop()

    def _frame(self) -> RenderableType:
        with self._lock:
            for event in self._events.read():
                self._view.add(event)
                self._begun.setdefault(event.step, time.monotonic())
            spent = Text(duration(time.monotonic() - self._begin), "dim")
            state = Text() if self._is_over else Text("running  ", "cyan")
            heading = Text.assemble((name(self._paths.run), "bold"), "  ", state, spent)
            heading.truncate(self._console.width, overflow="ellipsis")
            return Group(heading, *(self._row(step, state) for step, state in self._states()))

    def _row(self, step: str, state: str) -> Text:
        """One line: as many words as there is room for, the most important first."""
        left = 2 + STATE_WIDTH + 1 + _NAME_WIDTH + 1
        bar = max(_SHORTEST_BAR, min(_LONGEST_BAR, self._console.width - 1 - left - 1 - _WORDS))
        view = self._view.steps.get(step)
        done = 1.0 if state == "succeeded" else None
        words: list[str] = []
        if view is not None and view.progress is not None and done is None:
            done = share(view.progress.step, view.progress.steps)
        if view is not None and view.end is not None:
            # Why a step failed is logged above.
            words = event_words(view.end)[: None if isinstance(view.end, Succeeded) else 1]
        elif state == "running" and view is not None and view.progress is not None:
            words = progress_words(view.progress, brief=True)
        elif state == "running":
            words = [f"for {duration(time.monotonic() - self._begun.get(step, self._begin))}"]
        line, *rest = step_lines(self._console, state, Text(step), _NAME_WIDTH, done, bar, words)
        if rest and line.plain.endswith(","):
            line.right_crop(1)
        return line

    def _states(self) -> Iterator[tuple[str, str]]:
        """Every step with the state that it is in, in the order they run."""
        records = read_records(self._paths.records) if self._is_over else {}
        comes_next = True
        for step in STEPS:
            view, has_begun = self._view.steps.get(step), step in self._begun
            state: str
            if step in records:
                state = records[step].status
            elif self._is_over:
                state = "killed" if has_begun else "not started"
            elif view is not None and view.end is not None:
                state = view.state
            elif step == "exit" and self._view.ended is not None:
                state = "succeeded"
            else:
                state = "running" if has_begun else "starting" if comes_next else "waiting"
            comes_next = comes_next and state == "succeeded"
            yield step, state


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
