"""Events in words for people. They come from elsewhere: nothing in them may move the cursor, colour or crash."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from components.shared.events.data import (
    TEXT_LIMIT,
    Cancelled,
    Checkpoint,
    DataFinding,
    Failed,
    PipelineEnded,
    PipelineStarted,
    Progress,
    StepStarted,
    Succeeded,
)
from components.shared.events.event import StepEvent
from components.shared.events.watch import Counts

_NAME_LIMIT = 60
_HOST_LIMIT = 253  # a pod's name, whole, as kubectl wants it
_SHOWN_FIGURES = 4
_AGAIN = ["likely to start again"]
# Control sequences of terminals, as a whole: without its first character the rest of one would stand in the text.
_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b.?")


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """A foreign text on one line, without anything a terminal would obey, and no longer than `limit`."""
    text = _ESCAPES.sub("", text[: 2 * limit])
    # Not printable are control characters, lone surrogates, and what turns the direction of writing.
    text = "".join(each if each.isprintable() else " " if each.isspace() else "" for each in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def name(text: str) -> str:
    """A foreign name, short."""
    return printable(text, _NAME_LIMIT)


def clock(time: datetime) -> str:
    """A time of day here, or a dash for a time no calendar here has."""
    try:
        return time.astimezone().strftime("%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "--:--:--"


def duration(span: float | timedelta) -> str:
    """A span of time, in its two largest units."""
    seconds = max(0.0, span.total_seconds()) if isinstance(span, timedelta) else span
    if not 0 <= seconds < 1e9:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def count(value: int) -> str:
    """A whole number; foreign ones may have thousands of digits."""
    return f"{value:,}" if abs(value) < 10**12 else "∞"


def share(done: int, total: int) -> float:
    """How much of something is done, from 0 to 1."""
    return 0.0 if total <= 0 else 1.0 if done >= total else done / total


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _figures(values: Mapping[str, float | None], suffix: str = "") -> list[str]:
    return [f"{name(key)}{suffix} {_figure(value)}" for key, value in list(values.items())[:_SHOWN_FIGURES]]


def event_words(data: Any) -> list[str]:
    """What the data of an event says."""
    match data:
        case StepStarted():
            return [f"on {printable(data.host, _HOST_LIMIT)}"]
        case Progress():
            return _progress_words(data)
        case Checkpoint():
            return [f"after epoch {count(data.epoch)}/{count(data.epochs)}", printable(data.uri)]
        case DataFinding():
            return [data.severity, finding_words(data), printable(data.text)]
        case Succeeded():
            return [f"in {duration(data.seconds)}", *_figures(data.metrics), *_gate_words(data)]
        case Failed():
            error = f"{name(data.error.type)}: {printable(data.error.message)}"
            return [f"after {duration(data.seconds)}", error, *_AGAIN[: data.starts_again is True]]
        case Cancelled():
            return [f"after {duration(data.seconds)}", printable(data.reason), *_AGAIN[: data.starts_again is True]]
        case PipelineStarted():
            return [name(data.pipeline), " → ".join(name(step) for step in data.steps[:20])]
        case PipelineEnded():
            return [name(data.pipeline), *([printable(data.reason)] if data.reason else [])]
        case _:
            return []


def finding_words(data: DataFinding) -> str:
    """What was found, and how often."""
    return f"{name(data.kind.replace('_', ' '))}: {'at least ' if data.at_least else ''}{count(data.count)} {data.of}"


def _gate_words(data: Succeeded) -> list[str]:
    words = [printable(data.artifacts["published"])] if "published" in data.artifacts else []
    if data.gate is not None and data.gate.passed:
        words.append("gate passed")
    elif data.gate is not None:
        missed = [name(threshold.metric) for threshold in data.gate.thresholds if not threshold.passed]
        words.append(
            f"gate not passed: {' '.join(missed[:_SHOWN_FIGURES])}{' …' if len(missed) > _SHOWN_FIGURES else ''}"
        )
    return words


def _progress_words(progress: Progress) -> list[str]:
    words, amount = [], f"{count(progress.step)}/{count(progress.steps)} {progress.unit}"
    if progress.unit == "bytes" and share(progress.step, progress.steps):
        amount = f"{count(round(progress.step / 10**6))}/{count(round(progress.steps / 10**6))} MB"
    if progress.epoch is not None:
        words.append(f"epoch {count(progress.epoch)}" + (f"/{count(progress.epochs)}" if progress.epochs else ""))
    words += [amount, *_figures(progress.losses, " loss"), *_figures(progress.metrics)]
    if progress.learning_rate is not None:
        words.append(f"learning rate {_figure(progress.learning_rate)}")
    if progress.eta_seconds is not None:
        words.append(f"{duration(progress.eta_seconds)} left")
    if progress.samples_per_second is not None:
        words.append(f"{progress.samples_per_second:,.0f} images/s" if abs(progress.samples_per_second) < 1e12 else "∞")
    return words


def event_line(event: StepEvent) -> str:
    """An event on one line, for logs and pipes."""
    attempt = f" (attempt {count(event.attempt + 1)})" if event.attempt else ""
    line = f"{clock(event.time)} {name(event.run)} {name(event.step)}{attempt} {event.state}"
    return ": ".join([line, *filter(None, [", ".join(event_words(event.data))])])


def counts_line(counts: Counts) -> str:
    """What became of the messages."""
    parts = [f"{counts.shown:,} event{'' if counts.shown == 1 else 's'}"]
    if counts.duplicates:
        parts.append(f"{counts.duplicates:,} delivered again")
    if counts.others:
        parts.append(f"{counts.others:,} of other runs")
    if counts.foreign:
        parts.append(f"{counts.foreign:,} foreign (the last {printable(counts.last_foreign, 160)})")
    if counts.troubles:
        parts.append(f"broker away {counts.troubles:,} time{'' if counts.troubles == 1 else 's'}")
    return ", ".join(parts)
