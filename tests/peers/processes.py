"""Stopping a process so that it has stopped, and not merely been told to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def freeze(pid: int, timeout: float = 300.0) -> None:
    """SIGSTOP, and return once every thread stands still; one may have been in the midst of an answer.

    Raises:
        TimeoutError: Some thread goes on.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + timeout
    while any(_state(task) != "T" for task in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not stop")
        time.sleep(0.001)


def _state(task: Path) -> str:
    # The name in front, in parentheses, may hold anything.
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
