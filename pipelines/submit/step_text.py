"""How a run's steps are doing, in words. Messages come from elsewhere: nothing in them may move the cursor."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from components.shared.events.redaction import redact
from components.shared.kubeflow.run import PodAttempt, TaskReport
from pipelines.submit.platform import Progress
from pipelines.watch_text import duration, printable

_LONGEST = 300  # characters of a message
_IMAGE = re.compile(r'image "([^"]+)"')
# What the scheduler adds about evicting others.
_ASIDE = re.compile(r"\. +(?:no new claims|preemption:).*")


def utc_now() -> datetime:
    """The time here."""
    return datetime.now(UTC)


def message_words(message: str) -> str:
    """A message of Argo's or the kubelet's without what helps nobody: the resource or the image stays."""
    text = printable(redact(message.removeprefix("main: ")), 10 * _LONGEST)
    text = _ASIDE.sub("", text)
    if (image := _IMAGE.search(text)) is not None:
        reason, cause = text.partition(": ")[0], text.rpartition(": ")[2]
        text = f"{reason}: {image[1]}" + (f" ({cause})" if '"' not in cause else "")
    return printable(text, _LONGEST)


def step_words(step: TaskReport, *, why: bool = True, now: datetime | None = None) -> str:
    """A step's state, with how long it took or has been going on.

    Args:
        step: The step.
        why: Whether one that waits says what for.
        now: The time; None: what is going on is given no time.
    """
    message = message_words(step.message)
    last = step.attempts[-1] if step.attempts else None
    because = f": {message}" if message else ""
    match step.state:
        case "waiting":
            return f"waiting{_going(last, now)}{because if why else ''}"
        case "running":
            return f"running{_going(last, now)}"
        case "succeeded":
            return f"succeeded{_took(last, 'in')}"
        case "failed" | "cancelled":
            return f"{step.state}{_took(last, 'after')}{because}"
        case "skipped":
            return "not started"
        case state:
            return state


def attempt_words(number: int, attempt: PodAttempt) -> str:
    """How an attempt ended that another followed."""
    message = message_words(attempt.message)
    return f"attempt {number} {attempt.state}{_took(attempt, 'after')}{f': {message}' if message else ''}"


def attempt_name(step: TaskReport) -> str:
    """What precedes a step's state where it is not its first attempt."""
    return f"attempt {len(step.attempts)} " if len(step.attempts) > 1 else ""


def pod_of(step: TaskReport) -> str:
    """Its newest pod, empty where there is none or its name is not known."""
    return printable(step.attempts[-1].pod, 253) if step.attempts else ""


def run_words(progress: Progress) -> str:
    """A run's state."""
    if not progress.retried:
        return progress.state
    return f"{progress.state}{' again' if progress.state == 'running' else ''} after a Retry"


def rows(progress: Progress, now: datetime, *, waited: frozenset[str] | None = None) -> list[tuple[str, str, str]]:
    """Name, state and pod of every step, and a row without a name for each attempt before.

    Args:
        progress: Of the run.
        now: The time.
        waited: The steps that say what they wait for; None: all.
    """
    found = []
    for name, step in progress.steps.items():
        why = waited is None or name in waited
        pod = pod_of(step)
        state = f"{attempt_name(step)}{step_words(step, why=why, now=now)}"
        found.append((printable(name, 60), state, f"pod {pod}" if pod else ""))
        earlier = step.attempts[:-1]
        found += [("", attempt_words(number, attempt), "") for number, attempt in enumerate(earlier, 1)]
    return found


def widths(lines: list[tuple[str, str, str]]) -> tuple[int, int]:
    """Of the columns of names and states: one long message does not push every pod out of sight."""
    names, states = (max((len(line[column]) for line in lines), default=0) for column in (0, 1))
    return names, min(states, 60)


def table(lines: list[tuple[str, str, str]]) -> list[str]:
    """Rows as lines of text, in columns."""
    names, states = widths(lines)
    return [f"{name:<{names}}  {state:<{states}}  {pod}".rstrip() for name, state, pod in lines]


def _took(attempt: PodAttempt | None, word: str) -> str:
    if attempt is None or attempt.started is None or attempt.finished is None:
        return ""
    return f" {word} {duration((attempt.finished - attempt.started).total_seconds())}"


def _going(attempt: PodAttempt | None, now: datetime | None) -> str:
    if attempt is None or attempt.started is None or attempt.finished is not None or now is None:
        return ""
    # Their clock may be ahead of ours.
    return f" for {duration(max(0.0, (now - attempt.started).total_seconds()))}"
