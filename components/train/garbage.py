"""When Python looks for garbage in a process that trains."""

from __future__ import annotations

import gc

# New objects between two looks, instead of 700: importing torch makes half a million that stay, and takes a fifth less.
_OBJECTS = 100_000


def collect_rarely() -> None:
    """Have this process look for cyclic garbage rarely; for processes that are a step's own, not a library's."""
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
