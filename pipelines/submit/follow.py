"""A run that is looked at once, or followed until it is done."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from components.shared.command import print_message
from components.shared.errors import (
    EXIT_FAILURE,
    EXIT_OK,
    InputError,
    PlatformRefusedError,
    PlatformUnavailableError,
)
from components.shared.kubeflow.report import ENDED, TaskReport
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from pipelines.submit.connection import RetryableError, retried
from pipelines.submit.platform import Platform, Progress, Submitted
from pipelines.submit.run_text import (
    PodLog,
    attempt_words,
    ending,
    log_lines,
    pod_of,
    read_log,
    run_words,
    step_words,
)
from pipelines.watch_text import printable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 15.0
WAITS_S = 20.0  # a pod that is made in less than this is no news
_GROWTH = 1.3  # from 2 s to 15 s within a minute and a half
_FRAME_S = 1.0
_REQUEST_S, _LOG_S = 30.0, 10.0
_MOST_LOGS = 3  # of the iterations of a loop all may fail


@dataclass(frozen=True)
class Followed:
    """How the following ended.

    Attributes:
        progress: The last that is known of the run.
        exit_code: 0 it succeeded, 1 it did not or time was up, 130 Ctrl-C, 143 SIGTERM or SIGHUP.
        status: The run's state; or ``timeout``, ``interrupted``, ``terminated``: then the run goes on.
        logs: What steps that failed logged, where the platform gives it.
    """

    progress: Progress
    exit_code: int
    status: str
    logs: dict[str, PodLog] = field(default_factory=dict)


class View(Protocol):
    """Where a person sees the run."""

    def show(self, progress: Progress, waited: frozenset[str]) -> bool:
        """Show how it is doing, and why the steps wait that have done so for long; whether anything changed."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait, and go on showing how long things take."""
        ...


def follow(platform: Platform, run: Submitted, timeout_s: float | None) -> Followed:
    """Show a run's steps on standard error until it is done: live on a terminal, elsewhere a line a change.

    An outage of the platform is logged once, when it begins, and waited for.

    Args:
        platform: Where the run is.
        run: Which.
        timeout_s: For how many seconds at most, and one more for a last look; None: for as long as it takes.

    Raises:
        InputError: The platform refuses to answer any more, such as when a token has expired.
    """
    following = _Following(platform, run)
    try:
        with sigterm_raises(), _view(run) as view:
            ended = following.until_done(view, timeout_s)
    except (KeyboardInterrupt, Terminated) as error:
        print_message(f"no longer followed; {run.name} goes on: {run.url}")
        if isinstance(error, Terminated):
            return Followed(following.last, EXIT_TERMINATED, "terminated", following.logs)
        return Followed(following.last, EXIT_INTERRUPTED, "interrupted", following.logs)
    if ended.status == "timeout":
        print_message(f"error: {run.name} is not done after {timeout_s:g} s (--timeout); it goes on: {run.url}")
    elif ended.exit_code:
        print_message(ending(run, ended.progress))
    return ended


def look(platform: Platform, run: Submitted) -> Followed:
    """How a run is doing now, with the logs of the steps that failed.

    Raises:
        InputError: The platform refuses to answer.
        PlatformUnavailableError: It does not answer.
    """
    following = _Following(platform, run)
    progress = retried(lambda timeout_s: platform.progress(run.id, timeout_s))
    for step in progress.steps.values():
        following.log_of(step, _LOG_S)
    code = EXIT_FAILURE if progress.state in ("failed", "cancelled") else EXIT_OK
    return Followed(progress, code, progress.state, following.logs)


class _Following:
    """One run, what is known of it, and the logs of its steps that failed, each read once."""

    def __init__(self, platform: Platform, run: Submitted) -> None:
        self.last = Progress("unknown", {})
        self.logs: dict[str, PodLog] = {}
        self._platform = platform
        self._run = run
        self._is_away = False
        self._asked: set[tuple[str, int]] = set()
        self._waiting_since: dict[tuple[str, int], float] = {}

    def until_done(self, view: View, timeout_s: float | None) -> Followed:
        end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        pause = FIRST_PAUSE_S
        while True:
            left = max(1.0, end - time.monotonic())
            if self._update(min(_REQUEST_S, left)):
                if view.show(self.last, self._waiting_long()):
                    pause = FIRST_PAUSE_S
                for step in self.last.steps.values():
                    if (log := self.log_of(step, min(_LOG_S, left))) is not None:
                        for line in log_lines(step.name, log):
                            print_message(line)
                if self.last.state in ENDED:
                    code = EXIT_OK if self.last.state == "succeeded" else EXIT_FAILURE
                    return Followed(self.last, code, self.last.state, self.logs)
            if (left := end - time.monotonic()) <= 0:
                return Followed(self.last, EXIT_FAILURE, "timeout", self.logs)
            view.pause(min(pause, left))
            pause = min(LONGEST_PAUSE_S, pause * _GROWTH)

    def _update(self, timeout_s: float) -> bool:
        """Ask how the run is doing; whether there was an answer."""
        try:
            self.last = self._platform.progress(self._run.id, timeout_s)
        except InputError as error:
            raise PlatformRefusedError(f"{error}; {self._run.name} goes on: {self._run.url}") from error
        except (RetryableError, PlatformUnavailableError) as error:
            if not self._is_away:
                print_message(f"{error}; {self._run.name} is asked for again")
            self._is_away = True
            return False
        if self._is_away:
            print_message("the platform answers again")
        self._is_away = False
        return True

    def _waiting_long(self) -> frozenset[str]:
        steps = self.last.steps.items()
        waiting = {(name, len(step.attempts)) for name, step in steps if step.state == "waiting"}
        now = time.monotonic()
        self._waiting_since = {key: self._waiting_since.get(key, now) for key in waiting}
        return frozenset(name for (name, _), since in self._waiting_since.items() if now - since >= WAITS_S)

    def log_of(self, step: TaskReport, timeout_s: float) -> PodLog | None:
        """The log of a step that has just failed; None: it has not, or there is none to be had."""
        asked = step.name, len(step.attempts)
        if step.state != "failed" or asked in self._asked or len(self._asked) >= _MOST_LOGS or not pod_of(step):
            return None
        self._asked.add(asked)
        text = self._platform.log(self._run.id, pod_of(step), timeout_s)
        if text is not None:
            self.logs[step.name] = read_log(text)
        return self.logs.get(step.name)


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
            # Attempts that another followed; what was shown as the step's end is not logged again.
            first = self._ended.get(name, 0)
            for number, attempt in enumerate(step.attempts[first:-1], first + 1):
                lines.append(f"{name} {attempt_words(number, attempt)}")
            ended = step.state in ("failed", "cancelled")
            self._ended[name] = max(first, len(step.attempts) - (not ended))
            if step.state == "waiting" and step.attempts and step.attempts[-1].state == "failed":
                continue  # for Argo to say whether there will be another
            words = step_words(step, why=name in waited)
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
            print_message(f"{time.strftime('%H:%M:%S')} {printable(line)}")
        return bool(lines)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)
