"""How many runs are killed, and when: by a seed that is printed and can be given again."""

from __future__ import annotations

import math
import os
import random

# How many of the full number of runs are made: 1 for all, 0.1 for a tenth.
SHARE_VARIABLE = "SHUTTERLINE_KILLS"
SEED_VARIABLE = "SHUTTERLINE_KILL_SEED"


def settle_seed() -> int:
    """The seed that was given, or a new one, which processes started from here on share."""
    return int(os.environ.setdefault(SEED_VARIABLE, str(int.from_bytes(os.urandom(4)))))


def runs(number: int) -> range:
    """The numbers of a suite's runs, of which `number` make it whole; at least one.

    Raises:
        ValueError: The share in the environment is no number between 0 and 1.
    """
    share = float(os.environ.get(SHARE_VARIABLE, "1"))
    if not 0 < share <= 1:
        raise ValueError(f"{SHARE_VARIABLE} is {share}; it must be above 0 and at most 1")
    return range(max(1, math.ceil(number * share)))


def draws_of(suite: str, number: int) -> random.Random:
    """Where one run of a suite draws its moments from: the same for the same seed, whatever else runs."""
    return random.Random(f"{settle_seed()}/{suite}/{number}")  # noqa: S311 - moments, not secrets
