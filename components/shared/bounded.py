"""A call that may hang, waited for no longer than it is worth."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


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
