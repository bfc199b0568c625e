"""The log lines of a step: time, step, message, on standard error."""

from __future__ import annotations

import logging
import re
import sys

from components.shared.events.redaction import redact
from components.shared.member import member, speaks

# What a line of ours looks like, so that a runner can tell it from what kfp prints around it.
LINE = re.compile(r"\d\d:\d\d:\d\d (?P<step>[a-z-]{4,9}) +(?:(?P<level>WARNING|ERROR) )?.*")

_ROOT = "shutterline"


def step_logger(step: str) -> logging.Logger:
    """The logger of one step."""
    return logging.getLogger(f"{_ROOT}.{step}")


def silence(name: str) -> None:
    """Keep a client's log off the terminal: it repeats every attempt, ours tells the change of state once."""
    logger = logging.getLogger(name)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        step = record.name.removeprefix(f"{_ROOT}.")
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        start = f"{self.formatTime(record, '%H:%M:%S')} {step:<9} {level}"
        rank = member().rank
        text = f"rank {rank}: {record.getMessage()}" if rank else record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        # A file name of bytes that are no text must not break whatever reads the log as UTF-8.
        return redact((start + text).encode("utf-8", "backslashreplace").decode("utf-8"))


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stderr is now, since runners and tests replace it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def log_to_stderr() -> None:
    """Print the log lines of every step; calling it again changes nothing.

    Of a group of processes the first tells what happens, the others only what is wrong.
    """
    root = logging.getLogger(_ROOT)
    root.setLevel(logging.INFO if speaks() else logging.WARNING)
    root.propagate = False  # kfp's executor configures the root logger and would print each line twice
    if not any(isinstance(handler, _StderrHandler) for handler in root.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_LineFormatter())
        root.addHandler(handler)
