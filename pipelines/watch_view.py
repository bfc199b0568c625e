"""The live terminal view of runs. All text is set as it is, never read as markup: it comes from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from components.shared.events.data import Failed, StepOutcome
from components.shared.events.event import PIPELINE, StepEvent
from components.shared.events.runs import RunView, StepView
from components.shared.events.watch import Counts
from pipelines.watch_text import (
    clock,
    count,
    counts_line,
    elapsed,
    event_words,
    name,
    paragraphs,
    printable,
    progress_words,
    share,
)

# More is neither looked at nor kept: whoever may publish could otherwise fill the memory.
_FINISHED_RUNS, _RUNNING_RUNS, _STEPS = 5, 20, 50
_FRAME_S = 1 / 8
_BAR_WIDTH = 20

# Word, symbol, symbol without Unicode, style.
_LOOKS = {
    "waiting": ("waiting", "·", ".", "dim"),
    "not started": ("not started", "·", ".", "dim"),
    "unknown": ("unknown", "?", "?", "dim"),
    "running": ("running", "▶", ">", "cyan"),
    "succeeded": ("succeeded", "✔", "+", "green"),
    "cached": ("cached", "✔", "+", "green"),
    "failed": ("failed", "✘", "x", "bold red"),
    "killed": ("killed", "✘", "x", "bold red"),
    "cancelled": ("cancelled", "■", "#", "yellow"),
}


class Runs:
    """The newest runs, and not more of them than a screen has use for."""

    def __init__(self) -> None:
        self._views: dict[str, RunView] = {}  # the one that was silent longest first
        self._since: dict[str, datetime] = {}

    def add(self, event: StepEvent) -> None:
        """Take in one event."""
        view = self._views.pop(event.run, None) or RunView(event.run)
        if event.step == PIPELINE or event.step in view.steps or len(view.steps) < _STEPS:
            view.add(event)
        self._views[event.run] = view
        since = self._since.get(event.run, event.time)
        self._since[event.run] = min(since, event.time)
        for done, limit in ((True, _FINISHED_RUNS), (False, _RUNNING_RUNS)):
            alike = [run for run, each in self._views.items() if each.is_done == done]
            for run in alike[:-limit]:
                del self._views[run], self._since[run]

    def newest_last(self) -> list[tuple[RunView, datetime]]:
        """Every run that is kept, with the time of its first event."""
        return [(view, self._since[run]) for run, view in self._views.items()]


class LiveView:
    """Shows runs on a terminal while it is open, and leaves their last state there.

    Args:
        place: What is watched.
        console: Where to.
    """

    def __init__(self, place: str, console: Console) -> None:
        self._place = place
        self._console = console
        self._runs = Runs()
        self._counts = Counts()
        self._trouble: str | None = None
        self._drawn_at = 0.0
        # Drawn here alone, since a thread that draws would read what is being changed.
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Group(*self._everything()))  # drawn by stop, as far down as it goes
        self._live.stop()

    def event(self, event: StepEvent) -> None:
        """Take in one event."""
        self._runs.add(event)

    def document(self, body: bytes) -> None:
        """Nothing to show of it."""

    def trouble(self, message: str | None) -> None:
        """Say that the broker is away, and why; or that it is back."""
        self._trouble = message
        self._draw()

    def tick(self, counts: Counts) -> None:
        """Draw again, if the last drawing is old enough."""
        self._counts = counts
        if time.monotonic() - self._drawn_at >= _FRAME_S:
            self._draw()

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        self._live.update(_Fitting(self._everything()), refresh=True)

    def _everything(self) -> list[RenderableType]:
        unicode = self._console.encoding.startswith("utf")
        now = datetime.now(UTC)
        blocks = [run_block(view, since, unicode, now) for view, since in self._runs.newest_last()]
        return [*blocks, _footer(self._place, self._counts, self._trouble)]


class _Fitting:
    """Blocks one below the other; where the terminal is too low for all, the first ones are left out."""

    def __init__(self, blocks: list[RenderableType]) -> None:
        self._blocks = blocks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = console.height - 1  # the cursor's own line
        shown: list[list[Segment]] = []
        options = options.update(height=None)
        for block in reversed(self._blocks):
            lines = console.render_lines(block, options)
            if len(lines) + len(shown) > room:
                # Of a run that is itself too long, what it is and what is told last.
                rest = room - len(shown)
                shown = [*lines[:1], *(lines[-(rest - 1) :] if rest > 1 else []), *shown] if rest > 0 else shown
                break
            shown = [*lines, *shown]
        for line in shown:
            yield from line
            yield Segment.line()


def run_block(run: RunView, since: datetime, unicode: bool = True, now: datetime | None = None) -> Group:
    """One run: a heading, a row for each step, and the errors in full.

    Args:
        run: What is known of it.
        since: The time of its first event.
        unicode: Whether the terminal has more than ASCII.
        now: The present time, by which a run is silent; None: its last event's.
    """
    parts: list[RenderableType] = [_heading(run, since, unicode, now or run.last)]
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(no_wrap=True, width=13)
    rows.add_column(no_wrap=True, max_width=24)
    rows.add_column(width=_BAR_WIDTH)
    rows.add_column(ratio=1)
    for step, view, outcome in _steps(run):
        rows.add_row(*_row(step, view, outcome, unicode))
    if rows.row_count:
        parts.append(Padding(rows, (0, 0, 0, 2)))
    parts += [Padding(Text(text, style="red"), (0, 0, 0, 4)) for text in _errors(run)]
    return Group(*parts)


def _heading(run: RunView, since: datetime, unicode: bool, now: datetime | None) -> Text:
    state = run.state if now is None else run.state_at(now)
    word, style = _symbol(state, unicode)
    text = Text.assemble((name(run.run), "bold"), "  ", (word, style))
    if state != run.state and run.last is not None and now is not None:
        text.append(f"  no event for {elapsed(run.last, now)}", style)
    pipeline = run.ended.pipeline if run.ended else run.began.pipeline if run.began else None
    if pipeline:
        text.append(f"  {name(pipeline)}")
    text.append(f"  since {clock(since)}", "dim")
    if run.last is not None:
        text.append(f" ({elapsed(since, run.last)})", "dim")
    return text


def _symbol(state: str, unicode: bool) -> tuple[str, str]:
    word, symbol, plain, style = _LOOKS[state]
    return f"{symbol if unicode else plain} {word}", style


def _steps(run: RunView) -> Iterable[tuple[str, StepView | None, StepOutcome | None]]:
    """Every step there is word of, in the pipeline's order."""
    outcomes = {each.step: each for each in (run.ended.steps if run.ended else [])[:_STEPS]}
    if not run.is_done:  # it was retried, and goes on behind its end
        outcomes = {step: each for step, each in outcomes.items() if each.outcome in ("succeeded", "cached")}
    announced = (run.began.steps if run.began else [])[:_STEPS]
    for step in dict.fromkeys([*announced, *outcomes, *run.steps]):
        yield step, run.steps.get(step), outcomes.get(step)


def _row(step: str, view: StepView | None, outcome: StepOutcome | None, unicode: bool) -> list[RenderableType]:
    if view is None:
        word, style = _symbol(outcome.outcome if outcome else "waiting", unicode)
        return [Text(word, style), Text(name(step), style), "", ""]
    if view.end is not None:
        # A step that succeeded by its own events may have failed on the platform.
        state: str = "failed" if outcome is not None and outcome.outcome == "failed" else view.state
        words = event_words(view.end)
    else:
        state = outcome.outcome if outcome is not None else "running"
        words = progress_words(view.progress) if view.progress is not None else []
    if isinstance(view.end, Failed):
        words = words[:1]  # the error stands below, in full
    if view.checkpoint is not None:
        words.append(f"checkpoint of epoch {count(view.checkpoint.epoch)}")
    word, style = _symbol(state, unicode)
    bar: RenderableType = ""
    if view.progress is not None:
        done = share(view.progress.step, view.progress.steps)
        bar = ProgressBar(total=1.0, completed=1.0 if state == "succeeded" else done, width=_BAR_WIDTH)
    attempt = f" attempt {count(view.attempt + 1)}" if view.attempt else ""
    return [Text(word, style), Text(f"{name(step)}{attempt}"), bar, Text(", ".join(words))]


def _errors(run: RunView) -> Iterable[str]:
    told = False
    for step, view, outcome in _steps(run):
        error = view.end.error if view is not None and isinstance(view.end, Failed) else None
        if error is None and outcome is not None:
            error = outcome.error
        if error is not None:
            told = True
            yield f"{name(step)}: {name(error.type)}: {paragraphs(error.message)}"
    if run.ended is not None and run.is_done and run.ended.reason and not told:
        yield paragraphs(run.ended.reason)


def _footer(place: str, counts: Counts, trouble: str | None) -> RenderableType:
    lines = [Text(f"{printable(place)}: {counts_line(counts)}", style="dim")]
    if trouble is not None:
        lines.append(Text(f"{printable(trouble)}; trying again", style="yellow"))
    return Group(*lines)
