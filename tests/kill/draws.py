"""How many runs are killed, and when: by a seed that is printed and can be given again."""

from __future__ import annotations

import math
import os
import random

SHARE_VARIABLE = "SHUTTERLINE_KILLS"
SEED_VARIABLE = "SHUTTERLINE_KILL_SEED"


def settle_seed() -> int:
    return int(os.environ.setdefault(SEED_VARIABLE, str(int.from_bytes(os.urandom(4)))))


def runs(number: int) -> range:
    share = float(os.environ.get(SHARE_VARIABLE, "1"))
    if not 0 < share <= 1:
        raise ValueError(f"{SHARE_VARIABLE} is {share}; it must be above 0 and at most 1")
    return range(max(1, math.ceil(number * share)))


def draws_of(suite: str, number: int) -> random.Random:
    return random.Random(f"{settle_seed()}/{suite}/{number}")  # noqa: S311 - moments, not secrets
