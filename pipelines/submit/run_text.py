"""How a run's steps are doing, and what a step logged. Texts come from elsewhere: none may move the cursor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from components.shared.events.redaction import redact
from components.shared.kubeflow.report import PodAttempt, TaskReport
from pipelines.submit.platform import Progress, Submitted
from pipelines.watch_text import duration, printable

STYLES = {"running": "cyan", "succeeded": "green", "cached": "green", "failed": "bold red", "cancelled": "yellow"}
_LONGEST = 300  # characters of a message
_LONGEST_LINE = 400
_LINES = 20  # of a log
# Lines that secrets are looked for in: of a private key that begins above the last ones each line looks like none. One
# of RSA with 16,384 bits has 197.
_LOOKED_AT = 220
_IMAGE = re.compile(r'image "([^"]+)"')
_ASIDE = re.compile(r"\. +(?:no new claims|preemption:).*")  # what the scheduler adds about evicting others
_ARGO = re.compile(r"time=\S+ level=\w+ ")
_LAUNCHER = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]+:\d+\] ?(.*)")
_EXECUTOR = re.compile(r"\[KFP Executor [^\]]*\]: ?(.*)")
_SUCCEEDED = re.compile(r"\d\d:\d\d:\d\d [a-z-]{4,9} +succeeded in [\d,.]+ s")  # as run_step logs it
# The launcher's last line where the step failed by itself: the step's own lines say more.
_OF_THE_STEP = re.compile(r"failed to execute component: exit status \d+$")


def utc_now() -> datetime:
    """The time here."""
    return datetime.now(UTC)


def message_text(message: str) -> str:
    """A message of Argo's or the kubelet's without what helps nobody: the resource or the image stays."""
    text = printable(redact(message.removeprefix("main: ")), 10 * _LONGEST)
    text = _ASIDE.sub("", text)
    if (image := _IMAGE.search(text)) is not None:
        reason, cause = text.partition(": ")[0], text.rpartition(": ")[2]
        text = f"{reason}: {image[1]}" + (f" ({cause})" if '"' not in cause else "")
    return printable(text, _LONGEST)


def step_text(step: TaskReport, now: datetime | None = None) -> str:
    """A step's state, why, and how long it took, or has been going on where `now` is given."""
    last = step.attempts[-1] if step.attempts else None
    number = f"attempt {len(step.attempts)} " if len(step.attempts) > 1 else ""
    message = message_text(step.message)
    because = f": {message}" if message else ""
    lasting, ended = _duration(last, "for", now), f"{step.state}{_duration(last, 'after')}{because}"
    texts = {
        "waiting": f"waiting{lasting}{because}",
        "running": f"running{lasting}",
        "succeeded": f"succeeded{_duration(last, 'in')}",
        "failed": ended,
        "cancelled": ended,
        "skipped": "not started",
    }
    return f"{number}{texts.get(step.state, step.state)}"


def attempt_text(number: int, attempt: PodAttempt) -> str:
    """How an attempt ended that another followed."""
    message = message_text(attempt.message)
    return f"attempt {number} {attempt.state}{_duration(attempt, 'after')}{f': {message}' if message else ''}"


def _duration(attempt: PodAttempt | None, preposition: str, now: datetime | None = None) -> str:
    """How long an attempt took, or has been going on where `now` is given."""
    if attempt is None or attempt.started is None or (attempt.finished is not None) == (preposition == "for"):
        return ""
    end = now if preposition == "for" else attempt.finished
    # Their clock may be ahead of ours.
    return "" if end is None else f" {preposition} {duration(max(0.0, (end - attempt.started).total_seconds()))}"


def pod_of(step: TaskReport) -> str:
    """Its newest pod, empty where there is none or its name is not known."""
    return printable(step.attempts[-1].pod, 253) if step.attempts else ""


def run_state_text(progress: Progress) -> str:
    """A run's state."""
    if not progress.retried:
        return progress.state
    return f"{progress.state}{' again' if progress.state == 'running' else ''} after a Retry"


def ending(run: Submitted, progress: Progress) -> str:
    """What to log of a run that did not succeed."""
    why = f": {printable(progress.error)}" if progress.error else ""
    if not why and progress.state == "failed":
        why = "; the platform does not say why"
    if "OOMKilled" in why:
        why += "; raise the step's memory in the settings"
    return f"error: {run.name} {progress.state}{why}; see {run.url}"


def rows(progress: Progress, now: datetime) -> Iterator[tuple[str, str, str, str]]:
    """Name, state, pod and style of every step, and a row without a name for each attempt before."""
    for name, step in progress.steps.items():
        pod = pod_of(step)
        yield printable(name, 60), step_text(step, now), f"pod {pod}" if pod else "", STYLES.get(step.state, "")
        for number, attempt in enumerate(step.attempts[:-1], 1):
            yield "", attempt_text(number, attempt), "", "dim"


def table(progress: Progress, now: datetime) -> Iterator[str]:
    """The rows as lines of text, in columns; one long message does not push every pod out of sight."""
    lines = list(rows(progress, now))
    names = max((len(name) for name, *_ in lines), default=0)
    states = min(max((len(state) for _, state, *_ in lines), default=0), 60)
    for name, state, pod, _ in lines:
        yield f"{name:<{names}}  {state:<{states}}  {pod}".rstrip()


@dataclass(frozen=True)
class PodLog:
    """What matters of a pod's log, without secrets.

    Attributes:
        lines: The last of the step itself, at most 20.
        launcher: The last error of kfp's launcher, which starts the step and stores what it made; empty: none.
        succeeded: Whether the step logged that it succeeded.
    """

    lines: tuple[str, ...]
    launcher: str
    succeeded: bool


def read_log(text: str) -> PodLog:
    """Take a pod's log, or its end, apart: kfp's launcher and executor and Argo write there, too."""
    own: list[str] = []
    launcher, dumping = "", False
    for line in text.splitlines():
        # Inputs and outputs as indented JSON, hundreds of lines.
        dumping = dumping and line[:1] in (" ", "{", "}", "")
        if dumping:
            dumping = line != "}"
        elif (found := _LAUNCHER.match(line)) is not None:
            launcher = found[2] if found[1] in "EF" else launcher
            dumping = found[2].endswith("{")
        elif (found := _EXECUTOR.match(line)) is not None:
            dumping = found[1].endswith(":")
        elif not _ARGO.match(line):
            own.append(line)
    while own and not own[-1].strip():
        own.pop()
    lines = redact("\n".join(own[-_LOOKED_AT:])).splitlines()[-_LINES:]
    return PodLog(
        tuple(printable(line, _LONGEST_LINE) for line in lines),
        printable(redact(launcher), _LONGEST_LINE),
        any(_SUCCEEDED.fullmatch(line) for line in own),
    )


def log_lines(name: str, log: PodLog) -> Iterator[str]:
    """What to show of the log of a step that failed."""
    name = printable(name)
    launcher = f": {log.launcher}" if log.launcher else " gives no reason"
    if log.succeeded:
        yield f"{name} succeeded by its own log and failed on the platform; its launcher{launcher}"
    elif not log.lines:
        yield f"{name} wrote nothing of its own; its launcher{launcher}"
    if log.lines:
        yield f"the last lines of {name}:"
        yield from (f"  | {line}" for line in log.lines)
        if log.launcher and not log.succeeded and not _OF_THE_STEP.search(log.launcher):
            yield f"its launcher{launcher}"
