"""When to try again, for brokers, stores and platforms alike, and calls that may hang."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from components.shared.errors import InputError, RetryableError

# Its own: the state of Python's is part of a training's, and threads that wait for a broker must leave it alone.
_DRAWS = random.Random()  # noqa: S311 - spreads attempts, guards nothing

T = TypeVar("T")

# Seconds left for a call. They may become fewer at any moment, as when a step ends.
TimeLeft = Callable[[], float]


def countdown(seconds: float) -> TimeLeft:
    """The time left of so many seconds from now."""
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


def pause_s(failures: int, first_s: float, longest_s: float) -> float:
    """How long to wait after so many failures in a row, from 0: twice as long each time, with jitter."""
    longest = min(longest_s, first_s * 2 ** min(failures, 10))
    return _DRAWS.uniform(longest / 2, longest)


class OutOfTimeError(Exception):
    """The time for attempts is over; `error` is the last one's, and its text this one's."""

    def __init__(self, error: RetryableError, attempts: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts


def retried(
    attempt: Callable[[TimeLeft], T], seconds: float, pauses_s: tuple[float, float], longest_retry_after_s: float = 0.0
) -> T:
    """Make an attempt until it succeeds, or so many seconds are over; OutOfTimeError then, and without a last pause.

    Args:
        attempt: Gets the time left, and may raise RetryableError.
        seconds: For all attempts.
        pauses_s: The first pause after a failure, and the longest.
        longest_retry_after_s: How much longer a pause may be that the service asks for.
    """
    time_left = countdown(seconds)
    for failures in count():
        try:
            return attempt(time_left)
        except RetryableError as error:
            pause = max(pause_s(failures, *pauses_s), min(error.retry_after_s or 0.0, longest_retry_after_s))
            if pause >= time_left():
                raise OutOfTimeError(error, failures + 1) from error
            time.sleep(pause)
    raise AssertionError  # the loop has no end


def seconds_from(variable: str, default_s: float) -> float:
    """The seconds of an environment variable, for which to go on trying; InputError if it is no positive number."""
    text = os.environ.get(variable, "")
    try:
        seconds = float(text) if text else default_s
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{variable}: must be a number of seconds above 0; without it, it is {default_s:g}")
    return seconds


def retry_after_s(header: str) -> float | None:
    """The seconds of a Retry-After header; None where it names a date, is no number, or is not there."""
    # isdigit alone takes "²", of which float makes no number.
    return float(header) if header.isascii() and header.isdigit() else None


def bounded(call: Callable[[], T], within_s: float) -> T:
    """What a call returns or raises; its thread is left behind if it takes longer, and ends with the process.

    Raises:
        TimeoutError: It takes longer than `within_s` seconds.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    thread.join(within_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"takes longer than {within_s:g} s")
    return results[0]
