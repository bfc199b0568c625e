"""The log lines of a step: time, step, message, on standard error."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap

from components.shared.events.redaction import redact
from components.shared.process_group import is_rank_zero, member

# The form of our lines, by which a runner knows them among what kfp prints.
LINE = re.compile(r"\d\d:\d\d:\d\d (?P<step>[a-z-]{4,9}) +(?:(?P<level>WARNING|ERROR) )?.*")

_ROOT = "shutterline"
_COMMAND = re.compile(r"`[^`]+`")
# What moves the cursor, colours, hides or turns text round: C0 but the newline, DEL, C1, line ends and bidi controls.
_CONTROLS = re.compile(r"[\x00-\t\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def step_logger(step: str) -> logging.Logger:
    """The logger of one step."""
    return logging.getLogger(f"{_ROOT}.{step}")


def silence(name: str) -> None:
    """Keep a client's log off the terminal: it repeats every attempt, ours has the change of state once."""
    logger = logging.getLogger(name)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def printable(text: str) -> str:
    """A message with its control characters, which names in files may hold, written as escapes; newlines stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def fitted(text: str, columns: int, indent: str = "    ") -> str:
    """A log line as lines of at most so many characters, broken between parts that two spaces divide, else words.

    A word that is longer than a line, such as a path that somebody copies, stays whole, and so does a command between
    backticks.
    """
    if len(text) <= columns:
        return text
    text = _COMMAND.sub(lambda found: found[0].replace(" ", "\0"), text)
    # What is short may end a line early; prose is filled.
    *parts, last = re.split(r"(?<=\S)  (?=\S)", text)
    lines = [parts[0] if parts else ""]
    for part in [*parts[1:], last]:
        if len(joined := f"{lines[-1]}  {part}" if lines[-1] else part) <= columns:
            lines[-1] = joined
        elif len(indent) + len(part) <= columns and len(lines[-1]) > columns // 3:
            lines.append(indent + part)
        else:
            lines[-1:] = textwrap.wrap(
                joined, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
    return "\n".join(lines).replace("\0", " ")


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        step = record.name.removeprefix(f"{_ROOT}.")
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        start = f"{self.formatTime(record, '%H:%M:%S')} {step:<9} {level}"
        rank = member().rank
        text = f"rank {rank}: {record.getMessage()}" if rank else record.getMessage()
        text = text.replace("\n", f"\n{start}")  # by which a reader of the steps' lines alone knows it for one
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        # A file name of bytes that are no text must not break whatever reads the log as UTF-8.
        line, *more = redact(printable(start + text).encode("utf-8", "backslashreplace").decode("utf-8")).split("\n")
        return "\n".join([for_stderr(line), *more])


def for_stderr(line: str) -> str:
    """A line as it is for standard error: broken where that is a terminal, and not as wide."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (AttributeError, OSError, ValueError):  # no terminal
        return line
    return fitted(line, columns) if columns else line


def open_standard_streams() -> None:
    """Open descriptors 0, 1 and 2 and `sys.stderr` where they are closed, so that no other file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        if not isinstance(sys.exc_info()[1], OSError):  # which only this stream could report
            super().handleError(record)


def log_to_stderr() -> None:
    """Print every step's log lines, of a group's other processes the warnings; calling it again changes nothing."""
    open_standard_streams()
    root = logging.getLogger(_ROOT)
    root.setLevel(logging.INFO if is_rank_zero() else logging.WARNING)
    root.propagate = False  # kfp's executor configures the root logger and would print each line twice
    if not any(isinstance(handler, _StderrHandler) for handler in root.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_LineFormatter())
        root.addHandler(handler)
