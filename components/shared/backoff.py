"""How long to wait before the next attempt, for brokers and stores alike."""

from __future__ import annotations

import random


def pause_s(failures: int, first_s: float, longest_s: float) -> float:
    """How long to wait after so many failures in a row, from 0: twice as long each time, with jitter."""
    longest = min(longest_s, first_s * 2 ** min(failures, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads attempts, guards nothing
