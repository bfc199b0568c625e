"""A run that is looked at once, or followed until it is done."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from components.shared.command import tell
from components.shared.errors import (
    EXIT_FAILURE,
    EXIT_OK,
    InputError,
    PlatformRefusedError,
    PlatformUnavailableError,
)
from components.shared.kubeflow.run import ENDED, TaskReport
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from pipelines.submit.patience import Patience
from pipelines.submit.platform import Platform, Progress, Submitted
from pipelines.submit.pod_log import PodLog, read_log
from pipelines.submit.step_text import attempt_name, attempt_words, pod_of, run_words, step_words
from pipelines.watch_text import printable

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 15.0
_GROWTH = 1.3  # from 2 s to 15 s within a minute and a half
_FRAME_S = 1.0
_LOG_S = 10.0
_MOST_LOGS = 3  # of the iterations of a loop all may fail
# The launcher's last word where the step failed by itself: its own lines say more.
_OF_THE_STEP = re.compile(r"failed to execute component: exit status \d+$")
# A pod that is made in less than this is no news.
_WAITS_S = 20.0


@dataclass(frozen=True)
class Followed:
    """How the following ended.

    Attributes:
        progress: The last that was heard of the run.
        exit_code: 0 it succeeded, 1 it did not or time was up, 130 Ctrl-C, 143 SIGTERM or SIGHUP.
        status: The run's state; or ``timeout``, ``interrupted``, ``terminated``: then the run goes on.
        logs: What steps that failed wrote, where the platform gives it.
    """

    progress: Progress
    exit_code: int
    status: str
    logs: dict[str, PodLog] = field(default_factory=dict)


class View(Protocol):
    """Where a person sees the run."""

    def show(self, progress: Progress, waited: frozenset[str]) -> bool:
        """Show how it is doing; whether anything changed.

        Args:
            progress: Of the run.
            waited: The steps that have waited so long that the reason matters.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Wait, and go on showing how long things take."""
        ...


def follow(platform: Platform, run: Submitted, timeout_s: float | None) -> Followed:
    """Show a run's steps on standard error until it is done: live on a terminal, elsewhere a line a change.

    An outage of the platform is told once, when it begins, and waited for.

    Args:
        platform: Where the run is.
        run: Which.
        timeout_s: For how many seconds at most, and one more for a last look; None: for as long as it takes.

    Raises:
        InputError: The platform tells nothing any more, such as when a token has expired.
    """
    following = _Following(platform, run, timeout_s)
    try:
        with sigterm_raises(), _view(run) as view:
            ended, closing = following.until_done(view)
    except (KeyboardInterrupt, Terminated) as error:
        tell(f"no longer followed; {run.name} goes on: {run.url}")
        if isinstance(error, Terminated):
            return Followed(following.last, EXIT_TERMINATED, "terminated", following.logs.read)
        return Followed(following.last, EXIT_INTERRUPTED, "interrupted", following.logs.read)
    if closing:
        tell(closing)
    return ended


def look(platform: Platform, run: Submitted) -> Followed:
    """How a run is doing now, with the logs of the steps that failed.

    Raises:
        InputError: The platform refuses to tell.
        PlatformUnavailableError: It does not answer.
    """
    progress = platform.progress(run.id)
    logs = _Logs(platform, run)
    for step in progress.steps.values():
        logs.get(step)
    code = EXIT_FAILURE if progress.state in ("failed", "cancelled") else EXIT_OK
    return Followed(progress, code, progress.state, logs.read)


def log_lines(name: str, log: PodLog) -> Iterator[str]:
    """What to show of the log of a step that failed."""
    name = printable(name)
    launcher = f": {log.launcher}" if log.launcher else " gives no reason"
    if log.succeeded:
        yield f"{name} succeeded by its own log and failed on the platform; its launcher{launcher}"
    elif not log.own:
        yield f"{name} wrote nothing of its own; its launcher{launcher}"
    if log.own:
        yield f"the last lines of {name}:"
        yield from (f"  | {line}" for line in log.own)
        if log.launcher and not log.succeeded and not _OF_THE_STEP.search(log.launcher):
            yield f"its launcher{launcher}"


class _Following:
    """One run while it is followed."""

    def __init__(self, platform: Platform, run: Submitted, timeout_s: float | None) -> None:
        self.last = Progress("unknown", {})
        self.logs = _Logs(platform, run)
        self._platform = platform
        self._run = run
        self._timeout_s = timeout_s
        self._away = False
        self._waiting = _Waiting()

    def until_done(self, view: View) -> tuple[Followed, str]:
        """How it ended, and what is to be said of that."""
        end = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        pause = _FIRST_PAUSE_S
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if self._heard(left):
                waited = self._waiting.long(self.last)
                if view.show(self.last, waited):
                    pause = _FIRST_PAUSE_S
                for name, step in self.last.steps.items():
                    if (log := self.logs.get(step, left)) is not None:
                        for line in log_lines(name, log):
                            tell(line)
                if self.last.state in ENDED:
                    return self._done()
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                late = f"error: {self._run.name} is not done after {self._timeout_s:g} s (--timeout); it goes on: "
                return Followed(self.last, EXIT_FAILURE, "timeout", self.logs.read), f"{late}{self._run.url}"
            view.pause(pause if left is None else min(pause, left))
            pause = min(_LONGEST_PAUSE_S, pause * _GROWTH)

    def _heard(self, left: float | None) -> bool:
        """Ask how the run is doing; whether there was an answer."""
        try:
            self.last = self._platform.progress(self._run.id, Patience(left, self._outage))
        except InputError as error:
            raise PlatformRefusedError(f"{error}; {self._run.name} goes on: {self._run.url}") from error
        except PlatformUnavailableError as error:
            self._outage(str(error))  # one that is not worth another attempt at once
            return False
        if self._away:
            tell("the platform answers again")
        self._away = False
        return True

    def _outage(self, why: str) -> None:
        if not self._away:
            tell(f"{why}; {self._run.name} is asked for again")
        self._away = True

    def _done(self) -> tuple[Followed, str]:
        progress, logs = self.last, self.logs.read
        if progress.state == "succeeded":
            return Followed(progress, EXIT_OK, progress.state, logs), ""
        return Followed(progress, EXIT_FAILURE, progress.state, logs), ending(self._run, progress)


def ending(run: Submitted, progress: Progress) -> str:
    """What to tell of a run that did not succeed."""
    why = f": {printable(progress.error)}" if progress.error else ""
    if not why and progress.state == "failed":
        why = "; the platform does not say why"
    if "OOMKilled" in why:
        why += "; raise the step's memory in the settings"
    return f"error: {run.name} {progress.state}{why}; see {run.url}"


class _Waiting:
    """Since when steps wait."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int], float] = {}

    def long(self, progress: Progress) -> frozenset[str]:
        """The steps that wait for longer than is usual."""
        waiting = {(name, len(step.attempts)): name for name, step in progress.steps.items() if step.state == "waiting"}
        now = time.monotonic()
        self._since = {key: self._since.get(key, now) for key in waiting}
        return frozenset(name for key, name in waiting.items() if now - self._since[key] >= _WAITS_S)


class _Logs:
    """The logs of steps that failed, each read once."""

    def __init__(self, platform: Platform, run: Submitted) -> None:
        self.read: dict[str, PodLog] = {}
        self._platform = platform
        self._run = run
        self._asked: set[tuple[str, int]] = set()

    def get(self, step: TaskReport, left: float | None = None) -> PodLog | None:
        """The log of a step that has just failed; None: it has not, or there is none to be had."""
        asked = step.name, len(step.attempts)
        if step.state != "failed" or asked in self._asked or len(self._asked) >= _MOST_LOGS or not pod_of(step):
            return None
        self._asked.add(asked)
        text = self._platform.log(self._run.id, pod_of(step), Patience(_LOG_S if left is None else min(_LOG_S, left)))
        if text is not None:
            self.read[step.name] = read_log(text)
        return self.read.get(step.name)


def _view(run: Submitted) -> AbstractContextManager[View]:
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return nullcontext(_Lines(run))
    from pipelines.submit.follow_view import LiveSteps

    return LiveSteps(run, _FRAME_S)


class _Lines:
    """A line for each change."""

    def __init__(self, run: Submitted) -> None:
        self._run = run
        self._shown: dict[str, str] = {}
        self._ended: dict[str, int] = {}
        self._pods: set[str] = set()

    def show(self, progress: Progress, waited: frozenset[str]) -> bool:
        lines: list[str] = []
        for name, step in progress.steps.items():
            lines += self._of_attempts(name, step)
            if step.state == "waiting" and step.attempts and step.attempts[-1].state == "failed":
                continue  # for Argo to say whether there will be another
            words = f"{attempt_name(step)}{step_words(step, why=name in waited)}"
            if self._shown.get(name) == words:
                continue
            self._shown[name] = words
            pod = pod_of(step)
            lines.append(f"{name} {words}" + (f" (pod {pod})" if pod and pod not in self._pods else ""))
            self._pods.add(pod)
        words = run_words(progress)
        if self._shown.get("") != words:
            self._shown[""] = words
            lines.append(f"{self._run.name} {words}")
        for line in lines:
            tell(f"{time.strftime('%H:%M:%S')} {printable(line)}")
        return bool(lines)

    def _of_attempts(self, name: str, step: TaskReport) -> Iterator[str]:
        """Attempts that another followed; what was shown as the step's end is not said again."""
        first = self._ended.get(name, 0)
        for number, attempt in enumerate(step.attempts[first:-1], first + 1):
            yield f"{name} {attempt_words(number, attempt)}"
        ended = step.state in ("failed", "cancelled")
        self._ended[name] = max(first, len(step.attempts) - (not ended))

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)
