"""Status as lines of a step's log, for who follows it: ``status: {"type": …, "data": {…}}``, one an event.

Where ``SHUTTERLINE_STATUS=log`` a step prints its events so on standard error, and sends and keeps nothing itself: in
the pods of a TrainJob that a pipeline's training step has created, and whose events that step emits as its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, cast

from components.shared.errors import InputError, RetryableError
from components.shared.events.data import (
    KINDS,
    STATES,
    EventData,
    PipelineEnded,
    PipelineStarted,
    Subject,
    adapter,
    event_type,
    to_json,
)
from components.shared.events.delivery import TooLargeError
from components.shared.events.event import EncodedEvent
from components.shared.events.redaction import Redactor
from components.shared.retry import TimeLeft

STATUS_VARIABLE = "SHUTTERLINE_STATUS"
LOG = "log"  # its only value
STATUS_LINE = "status: "
# Longer lines are neither written nor read. An error's message of 4,000 characters takes at most 48 kB in ASCII.
LINE_LIMIT = 64 * 1024

_STDERR = 2


def is_status_logged() -> bool:
    """Whether this process's status goes to its log alone.

    Raises:
        InputError: The environment's variable has another value than ``log``.
    """
    named = os.environ.get(STATUS_VARIABLE, "")
    if named not in ("", LOG):
        raise InputError(
            f"{STATUS_VARIABLE}: must be {LOG} (status is printed as lines of the log, and sent to no broker), or not "
            f"be set, got {named[:100]!r}"
        )
    return named == LOG


def status_line(data: EventData) -> str:
    """An event as a line of a log, without its end."""
    subject: Subject = "pipeline" if isinstance(data, PipelineStarted | PipelineEnded) else "step"
    state = data.outcome if isinstance(data, PipelineEnded) else STATES[type(data)]
    return _line(event_type(subject, state), to_json(data, Redactor()))


def _line(kind: str, data: Any) -> str:
    return STATUS_LINE + json.dumps({"type": kind, "data": data}, allow_nan=False)  # in ASCII: a line everywhere


def event_of_line(line: str) -> EventData | None:
    """The event of a line of a step's log, with its end or without; None where the line is none, however it begins."""
    if not line.startswith(STATUS_LINE) or len(line) > LINE_LIMIT:
        return None
    try:
        document = json.loads(line.removeprefix(STATUS_LINE))
        _, subject, state = document["type"].split(".")
        data = adapter(KINDS[subject, state]).validate_python(document["data"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    is_whole = document["type"] == event_type(subject, state) and document.keys() == {"type", "data"}
    is_whole = is_whole and (not isinstance(data, PipelineEnded) or data.outcome == state)
    return cast("EventData", data) if is_whole else None


class LogTransport:
    """Prints events on standard error, each by one write, so that lines of several writers do not mix."""

    name = LOG
    address = "standard error"

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> int:
        """Print events; how many there were before one that is too long a line.

        Raises:
            RetryableError: Standard error takes nothing.
            TooLargeError: The first is too long.
        """
        for number, event in enumerate(events):
            document = json.loads(event.body)
            line = f"{_line(document['type'], document['data'])}\n".encode()
            if len(line) > LINE_LIMIT:
                if number:
                    return number
                raise TooLargeError(f"as a line of the log it has {len(line):,} bytes, more than {LINE_LIMIT:,}")
            try:
                while line:  # once, unless a signal comes in between
                    line = line[os.write(_STDERR, line) :]
            except OSError as error:
                raise RetryableError(f"{self.address}: {error.strerror}") from error
        return len(events)

    def close(self) -> None:
        """There is nothing to close."""
