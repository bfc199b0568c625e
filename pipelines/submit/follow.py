"""A run that is looked at once, or followed until it is done."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from components.shared.command import print_message
from components.shared.errors import (
    EXIT_FAILURE,
    EXIT_OK,
    InputError,
    PlatformRefusedError,
    PlatformUnavailableError,
    RetryableError,
)
from components.shared.kubeflow.report import ENDED, TaskReport
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from pipelines.submit.connection import retried
from pipelines.submit.platform import Platform, Progress, Submitted
from pipelines.submit.run_text import (
    STYLES,
    PodLog,
    attempt_text,
    ending,
    log_lines,
    pod_of,
    read_log,
    rows,
    run_state_text,
    step_text,
    utc_now,
)
from pipelines.watch_text import printable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 15.0
_GROWTH = 1.3  # from 2 s to 15 s within a minute and a half
_REQUEST_S, _LOG_S = 30.0, 10.0
_MOST_LOGS = 3  # of the iterations of a loop all may fail

# Shows how a run is doing; whether anything changed.
Show = Callable[[Progress], bool]


@dataclass
class Followed:
    """What is known of a run, and how following it ended.

    Attributes:
        progress: The last that is known of the run.
        exit_code: 0 it succeeded, 1 it did not or time was up, 130 Ctrl-C, 143 SIGTERM or SIGHUP.
        status: The run's state; or ``timeout``, ``interrupted``, ``terminated``: then the run goes on.
        logs: What steps that failed logged, where the platform gives it.
    """

    progress: Progress = field(default_factory=lambda: Progress("unknown", {}))
    exit_code: int = EXIT_OK
    status: str = ""
    logs: dict[str, PodLog] = field(default_factory=dict)

    def ended(self, status: str, exit_code: int) -> Followed:
        """The same with its end."""
        self.status, self.exit_code = status, exit_code
        return self


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
    found = Followed()
    end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    try:
        with sigterm_raises(), _view(run) as show:
            _until_done(platform, run, found, show, end)
    except (KeyboardInterrupt, Terminated) as error:
        print_message(f"no longer followed; {run.name} goes on: {run.url}")
        if isinstance(error, Terminated):
            return found.ended("terminated", EXIT_TERMINATED)
        return found.ended("interrupted", EXIT_INTERRUPTED)
    if found.progress.state not in ENDED:
        print_message(f"error: {run.name} is not done after {timeout_s:g} s (--timeout); it goes on: {run.url}")
        return found.ended("timeout", EXIT_FAILURE)
    if found.progress.state == "succeeded":
        return found.ended("succeeded", EXIT_OK)
    print_message(ending(run, found.progress))
    return found.ended(found.progress.state, EXIT_FAILURE)


def look(platform: Platform, run: Submitted) -> Followed:
    """How a run is doing now, with the logs of the steps that failed."""
    found = Followed(retried(lambda timeout_s: platform.progress(run.id, timeout_s)))
    found.logs = dict(_new_logs(platform, run, found.progress, set(), _LOG_S))
    has_failed = found.progress.state in ("failed", "cancelled")
    return found.ended(found.progress.state, EXIT_FAILURE if has_failed else EXIT_OK)


def _until_done(platform: Platform, run: Submitted, found: Followed, show: Show, end: float) -> None:
    pause, is_away = FIRST_PAUSE_S, False
    asked: set[tuple[str, int]] = set()
    while True:
        left = max(1.0, end - time.monotonic())
        try:
            found.progress = platform.progress(run.id, min(_REQUEST_S, left))
        except InputError as error:
            raise PlatformRefusedError(f"{error}; {run.name} goes on: {run.url}") from error
        except (RetryableError, PlatformUnavailableError) as error:
            if not is_away:
                print_message(f"{error}; {run.name} is asked for again")
            is_away = True
        else:
            if is_away:
                print_message("the platform answers again")
            is_away = False
            if show(found.progress):
                pause = FIRST_PAUSE_S
            for name, log in _new_logs(platform, run, found.progress, asked, min(_LOG_S, left)):
                found.logs[name] = log
                for line in log_lines(name, log):
                    print_message(line)
            if found.progress.state in ENDED:
                return
        if (left := end - time.monotonic()) <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(LONGEST_PAUSE_S, pause * _GROWTH)


def _new_logs(
    platform: Platform, run: Submitted, progress: Progress, asked: set[tuple[str, int]], timeout_s: float
) -> Iterator[tuple[str, PodLog]]:
    """The logs of steps that have failed since, by their names, each attempt's once."""
    for step in progress.steps.values():
        attempt = step.name, len(step.attempts)
        if step.state == "failed" and attempt not in asked and len(asked) < _MOST_LOGS and (pod := pod_of(step)):
            asked.add(attempt)
            if (text := platform.log(run.id, pod, timeout_s)) is not None:
                yield step.name, read_log(text)


@contextmanager
def _view(run: Submitted) -> Iterator[Show]:
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        yield _Lines(run).show
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    shown = Progress("unknown", {})

    def drawn() -> Table:
        # All text is set as it is, never read as markup: it comes from elsewhere.
        grid = Table.grid("", "", "", padding=(0, 2, 0, 0))
        heading = Text.assemble(run.name, " ", (run_state_text(shown), STYLES.get(shown.state, "")))
        for name, state, pod, style in rows(shown, utc_now()):
            grid.add_row(Text(f"  {name}"), Text(state, style), Text(pod, "dim"))
        whole = Table.grid()
        whole.add_row(heading)
        whole.add_row(grid)
        return whole

    def show(progress: Progress) -> bool:
        nonlocal shown
        before, shown = shown, progress
        live.refresh()
        return before.state != progress.state or before.tasks != progress.tasks

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Live(get_renderable=drawn, console=console, refresh_per_second=1, redirect_stdout=False) as live:
        yield show


class _Lines:
    """A line for each change."""

    def __init__(self, run: Submitted) -> None:
        self._run = run
        self._shown: dict[str, str] = {}
        self._ended: dict[str, int] = {}
        self._pods: set[str] = set()

    def show(self, progress: Progress) -> bool:
        lines = [line for step in progress.steps.values() for line in self._changes(step)]
        if self._shown.get("") != (text := run_state_text(progress)):
            self._shown[""] = text
            lines.append(f"{self._run.name} {text}")
        for line in lines:
            print_message(f"{time.strftime('%H:%M:%S')} {printable(line)}")
        return bool(lines)

    def _changes(self, step: TaskReport) -> Iterator[str]:
        # Attempts that another followed; what was shown as the step's end is not logged again.
        first = self._ended.get(step.name, 0)
        for number, attempt in enumerate(step.attempts[first:-1], first + 1):
            yield f"{step.name} {attempt_text(number, attempt)}"
        has_ended = step.state in ("failed", "cancelled")
        self._ended[step.name] = max(first, len(step.attempts) - (not has_ended))
        if step.state == "waiting" and step.attempts and step.attempts[-1].state == "failed":
            return  # for Argo to say whether there will be another
        if self._shown.get(step.name) != (text := step_text(step)):
            self._shown[step.name] = text
            pod = pod_of(step)
            yield f"{step.name} {text}" + (f" (pod {pod})" if pod and pod not in self._pods else "")
            self._pods.add(pod)
