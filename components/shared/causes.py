"""What is behind an error: libraries that make requests hand it on as a cause, a context, a reason or an argument."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error and all those that it came from, each once, the nearest first."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
