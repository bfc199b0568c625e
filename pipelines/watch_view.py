"""The live terminal view of runs. All text is set as it is, never read as markup: it comes from elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Self, TextIO

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from components.shared.events.data import Failed, StepOutcome, Succeeded
from components.shared.events.event import PIPELINE, StepEvent
from components.shared.events.runs import RunView, StepView
from components.shared.events.watch import Counts
from pipelines.watch_text import clock, count, counts_line, duration, event_words, finding_words, name, printable, share

# More is neither read nor kept: anyone who may publish could otherwise fill the memory.
_FINISHED_RUNS, _RUNNING_RUNS, _STEPS = 5, 20, 50
FRAME_S = 1 / 4  # drawn so often whether something comes or not: seconds that pass are shown
_STATE_WIDTH, _NAME_WIDTH = 13, 24

# By state: symbol, symbol without Unicode, style.
_LOOKS = {
    "waiting": ("·", ".", "dim"),
    "not started": ("·", ".", "dim"),
    "unknown": ("?", "?", "dim"),
    "running": ("▶", ">", "cyan"),
    "succeeded": ("✔", "+", "green"),
    "cached": ("✔", "+", "green"),
    "failed": ("✘", "x", "bold red"),
    "killed": ("✘", "x", "bold red"),
    "cancelled": ("■", "#", "yellow"),
}


def console_on(stream: TextIO | None = None) -> Console:
    """A console that reads nothing into the texts it is given; None: standard output."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)


class View:
    """Frames that are drawn in one place while the view is open, and whose last one stays."""

    def __init__(self, console: Console, frame_s: float) -> None:
        self.console = console
        self.frame_s = frame_s
        self.is_over = False
        self.lock = threading.Lock()  # a thread of rich's draws

    def __enter__(self) -> Self:
        self.display = Live(
            console=self.console,
            get_renderable=self._frame,
            refresh_per_second=1 / self.frame_s,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.display.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True  # drawn by stop, as far down as it goes
        self.display.stop()

    def _frame(self) -> Group:
        with self.lock:
            return Group(*self.lines())

    def lines(self) -> Sequence[Text]:
        """What is drawn now."""
        raise NotImplementedError


class Runs(dict[str, tuple[RunView, datetime]]):
    """The newest runs since their first event, the newest last, and not more of them than a screen has use for."""

    def add(self, event: StepEvent) -> None:
        """Take in one event."""
        view, since = self.pop(event.run, (RunView(event.run), event.time))
        if event.step == PIPELINE or event.step in view.steps or len(view.steps) < _STEPS:
            view.add(event)
        self[event.run] = view, min(since, event.time)
        for done, limit in ((True, _FINISHED_RUNS), (False, _RUNNING_RUNS)):
            for run in [run for run, (each, _) in self.items() if each.is_done == done][:-limit]:
                del self[run]


class LiveView(View):
    """The runs of a subscription, or one of them, on a terminal; standard output, if no other console is given."""

    def __init__(
        self, address: str, run: str | None = None, console: Console | None = None, frame_s: float = FRAME_S
    ) -> None:
        super().__init__(console or console_on(), frame_s)
        self._address = address
        self._awaited = "any run" if run is None else f"run {run}"
        self._runs = Runs()
        self._counts = Counts()
        self._trouble: str | None = None
        self._ticks = 0
        self._begin = time.monotonic()

    def event(self, event: StepEvent) -> None:
        """Take in one event."""
        with self.lock:
            self._runs.add(event)

    def document(self, body: bytes) -> None:
        """Nothing to show of it."""

    def trouble(self, message: str | None) -> None:
        """Show that the broker is away, and why; or that it is back."""
        with self.lock:
            self._trouble = message
        self.display.refresh()

    def tick(self, counts: Counts) -> None:
        """Take in what became of the messages; called before every wait for the broker."""
        with self.lock:
            self._counts = counts
            self._ticks += 1

    def lines(self) -> list[Text]:
        """All runs at the end; before, the last ones, as many as the terminal has room for."""
        now = datetime.now(UTC)
        runs = self._runs.values()
        blocks = [run_lines(self.console, view, since, now, is_followed=not self.is_over) for view, since in runs]
        is_waiting = not self.is_over and not any(view.state_at(now) == "running" for view, _ in runs)
        blocks.append(self._footer(is_waiting))
        if self.is_over:
            return [line for block in blocks for line in block]
        room = self.console.height - 1  # the cursor's own line
        shown: list[Text] = []
        for block in reversed(blocks):
            if len(block) + len(shown) > room:
                # Of a run that is itself too long, its heading and its last lines.
                rest = room - len(shown)
                return [*block[: min(1, rest)], *block[len(block) - max(0, rest - 1) :], *shown]
            shown = [*block, *shown]
        return shown

    def _footer(self, is_waiting: bool) -> list[Text]:
        parts = f"{printable(self._address)}: {counts_line(self._counts)}".split(", ")
        lines = _packed(Text(), ", ", [Text(part, "dim") for part in parts], self.console.width, 0)
        if self._trouble is not None:
            lines += _wrapped(self.console, f"{printable(self._trouble)}; trying again", "yellow", 0)
        elif is_waiting:
            waits = f"waiting for events of {name(self._awaited)}" if self._ticks > 1 else "connecting"
            lines.append(Text(f"{waits}, {duration(time.monotonic() - self._begin)}", "dim"))
        return lines


def run_lines(
    console: Console, run: RunView, since: datetime, now: datetime, *, is_followed: bool, shows_errors: bool = True
) -> list[Text]:
    """One run since its first event: a heading, a row for each step, and the errors in full."""
    waits = is_followed and run.end_at(now) is None
    lines = _heading(console, run, since, now, ticks=waits)
    rows = [_row(step, view, outcome) for step, view, outcome in _steps(run)]
    name_width = min(_NAME_WIDTH, max((step.cell_len for _, step, _, _ in rows), default=0))
    bar_width = (12 if console.width < 100 else 20) if any(done is not None for _, _, done, _ in rows) else 0
    for state, step, done, words in rows:
        line = Text("  ")
        for cell, width in ((_state_text(console, state), _STATE_WIDTH), (step, name_width)):
            cell.truncate(width, pad=True)
            line.append_text(cell).append(" ")
        if bar_width:
            filled = round((done or 0.0) * bar_width)
            rest = " " if done is None or not console.color_system else "━"
            line.append("━" * filled, "bar.complete").append(rest * (bar_width - filled), "bar.back").append(" ")
        lines += _packed(line, ", ", map(Text, words), console.width, 4)
    for error in _errors(run) if shows_errors else ():
        lines += _wrapped(console, error, "red", 4)
    if waits:
        words = [f"waiting for {_awaited(run)}"]
        if run.last is not None:
            words.append(f"last event {duration(now - run.last)} ago")
        lines += _packed(Text("  "), ", ", [Text(word, "dim") for word in words], console.width, 2)
    return lines


def _heading(console: Console, run: RunView, since: datetime, now: datetime, *, ticks: bool) -> list[Text]:
    state = run.state_at(now)
    parts = [Text(name(run.run), "bold"), _state_text(console, state)]
    if state != run.state and run.last is not None:
        parts.append(Text(f"no event for {duration(now - run.last)}", "dim"))
    if (pipeline := run.ended or run.began) is not None and pipeline.pipeline:
        parts.append(Text(name(pipeline.pipeline)))
    last = now if ticks else run.last
    parts.append(Text(f"since {clock(since)}" + (f" ({duration(last - since)})" if last else ""), "dim"))
    return _packed(Text(), "  ", parts, console.width, 2)


def _state_text(console: Console, state: str) -> Text:
    symbol, plain, style = _LOOKS[state]
    return Text(f"{symbol if console.encoding.startswith('utf') else plain} {state}", style)


def _packed(start: Text, separator: str, parts: Iterable[Text], width: int, indent: int) -> list[Text]:
    """Texts one after the other behind a start; a line ends between two of them, with the separator's comma."""
    lines, is_first = [start], True
    for part in parts:
        gap = 0 if is_first else cell_len(separator)
        if lines[-1].cell_len + gap + part.cell_len + 1 > width and lines[-1].plain.strip():
            if not is_first:
                lines[-1].append(separator.rstrip())
            lines.append(Text(" " * indent))
        elif not is_first:
            lines[-1].append(separator)
        lines[-1].append_text(part)
        is_first = False
    return lines


def _wrapped(console: Console, text: str, style: str, indent: int) -> list[Text]:
    lines = Text(text, style).wrap(console, console.width - indent)
    return [Text.assemble(" " * indent, line) for line in lines]


def _awaited(run: RunView) -> str:
    """What comes next in a run that is not over."""
    if run.starting_again is not None:
        return f"{name(run.starting_again.step)} to start again"
    steps = list(_steps(run))
    if running := [name(step) for step, view, _ in steps if view is not None and view.end is None]:
        return f"the next event of {', '.join(running[:3])}"
    ended_well = all(isinstance(view.end, Succeeded) for _, view, _ in steps if view is not None)
    coming = [name(step) for step, view, outcome in steps if view is None and outcome is None]
    return f"{coming[0]} to start" if coming and ended_well else "the exit step to report the end"


def _steps(run: RunView) -> Iterator[tuple[str, StepView | None, StepOutcome | None]]:
    """Every step that is known of, in the pipeline's order."""
    outcomes = {each.step: each for each in (run.ended.steps if run.ended else [])[:_STEPS]}
    if not run.is_done:  # it was retried, and goes on behind its end
        outcomes = {step: each for step, each in outcomes.items() if each.outcome in ("succeeded", "cached")}
    announced = (run.began.steps if run.began else [])[:_STEPS]
    coming = ["publish"] if run.publishes and not run.is_done else []
    for step in dict.fromkeys([*announced, *outcomes, *run.steps, *coming]):
        yield step, run.steps.get(step), outcomes.get(step)


def _row(step: str, view: StepView | None, outcome: StepOutcome | None) -> tuple[str, Text, float | None, list[str]]:
    """State, name, share that is done (None where there was no progress) and words of a step."""
    if view is None:
        state: str = outcome.outcome if outcome else "waiting"
        return state, Text(name(step), _LOOKS[state][2]), None, []
    if view.end is not None:
        # A step that succeeded by its own events may have failed on the platform.
        state = "failed" if outcome is not None and outcome.outcome == "failed" else view.state
        words = event_words(view.end)[: 1 if isinstance(view.end, Failed) else None]  # the error stands below, in full
    else:
        state = outcome.outcome if outcome is not None else "running"
        words = event_words(view.progress)
    if view.checkpoint is not None:
        words.append(f"checkpoint of epoch {count(view.checkpoint.epoch)}")
    words += [finding_words(finding) for finding in view.findings if finding.severity == "problem"]
    done = None
    if view.progress is not None:
        done = 1.0 if state == "succeeded" else share(view.progress.step, view.progress.steps)
    attempt = f" attempt {count(view.attempt + 1)}" if view.attempt else ""
    return state, Text(f"{name(step)}{attempt}"), done, words


def _errors(run: RunView) -> list[str]:
    errors = []
    for step, view, outcome in _steps(run):
        error = view.end.error if view is not None and isinstance(view.end, Failed) else outcome and outcome.error
        if error:
            errors.append(f"{name(step)}: {name(error.type)}: {_paragraphs(error.message)}")
    if run.ended is not None and run.is_done and run.ended.reason and not errors:
        errors.append(_paragraphs(run.ended.reason))
    return errors


def _paragraphs(text: str) -> str:
    """A foreign text with its lines."""
    return "\n".join(map(printable, text[:8_000].splitlines()))
