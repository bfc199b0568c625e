"""The live view: what is drawn for which events, and a real terminal with it on."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import pytest
from rich.console import Console

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    Error,
    PipelineEnded,
    Progress,
    State,
    StepOutcome,
    StepStarted,
)
from components.shared.events.event import PIPELINE
from components.shared.events.runs import fold
from components.shared.events.watch import Counts
from pipelines.watch_text import duration, event_line, event_words, printable
from pipelines.watch_view import LiveView, Runs, run_lines
from tests.pipelines.conftest import Environment
from tests.pipelines.terminal import OnTerminal, Screen
from tests.pipelines.test_watch_command import HOSTILE, hostile
from tests.pipelines.watchers import LONG_S, WATCH, publish
from tests.shared.events.sample_events import (
    A_SECOND,
    START,
    STEPS,
    EventSequence,
    a_pipeline,
    a_step,
    parsed,
    progress,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _utc(monkeypatch: Environment) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


class Ascii(io.StringIO):
    encoding = "ascii"


def drawn(
    bodies: Sequence[bytes], width: int = 100, *, unicode: bool = True, after_s: float | None = None
) -> list[str]:
    """The lines of the run that these events are of; some time after the last one, where it is followed."""
    events = parsed(bodies)
    console = Console(file=io.StringIO() if unicode else Ascii(), width=width)
    since = min(event.time for event in events)
    now = max(event.time for event in events) + timedelta(seconds=after_s or 0.0)
    view = fold(events[0].run, events)
    return [line.plain for line in run_lines(console, view, since, now, is_followed=after_s is not None)]


def again_after_a_failure() -> list[bytes]:
    again = EventSequence("run-1", "train", begin=START + 60 * A_SECOND, process="pod-2")
    started = again.next("started", StepStarted("1.0", "pod-2", None, "image-classifier"))
    return [*a_pipeline("run-1", "failed"), started]


def ended(outcome: Literal["failed"], reason: str, *steps: StepOutcome) -> bytes:
    end = PipelineEnded("image-classifier", outcome, "FAILED", reason, list(steps))
    return EventSequence("run-1", PIPELINE, begin=START + 60 * A_SECOND).next(outcome, end)


def train(*events: tuple[State, Any], attempt: int = 0) -> list[bytes]:
    source = EventSequence("run-1", "train", attempt=attempt)
    return [source.next(state, data) for state, data in events]


TAKEN_AWAY = Cancelled(9.0, "SIGTERM", 143, starts_again=True)
WHY = "succeeded by its own events, and failed on the platform: main: Error (exit code 1)"
EPOCH = "epoch 1/3, 100/300 batches, train loss 0.5, accuracy 0.5, learning rate 0.001, 2 s left, 51,234 images/s"
SHOWN: dict[str, tuple[list[bytes], list[str]]] = {
    "in its midst": (
        a_pipeline("run-1")[:8],
        ["run-1 ▶ running image-classifier since", "✔ succeeded data-prep in 12 s, accuracy 0.98",
         f"▶ running train {EPOCH}", "· waiting evaluate"],
    ),
    "retried behind its end": (
        again_after_a_failure(),
        ["run-1 ▶ running image-classifier since", "✔ succeeded data-prep in 12 s, accuracy 0.98",
         "▶ running train attempt 2", "· waiting evaluate"],
    ),
    "failed on the platform alone": (
        [*a_pipeline("run-1")[:-1],
         ended("failed", f"train: {WHY}", StepOutcome("train", "failed", 0, Error("PlatformError", WHY)))],
        ["run-1 ✘ failed image-classifier since", "✔ succeeded data-prep", "✘ failed train in 12 s, accuracy 0.98",
         "✔ succeeded evaluate", f"train: PlatformError: {WHY}"],
    ),
    "failed, with the step's own error alone": (
        a_pipeline("run-1", "failed"),
        ["run-1 ✘ failed image-classifier since", "✔ succeeded data-prep", "✘ failed train after 3 s",
         "· not started evaluate", "train: DataError: images/cat.png: is not an image; leave it out"],
    ),
    "a reason where no step has one": (
        [*train(("progress", progress(1, 3))),
         ended("failed", "train: out of memory", StepOutcome("data-prep", "cached"), StepOutcome("train", "killed"))],
        ["run-1 ✘ failed image-classifier since", "✔ cached data-prep", "✘ killed train epoch 1/3",
         "train: out of memory"],
    ),
    "by itself, and taken away by a platform that starts it again": (
        train(("started", StepStarted("1.0", "pod-1")), ("cancelled", TAKEN_AWAY)),
        ["run-1 ▶ running since", "■ cancelled train after 9 s, SIGTERM, likely to start again"],
    ),
    "a later attempt and its checkpoint": (
        train(("checkpoint", Checkpoint(4, 10, "gs://b/c")), ("progress", progress(5, 10)), attempt=2),
        ["run-1 ▶ running since", "▶ running train attempt 3 epoch 5/10, 500/1,000 batches",
         "checkpoint of epoch 4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_run_is_shown_step_by_step(name: str) -> None:
    bodies, expected = SHOWN[name]
    lines = [" ".join(line.replace("━", "").split()) for line in drawn(bodies, 180)]
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


def test_the_bar_grows_with_the_progress() -> None:
    bodies = train(*(("progress", progress(epoch, 10)) for epoch in range(11)))
    assert [drawn(bodies[: count + 1])[1].count("━") for count in range(11)] == list(range(0, 21, 2))


def test_a_silent_run_is_unknown() -> None:
    heading = drawn(a_pipeline("run-1")[:8], 150, after_s=20 * 60)[0]
    assert heading.startswith("run-1  ? unknown  no event for 20 min 00 s  image-classifier")


def test_without_unicode_there_are_only_ascii_symbols() -> None:
    for outcome, symbol in (("succeeded", "+ succeeded"), ("failed", "x failed")):
        assert symbol in drawn(a_step("run-1", outcome), unicode=False)[0]  # type: ignore[arg-type]


def test_foreign_text_is_text() -> None:
    lines = drawn(hostile("run-1"), 80)
    assert all(line.isprintable() for line in lines)
    assert "[bold]x[/bold]" in " ".join(lines)
    for event in parsed([*hostile("run-1"), *a_pipeline("run-2", "cancelled"), *a_step("run-3")]):
        assert event_line(event).isprintable()


def test_a_progress_of_bytes_is_in_megabytes() -> None:
    words = event_words(Progress(52_400_000, 104_000_000, "bytes", eta_seconds=3.0))
    assert words == ["52/104 MB", "3 s left"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – Ünïcode 画像 🙂", "plain – Ünïcode 画像 🙂"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://e\x1b\\y", "xy"),
        ("\x9b2Jx", "x"),
        ("\x1bcx\x1b", "x"),
        ("\x1b[", ""),
        ("a\tb\r\nc\x00\x08\x7f", "a b  c"),
        ("\u202ea\u200b\ud800b", "ab"),
    ],
)
def test_what_a_terminal_would_obey_is_left_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable("x" * 100, 10) == "x" * 9 + "…"
    assert len(printable(HOSTILE * 1_000)) <= 4_000


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3_725, "1 h 02 min"), (-1, "–"), (1e300, "–")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_only_the_newest_runs_are_kept() -> None:
    runs = Runs()
    for number in range(100):
        for event in parsed(a_step(f"done-{number}")) + parsed(a_step(f"open-{number}")[:-1]):
            runs.add(event)

    kept = list(runs)

    assert [run for run in kept if run.startswith("done")] == [f"done-{number}" for number in range(95, 100)]
    assert [run for run in kept if run.startswith("open")] == [f"open-{number}" for number in range(80, 100)]


def test_no_run_has_more_steps_than_a_screen_has_use_for() -> None:
    runs = Runs()
    for number in range(1_000):
        runs.add(parsed([EventSequence("run-1", f"step-{number}").next("progress", progress(1, 2))])[0])

    ((view, _),) = runs.values()
    assert len(view.steps) == 50


ITEMS = ("run-1", "▶ running", "image-classifier", "✔ succeeded", "data-prep", "in 12 s", "accuracy 0.98", "epoch 1/3",
         "100/300 batches", "train loss 0.5", "accuracy 0.5", "learning rate 0.001", "51,234 images/s", "2 s left",
         "· waiting", "evaluate")  # fmt: skip


@pytest.mark.parametrize("width", [50, 80, 100, 180])
def test_no_figure_is_cut_or_wrapped(width: int) -> None:
    lines = drawn(a_pipeline("run-1")[:8], width)
    assert max(map(len, lines)) <= width
    for item in ITEMS:
        assert any(item in line for line in lines), item
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("bodies", "awaited"),
    [
        (a_pipeline("run-1")[:1], "data-prep to start"),
        (a_pipeline("run-1")[:2], "the next event of data-prep"),
        (a_pipeline("run-1")[:6], "train to start"),
        (a_pipeline("run-1")[:8], "the next event of train"),
        (a_pipeline("run-1")[:11], "evaluate to start"),
        (a_pipeline("run-1", "failed")[:-1], "the exit step to report the end"),
        (train(("started", StepStarted("1.0", "pod-1")), ("cancelled", TAKEN_AWAY)), "train to start again"),
    ],
)
def test_a_run_says_what_it_waits_for(bodies: list[bytes], awaited: str) -> None:
    assert drawn(bodies, 80, after_s=12)[-1] == f"  waiting for {awaited}, last event 12 s ago"


class Terminal(io.StringIO):
    """Where a view draws to: all that was written, and how often."""

    frames = 0

    def write(self, text: str) -> int:
        self.frames += "\x1b[2K" in text or self.frames == 0
        return super().write(text)


def screen_of(terminal: Terminal) -> str:
    screen = Screen()
    screen.feed(terminal.getvalue())
    return screen.text


def a_view(height: int = 40, run: str | None = None, frame_s: float = 3600.0) -> tuple[LiveView, Terminal]:
    terminal = Terminal()
    console = Console(file=terminal, force_terminal=True, width=100, height=height, color_system=None)
    return LiveView("Kafka localhost:9092 topic status", run, console, frame_s), terminal


def test_a_view_tells_counts_and_trouble() -> None:
    view, terminal = a_view()

    with view:
        for event in parsed(a_step("run-1")):
            view.event(event)
        view.trouble("Kafka \x1b[31mlocalhost does not answer")
        assert "Kafka localhost does not answer; trying again" in screen_of(terminal)
        view.trouble(None)
        view.tick(Counts(shown=6, duplicates=2, others=3, foreign=4, last_foreign="is not JSON", troubles=1))

    text = screen_of(terminal)
    assert "trying again" not in text
    assert (
        "Kafka localhost:9092 topic status: 6 events, 2 delivered again, 3 of other runs, 4 foreign "
        "(the last is not JSON), broker away 1 time"
    ) in text.replace("\n", " ")
    assert "✔ succeeded   train" in text


def test_a_view_ticks_by_itself_and_says_what_it_waits_for() -> None:
    view, terminal = a_view(run="run-9", frame_s=0.02)
    with view:
        view.tick(Counts())
        assert "connecting, 0 s" in screen_of(terminal)
        view.tick(Counts())
        end = time.monotonic() + LONG_S
        while "waiting for events of run run-9, 1 s" not in screen_of(terminal) and time.monotonic() < end:
            time.sleep(0.02)
        assert "waiting for events of run run-9, 1 s" in screen_of(terminal)
    assert "waiting" not in screen_of(terminal), "it waits no longer"


def test_drawing_has_a_limit() -> None:
    view, terminal = a_view()

    with view:
        before = terminal.frames
        for event in parsed(a_pipeline("run-1")):
            view.event(event)
            view.tick(Counts())
        assert terminal.frames == before

    assert "✔ succeeded  image-classifier" in screen_of(terminal)


def test_a_low_terminal_shows_the_newest_and_the_end_shows_all() -> None:
    view, terminal = a_view(height=10)

    with view:
        for run in ("run-1", "run-2", "run-3"):
            for event in parsed(a_pipeline(run)):
                view.event(event)
        view.trouble("away")
        text = screen_of(terminal)
        assert len(text.strip().splitlines()) <= 10
        assert "run-1" not in text
        assert "run-3" in text
        assert "away; trying again" in text

    assert all(run in screen_of(terminal) for run in ("run-1", "run-2", "run-3"))


def test_a_run_higher_than_the_terminal_keeps_its_heading_and_its_end() -> None:
    view, terminal = a_view(height=8)

    with view:
        for number in range(30):
            view.event(parsed([EventSequence("run-1", f"step-{number}").next("progress", progress(1, 2))])[0])
        view.trouble(None)
        lines = screen_of(terminal).strip().splitlines()

    assert lines[0].startswith("run-1")
    assert len(lines) <= 8
    assert any("step-29" in line for line in lines[-5:-3])
    assert lines[-3].startswith("  waiting for the next event of step-0, step-1, step-2, last event ")


def watching(*options: str, size: tuple[int, int] = (100, 40)) -> OnTerminal:
    return OnTerminal([*WATCH, *options], {"TZ": "UTC", "PYTHONIOENCODING": "utf-8"}, size)


def test_a_real_terminal_shows_steps_progress_and_errors(status: str) -> None:
    bodies = a_pipeline("run-1", "failed")
    publish(status, [b"noise", *bodies[:8]])

    with watching("--kafka", status, "--until-done", "--run", "run-1") as on:
        on.until("epoch 1/3", LONG_S)
        for shown in ("▶ running     train", "· waiting     evaluate", "━"):
            assert shown in on.screen.text
        publish(status, bodies[8:])
        assert on.ended(LONG_S) == 1

    text = on.screen.text
    assert "run-1  ✘ failed  image-classifier" in text
    for step, state in zip(STEPS, ("✔ succeeded", "✘ failed", "· not started"), strict=True):
        assert f"{state:<13} {step}" in text
    assert "train: DataError: images/cat.png: is not an image; leave it out" in text
    assert "12 events, 1 foreign (the last is not JSON)" in text
    assert text.count("run-1") == 1, "drawn in one place"
    assert "\x1b[?25h" in on.raw, "the cursor is back"


def test_a_narrow_real_terminal_wraps_nothing_and_ctrl_c_leaves_the_last_state_there(status: str) -> None:
    publish(status, a_pipeline("run-1")[:8])

    with watching("--kafka", status, "--run", "run-1", size=(60, 24)) as on:
        on.until("waiting for the next event of train", LONG_S)
        assert max(map(len, on.screen.text.splitlines())) <= 60
        assert all(any(item in line for line in on.screen.lines) for item in ITEMS[7:14])
        on.process.send_signal(signal.SIGINT)
        assert on.ended(LONG_S) == 130

    assert "epoch 1/3" in on.screen.text
    assert "Traceback" not in on.raw
