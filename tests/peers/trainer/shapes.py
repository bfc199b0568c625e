"""What a TrainJob's status is like: its keys and kinds of values, to compare one with a recorded one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_KEPT = ("node", "Complete", "True", "AllJobsCompleted")


def shape(value: Any) -> Any:
    """A status with the kind of each value instead of it, but for counts and names; of metrics the first one."""
    if isinstance(value, dict):
        return {key: shape(item[:1] if key == "metrics" else item) for key, item in value.items()}
    if isinstance(value, list):
        return [item if isinstance(item, dict) and "active" in item else shape(item) for item in value]
    return value if isinstance(value, bool) or value in _KEPT else type(value)


def distinct(shapes: Iterable[Any]) -> list[Any]:
    """Each once, in their order."""
    found: list[Any] = []
    for each in shapes:
        if each not in found:
            found.append(each)
    return found
