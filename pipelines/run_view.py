"""`shutterline run` on a terminal: its steps with bars, drawn in one place, below the lines that they log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Self, TextIO

from rich.console import Console
from rich.text import Text

from components.shared.events.data import PipelineStarted
from components.shared.events.event import EventError, StepEvent
from components.shared.events.runs import RunView
from components.shared.events.spool import spools_of
from components.shared.logs import LINE, fitted
from components.shared.run import PIPELINE_NAME
from components.shared.status import PIPELINE_STEPS
from components.shared.version import __version__
from pipelines.targets.local import Lines
from pipelines.targets.steps import LocalRunPaths
from pipelines.watch_text import printable
from pipelines.watch_view import FRAME_S, View, console_on, run_lines

_PIECE_BYTES = 1 << 20  # how much of a spool is read at once
_LEVELS = {"WARNING": "yellow", "ERROR": "red"}


class LiveLines(Lines):
    """The lines that a run's steps log, and below them a live view of the steps, from the events in its spools."""

    def __init__(self, stream: TextIO, frame_s: float = FRAME_S) -> None:
        self._console = console_on(stream)
        self._frame_s = frame_s

    def __call__(self, line: str) -> None:
        """Print a line above the view."""
        found = LINE.fullmatch(line)
        style = _LEVELS.get(found["level"] or "", "") if found is not None else ""
        text = Text(fitted(printable(line), self._console.width), style)
        with suppress(OSError):  # of a terminal that was closed
            self._console.print(text, no_wrap=True, overflow="ignore", crop=False)

    @contextmanager
    def running(self, paths: LocalRunPaths) -> Iterator[None]:
        """Within, the view of a run is shown; its last state stays."""
        with _StepsView(self._console, self._frame_s, paths):
            yield


class _StepsView(View):
    def __init__(self, console: Console, frame_s: float, paths: LocalRunPaths) -> None:
        super().__init__(console, frame_s)
        self._directory = paths.out / "events"
        # A run that goes on, under an id that it was given, has earlier events.
        self._read = {path: path.stat().st_size for path in spools_of(self._directory, paths.run)}
        began = PipelineStarted(PIPELINE_NAME, list(PIPELINE_STEPS), __version__, "")
        self._run = RunView(paths.run, began=began)
        self._since = datetime.now(UTC)

    def __enter__(self) -> Self:
        with suppress(OSError):  # of a terminal that was closed
            super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            super().__exit__(*error)

    def lines(self) -> list[Text]:
        for event in self._new_events():
            self._run.add(event)
        is_followed, now = not self.is_over, datetime.now(UTC)
        return run_lines(self.console, self._run, self._since, now, is_followed=is_followed, shows_errors=False)

    def _new_events(self) -> Iterator[StepEvent]:
        """What has come since the last time; a line that is not whole yet comes the next time."""
        for path in spools_of(self._directory, self._run.run):
            with suppress(OSError), path.open("rb") as stream:
                stream.seek(self._read.get(path, 0))
                lines = stream.read(_PIECE_BYTES)
                lines = lines[: lines.rfind(b"\n") + 1]
                self._read[path] = self._read.get(path, 0) + len(lines)
                for line in lines.splitlines():
                    with suppress(EventError):
                        yield StepEvent.from_bytes(line)
