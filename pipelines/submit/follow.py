"""A run that is followed until it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass

from components.shared.command import tell
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError, PlatformRefusedError, PlatformUnavailableError
from components.shared.signals import EXIT_INTERRUPTED
from pipelines.submit.patience import Patience
from pipelines.submit.platform import DONE, Platform, Progress, Submitted

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 15.0
_GROWTH = 1.3  # from 2 s to 15 s within a minute and a half


@dataclass(frozen=True)
class Followed:
    """How the following ended.

    Attributes:
        progress: The last that was heard of the run.
        exit_code: 0 it succeeded, 1 it did not or time was up, 130 Ctrl-C.
        status: The run's state; or ``timeout``, ``interrupted``: then the run goes on.
    """

    progress: Progress
    exit_code: int
    status: str


def follow(platform: Platform, run: Submitted, timeout_s: float | None) -> Followed:
    """Tell every change of a run's and its tasks' states on standard error until it is done.

    An outage of the platform is told once, when it begins, and waited for.

    Args:
        platform: Where the run is.
        run: Which.
        timeout_s: For how many seconds at most, and one more for a last look; None: for as long as it takes.

    Raises:
        InputError: The platform tells nothing any more, such as when a token has expired.
    """
    last = Progress("unknown", {})
    end = None if timeout_s is None else time.monotonic() + timeout_s
    pause, away = _FIRST_PAUSE_S, False

    def failed(why: str) -> None:
        nonlocal away
        if not away:
            tell(f"{why}; {run.name} is asked for again")
        away = True

    try:
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                now = platform.progress(run.id, Patience(left, failed))
            except InputError as error:
                raise PlatformRefusedError(f"{error}; {run.name} goes on: {run.url}") from error
            except PlatformUnavailableError as error:
                failed(str(error))  # one that is not worth another attempt at once
            else:
                if away:
                    tell("the platform answers again")
                away = False
                if _told(run.name, last, now):
                    pause = _FIRST_PAUSE_S
                last = now
                if now.state in DONE:
                    return _done(run, now)
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                tell(f"error: {run.name} is not done after {timeout_s:g} s (--timeout); it goes on: {run.url}")
                return Followed(last, EXIT_FAILURE, "timeout")
            time.sleep(pause if left is None else min(pause, left))
            pause = min(_LONGEST_PAUSE_S, pause * _GROWTH)
    except KeyboardInterrupt:
        tell(f"no longer followed; {run.name} goes on: {run.url}")
        return Followed(last, EXIT_INTERRUPTED, "interrupted")


def _told(name: str, before: Progress, now: Progress) -> bool:
    """Tell what changed; whether anything did."""
    lines = [f"{task} {state}" for task, state in now.tasks.items() if before.tasks.get(task) != state]
    if now.state != before.state:
        lines.append(f"{name} {now.state}")
    for line in lines:
        tell(f"{time.strftime('%H:%M:%S')} {line}")
    return bool(lines)


def _done(run: Submitted, progress: Progress) -> Followed:
    if progress.state == "succeeded":
        return Followed(progress, EXIT_OK, progress.state)
    why = f": {progress.error}" if progress.error else "; the platform does not say why"
    tell(f"error: {run.name} {progress.state}{why}; see {run.url}")
    return Followed(progress, EXIT_FAILURE, progress.state)
