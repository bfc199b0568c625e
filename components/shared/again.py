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
_OF_CONTAINERS = ("/.dockerenv", "/run/.containerenv")
_ENDINGS = {EXIT_INTERRUPTED: "interrupted", EXIT_TERMINATED: "terminated"}


def last_lines(exit_code: int, saved: str, prog: str, argv: Sequence[str] | None, *added: str) -> tuple[str, str]:
    """What is said, and the command, which is empty where this process does not know it.

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
    """Whether an exit code is that of a command that was told to end."""
    return exit_code in _ENDINGS


def _command(prog: str, argv: Sequence[str] | None, added: Sequence[str]) -> str:
    """The command as a shell takes it; empty where this process does not know it."""
    if in_group() or _is_a_containers_own():
        return ""
    if argv is not None:
        return " ".join([prog, shlex.join([*_going_on(argv), *added])])
    words = sys.orig_argv
    if len(words) > 1 and not words[1].startswith("-") and os.access(words[1], os.X_OK):
        words = words[1:]  # a script that names its interpreter
    return shlex.join([*_going_on(words), *added])


def _is_a_containers_own() -> bool:
    """Whether the engine started this process, or its init did: in the container nobody knows the command for that."""
    in_container = "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(file).exists() for file in _OF_CONTAINERS)
    return in_container and 1 in (os.getpid(), os.getppid())


def _going_on(words: Sequence[str]) -> list[str]:
    """Without what would remove what is saved."""
    return [word for word in words if word != "--start-over"]
