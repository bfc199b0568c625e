"""What a pod's log becomes in the step that follows it: lines of its own log, and its own status."""

from __future__ import annotations

import logging
import sys
from datetime import datetime

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    Emit,
    Failed,
    Progress,
    StepStarted,
    Succeeded,
)
from components.shared.events.redaction import redact
from components.shared.events.status_lines import event_of_line
from components.shared.logs import LINE, printable
from components.shared.params.training_id import RESUMED, position
from components.train_job.pod_log import Line

_FAILED = "failed: "


class Relay:
    """Passes a pod's lines on, status lines as status.

    Attributes:
        end: How the pod's step ended, at its last start; None: it has not reported that.
        resumed_from: The checkpoint that its last start went on from.
    """

    def __init__(self, emit: Emit, log: logging.Logger, since: datetime | None) -> None:
        """With `since`, status of before is taken note of and not emitted: an earlier attempt has."""
        self._emit = emit
        self._log = log
        self._since = since
        self._held: list[str] = []  # lines of an error that may be what the step itself ends with
        self._saved: Checkpoint | None = None
        self.end: Succeeded | Failed | Cancelled | None = None
        self.resumed_from: str | None = None

    def take(self, line: Line) -> None:
        """Pass one line on."""
        data = event_of_line(line.text)
        if data is None:
            self._pass_on(line.text)
        elif isinstance(data, StepStarted):
            self._begin()
        elif isinstance(data, Succeeded | Failed | Cancelled):
            self.end = data
            if isinstance(data, Failed) and self._held_message() == data.error.message:
                self._held = []  # which the step itself ends with
            self.flush()
        else:
            self._saved = data if isinstance(data, Checkpoint) else self._saved
            if isinstance(data, Progress | Checkpoint) and not self._is_old(line.time):
                self._emit(data)

    def flush(self) -> None:
        """Pass on what was held back."""
        held, self._held = self._held, []
        for text in held:
            _print(text)

    def saved_in(self, checkpoints: object) -> str:
        """How far the training is saved, for people; empty: nothing is known of that."""
        saved = self._saved
        if saved is None:
            return ""
        is_end = saved.epoch >= saved.epochs and not saved.batch
        return f"{position(saved.epoch + 1, saved.batch, finished=is_end)} is saved in {checkpoints}"

    def _begin(self) -> None:
        """The pod's step has begun, perhaps again."""
        self.flush()
        if isinstance(self.end, Failed):
            self._log.warning("the training failed and is started again: %s", self.end.error.message)
        self.end = self.resumed_from = None

    def _pass_on(self, text: str) -> None:
        found = LINE.fullmatch(text)
        if found is not None and found["level"] == "ERROR":
            message = text.partition("ERROR ")[2]
            if message.startswith(_FAILED) or self._held:
                self._held.append(text)
                return
        self.flush()
        if found is not None and (position_of := text.partition(RESUMED)[2]):
            self.resumed_from = position_of
        _print(text)

    def _held_message(self) -> str:
        return "\n".join(text.partition("ERROR ")[2] for text in self._held).removeprefix(_FAILED)

    def _is_old(self, time: str) -> bool:
        return self._since is not None and bool(time) and datetime.fromisoformat(time) < self._since


def _print(text: str) -> None:
    """A line as the pod has written it; one that cannot be printed is lost, as with the log."""
    try:
        sys.stderr.write(redact(printable(text)) + "\n")
        sys.stderr.flush()
    except OSError:
        pass
