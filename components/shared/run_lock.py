"""The directory of a run on one machine: ``shutterline run`` holds its lock, and its steps end when that is released.

However the run ends, by itself, killed or hung up, the kernel releases the lock. It sees it in containers,
too, where a process number of outside means nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components.shared.errors import InputError
from components.shared.locks import HeldError, locked, remove_held, when_released
from components.shared.process_group import is_launched

RUN_LOCK_VARIABLE = "SHUTTERLINE_RUN_LOCK"  # set for the steps: the lock's file; empty: there is none
RUN_LOCK_FILE = ".shutterline-run"
# Steps of a run that was killed look at the lock for a moment while they notice that.
_PATIENCE_S = 1.0
_log = logging.getLogger("shutterline.step")
_watched: set[str] = set()


@contextmanager
def run_locked(out: Path) -> Iterator[Path | None]:
    """Hold the lock of a run's directory.

    Args:
        out: The directory, which is there.

    Yields:
        The lock's file; None where the file system has no locks.

    Raises:
        InputError: Another run is under way there.
        OSError: The directory cannot be written.
    """
    with ExitStack() as stack:
        try:
            is_locked = stack.enter_context(locked(out / RUN_LOCK_FILE, patience_s=_PATIENCE_S))
        except HeldError as error:
            raise InputError(
                f"--out {out}: {error} is running there; wait for its end, end it, or name another directory"
            ) from error
        if is_locked:
            stack.callback(remove_held, out / RUN_LOCK_FILE)  # while it is still locked
        yield out / RUN_LOCK_FILE if is_locked else None


def end_with_run() -> None:
    """From now on this process gets SIGTERM when the run that has started it is gone; for a step, at its start."""
    file = os.environ.get(RUN_LOCK_VARIABLE)
    main = threading.main_thread()
    if not file or file in _watched or main.ident is None or is_launched():  # a launched process ends with its launcher
        return
    _watched.add(file)
    number: int = main.ident

    def end() -> None:
        _log.warning("the run that started this step is gone (its lock, %s, is released), so the step ends", file)
        signal.pthread_kill(number, signal.SIGTERM)

    when_released(Path(file), end)
