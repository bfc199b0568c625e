"""The live terminal view of runs. All text is set as it is, never read as markup: it comes from elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from components.shared.events.data import Failed, StepOutcome, Succeeded
from components.shared.events.event import PIPELINE, StepEvent
from components.shared.events.runs import RunView, StepView
from components.shared.events.watch import Counts
from pipelines.watch_text import (
    clock,
    count,
    counts_line,
    duration,
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
# Drawn so often whether something comes or not: seconds that pass are seen to.
_FRAME_S = 1 / 4
_BAR_WIDTH, _NARROW_BAR_WIDTH, _NARROW = 20, 12, 100
_SYMBOL_WIDTH, _NAME_WIDTH = 13, 24

# Word, symbol, symbol without Unicode, style.
_LOOKS = {
    "waiting": ("waiting", "·", ".", "dim"),
    "not started": ("not started", "·", ".", "dim"),
    "unknown": ("unknown", "?", "?", "dim"),
    "starting": ("starting", "▷", ">", "cyan"),
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
        run: The one run that is watched; None: any.
    """

    def __init__(self, place: str, console: Console, run: str | None = None) -> None:
        self._place = place
        self._console = console
        self._awaited = "any run" if run is None else f"run {run}"
        self._runs = Runs()
        self._counts = Counts()
        self._trouble: str | None = None
        self._is_over = False
        self._ticks = 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()  # a thread of rich's draws
        self._live = Live(
            console=console,
            get_renderable=self._frame,
            refresh_per_second=1 / _FRAME_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True  # drawn by stop, as far down as it goes
        self._live.stop()

    def event(self, event: StepEvent) -> None:
        """Take in one event."""
        with self._lock:
            self._runs.add(event)

    def document(self, body: bytes) -> None:
        """Nothing to show of it."""

    def trouble(self, message: str | None) -> None:
        """Say that the broker is away, and why; or that it is back."""
        with self._lock:
            self._trouble = message
        self._live.refresh()

    def tick(self, counts: Counts) -> None:
        """Take in what became of the messages; it is asked for before every wait for the broker."""
        with self._lock:
            self._counts = counts
            self._ticks += 1

    def _frame(self) -> RenderableType:
        with self._lock:
            blocks = self._everything()
        return Group(*blocks) if self._is_over else _Fitting(blocks)

    def _everything(self) -> list[RenderableType]:
        unicode = self._console.encoding.startswith("utf")
        now = datetime.now(UTC)
        runs = self._runs.newest_last()
        blocks: list[RenderableType] = [
            run_block(view, since, unicode, now, is_followed=not self._is_over) for view, since in runs
        ]
        waits = None
        if not self._is_over and not any(view.state_at(now) == "running" for view, _ in runs):
            waits = self._waits_for()
        return [*blocks, _footer(self._place, self._counts, waits, self._trouble)]

    def _waits_for(self) -> str:
        waited = duration(time.monotonic() - self._begun)
        if self._ticks < 2:  # the first wait for the broker has not ended
            return f"connecting, {waited}"
        return f"waiting for events of {name(self._awaited)}, {waited}"


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


class Parts:
    """Texts one after the other; a line ends between two of them, and within one only where that is longer than a line.

    Args:
        parts: The texts.
        separator: What is between two; its blanks are not at the end of a line.
        indent: Of all lines but the first.
    """

    def __init__(self, parts: Iterable[Text], separator: str, indent: int = 0) -> None:
        self._parts = list(parts)
        self._separator = separator
        self._indent = indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *rest = packed(self._parts, self._separator, options.max_width, options.max_width - self._indent)
        yield first
        for line in rest:
            yield Padding(line, (0, 0, 0, self._indent))


def packed(parts: Iterable[Text], separator: str, first: int, rest: int) -> list[Text]:
    """As many texts on each line as there is room for: `first` cells on the first line, `rest` on each other one."""
    lines, room = [Text()], first
    for part in parts:
        # What ends a line has the separator's comma behind it.
        if lines[-1].cell_len + cell_len(separator) * bool(lines[-1]) + part.cell_len + 1 > room:
            if lines[-1]:
                lines[-1].append(separator.rstrip())
            lines.append(Text())
            room = rest
        if lines[-1]:
            lines[-1].append(separator)
        lines[-1].append_text(part)
    return lines


class _StepRow:
    """A step: its state, name, bar and first words on one line, the other words below."""

    def __init__(self, row: _Row, name_width: int, *, has_bars: bool) -> None:
        self._row = row
        self._name_width = name_width
        self._has_bars = has_bars

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = (_NARROW_BAR_WIDTH if options.max_width < _NARROW - 2 else _BAR_WIDTH) if self._has_bars else 0
        taken = _SYMBOL_WIDTH + 1 + self._name_width + 1 + (bar + 1 if bar else 0)
        parts = [Text(word) for word in self._row.words]
        first, *rest = packed(parts, ", ", options.max_width - taken, options.max_width - 2)
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(no_wrap=True, width=_SYMBOL_WIDTH)
        grid.add_column(no_wrap=True, width=self._name_width)
        cells: list[RenderableType] = [self._row.symbol, self._row.name]
        if bar:
            grid.add_column(width=bar)
            done = self._row.done
            cells.append("" if done is None else ProgressBar(total=1.0, completed=done, width=bar))
        grid.add_column(no_wrap=True, ratio=1)
        grid.add_row(*cells, first)
        yield grid
        for line in rest:
            yield Padding(line, (0, 0, 0, 2))


def run_block(
    run: RunView, since: datetime, unicode: bool = True, now: datetime | None = None, *, is_followed: bool = False
) -> Group:
    """One run: a heading, a row for each step, and the errors in full.

    Args:
        run: What is known of it.
        since: The time of its first event.
        unicode: Whether the terminal has more than ASCII.
        now: The present time, by which a run is silent; None: its last event's.
        is_followed: Whether more of it is waited for.
    """
    waits = is_followed and not run.is_done
    parts: list[RenderableType] = [_heading(run, since, unicode, now or run.last, ticks=waits)]
    rows = [_row(step, view, outcome, unicode) for step, view, outcome in _steps(run)]
    width = min(_NAME_WIDTH, max((row.name.cell_len for row in rows), default=0))
    has_bars = any(row.done is not None for row in rows)
    parts += [Padding(_StepRow(row, width, has_bars=has_bars), (0, 0, 0, 2)) for row in rows]
    parts += [Padding(Text(text, style="red"), (0, 0, 0, 4)) for text in _errors(run)]
    if waits and now is not None and run.last is not None:
        words = [f"waiting for {_awaited(run)}", f"last event {elapsed(run.last, now)} ago"]
        parts.append(Padding(Parts([Text(word, "dim") for word in words], ", "), (0, 0, 0, 2)))
    return Group(*parts)


def _awaited(run: RunView) -> str:
    """What comes next in a run that is not over."""
    steps = list(_steps(run))
    if under_way := [name(step) for step, view, _ in steps if view is not None and view.end is None]:
        return f"the next event of {', '.join(under_way[:3])}"
    ended_well = all(isinstance(view.end, Succeeded) for _, view, _ in steps if view is not None)
    coming = [name(step) for step, view, outcome in steps if view is None and outcome is None]
    return f"{coming[0]} to start" if coming and ended_well else "the exit step to report the end"


def _heading(run: RunView, since: datetime, unicode: bool, now: datetime | None, *, ticks: bool) -> Parts:
    state = run.state if now is None else run.state_at(now)
    word, style = symbol(state, unicode)
    parts = [Text(name(run.run), "bold"), Text(word, style)]
    if state != run.state and run.last is not None and now is not None:
        parts.append(Text(f"no event for {elapsed(run.last, now)}", style))
    pipeline = run.ended.pipeline if run.ended else run.began.pipeline if run.began else None
    if pipeline:
        parts.append(Text(name(pipeline)))
    last = now if ticks else run.last
    spent = "" if last is None else f" ({elapsed(since, last)})"
    return Parts([*parts, Text(f"since {clock(since)}{spent}", "dim")], "  ", 2)


def symbol(state: str, unicode: bool) -> tuple[str, str]:
    """A state's word with its symbol, and its style."""
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


@dataclass(frozen=True)
class _Row:
    """What a step's row shows; `done` is the share of it that is done, None where it tells no progress."""

    symbol: Text
    name: Text
    done: float | None
    words: Sequence[str]


def _row(step: str, view: StepView | None, outcome: StepOutcome | None, unicode: bool) -> _Row:
    if view is None:
        word, style = symbol(outcome.outcome if outcome else "waiting", unicode)
        return _Row(Text(word, style), Text(name(step), style), None, [])
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
    word, style = symbol(state, unicode)
    done = None
    if view.progress is not None:
        done = 1.0 if state == "succeeded" else share(view.progress.step, view.progress.steps)
    attempt = f" attempt {count(view.attempt + 1)}" if view.attempt else ""
    return _Row(Text(word, style), Text(f"{name(step)}{attempt}"), done, words)


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


def _footer(place: str, counts: Counts, waits: str | None, trouble: str | None) -> RenderableType:
    told = [Text(part, "dim") for part in f"{printable(place)}: {counts_line(counts)}".split(", ")]
    lines: list[RenderableType] = [Parts(told, ", ")]
    if trouble is not None:
        lines.append(Text(f"{printable(trouble)}; trying again", style="yellow"))
    elif waits is not None:
        lines.append(Text(waits, style="dim"))
    return Group(*lines)
