"""The last lines of a command that was interrupted: what is saved, and the command that goes on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from components.shared.process_group import in_group
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED

NOTHING_SAVED = "nothing was saved yet"
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
_ENDINGS = {EXIT_INTERRUPTED: "interrupted", EXIT_TERMINATED: "terminated"}


def last_lines(exit_code: int, saved: str, prog: str, argv: Sequence[str] | None, *added: str) -> tuple[str, str]:
    """The last line, and the command, which is empty where this process does not know it.

    Args:
        exit_code: The command's: 130 or 143.
        saved: What is saved, and where; empty: nothing.
        prog: The command, where `argv` is given.
        argv: Its arguments; None: this process's own.
        added: Arguments that it needs besides, to find what is saved.
    """
    command = _command(prog, argv, added)
    how = f"{'go on' if saved else 'start again'} by:" if command else "start it again with the same options"
    return f"{_ENDINGS[exit_code]}; {saved or NOTHING_SAVED}; {how}", command


def is_interrupted(exit_code: int) -> bool:
    """Whether an exit code is that of a command that a signal ended."""
    return exit_code in _ENDINGS


def _command(prog: str, argv: Sequence[str] | None, added: Sequence[str]) -> str:
    in_container = "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(file).exists() for file in _CONTAINER_FILES)
    # Where the engine, or its init, started this process, nobody in the container knows the command for that.
    if in_group() or (in_container and 1 in (os.getpid(), os.getppid())):
        return ""
    parts = [prog, *argv] if argv is not None else sys.orig_argv
    if argv is None and len(parts) > 1 and not parts[1].startswith("-") and os.access(parts[1], os.X_OK):
        parts = parts[1:]  # a script that names its interpreter
    # --start-over would remove what is saved; `prog` may have spaces.
    first, *rest = [part for part in parts if part != "--start-over"]
    return f"{first if argv is not None else shlex.quote(first)} {shlex.join([*rest, *added])}".rstrip()
