"""How long to wait before the next attempt, for brokers and stores alike."""

from __future__ import annotations

import os
import random

from components.shared.errors import InputError

# Its own: the state of Python's is part of a training's, and threads that wait for a broker must leave it alone.
_DRAWS = random.Random()  # noqa: S311 - spreads attempts, guards nothing


def pause_s(failures: int, first_s: float, longest_s: float) -> float:
    """How long to wait after so many failures in a row, from 0: twice as long each time, with jitter."""
    longest = min(longest_s, first_s * 2 ** min(failures, 10))
    return _DRAWS.uniform(longest / 2, longest)


def seconds_from(variable: str, default_s: float) -> float:
    """The seconds of an environment variable, for which to go on trying.

    Raises:
        InputError: It is no positive number.
    """
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
