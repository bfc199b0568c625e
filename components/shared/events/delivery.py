"""A courier brings one broker the events of its spools, in order, in a thread of its own.

A window of events is sent and waited for before the next one, so the order is kept whatever fails; while it is under
way the next window fills. An event that the broker refuses for its size is set aside in the spool's ledger, and those
behind it go on. One broker's trouble therefore never delays the other's courier, nor whoever emits.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence

from components.shared.backoff import pause_s
from components.shared.events.event import EncodedEvent, EventError
from components.shared.events.redaction import redact
from components.shared.events.spool import Spool
from components.shared.events.transport import (
    DeliveryError,
    RefusedError,
    RetryableError,
    TimeLeft,
    TooLargeError,
    Transport,
    countdown,
)

# Long enough for a handshake on a connection with round trips of two seconds.
_ATTEMPT_S = 30.0
# How often to look for events that nobody tells of, because the disk of the spool hangs.
_LOOK_S = 1.0
# So many refusals in a row, while the end is waited for, are enough.
_LAST_REFUSALS = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class Signal:
    """What the emitting side tells its couriers: that there is more, and until when to go on."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.complete = False
        self.deadline: float | None = None

    def more(self) -> None:
        """There are new events."""
        with self.changed:
            self.changed.notify_all()

    def end_by(self, deadline: float) -> None:
        """The time (``time.monotonic``) after which nobody waits any more."""
        with self.changed:
            self.deadline = deadline
            self.changed.notify_all()

    def no_more(self) -> None:
        """The spool is complete."""
        with self.changed:
            self.complete = True
            self.changed.notify_all()

    @property
    def remaining_s(self) -> float:
        """Seconds left; infinite while nobody has asked for an end."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


class Courier(threading.Thread):
    """Delivers spools to one broker.

    Args:
        transport: The broker.
        spools: Those of earlier steps, then our own, which still grows.
        signal: From the emitting side.
        log: Gets a line when the broker's state changes, and for the first event that is set aside.
        on_end: Called when it is done with the spools.
        again: Whether to try events, too, that were set aside earlier.

    Attributes:
        answered: Set after the first attempt, whatever came of it.
        trouble: What the broker said last; None after it took something.
    """

    def __init__(
        self,
        transport: Transport,
        spools: Sequence[Spool],
        signal: Signal,
        log: logging.Logger,
        on_end: Callable[[], None] | None = None,
        *,
        again: bool = False,
    ) -> None:
        super().__init__(name=f"status-{transport.name}", daemon=True)
        self.transport = transport
        self.answered = threading.Event()
        self.trouble: DeliveryError | None = None
        self._spools = spools
        self._signal = signal
        self._log = log
        self._on_end = on_end
        self._again = again
        self._has_told_of_aside = False
        self._quiet = True  # the first trouble is told by whoever waits for the answer

    def run(self) -> None:
        """Deliver until everything is there or the time is over."""
        try:
            for spool in self._spools:
                if self._again and not self._deliver_aside(spool):
                    return
                while True:
                    start = spool.ledger.delivered(self.transport.name)
                    lines = self._read(spool, start)
                    if lines:
                        if not self._deliver(spool, start, lines):
                            return
                    elif spool is not self._spools[-1] or not self._wait_for_more(spool, start):
                        break
        finally:
            self.answered.set()
            self.transport.close()
            if self._on_end is not None:
                self._on_end()

    def _read(self, spool: Spool, start: int) -> list[bytes]:
        """The next window of a spool; a file that cannot be read is tried again, an earlier step's is passed over."""
        failures = 0
        while True:
            try:
                return spool.log.read(start)
            except OSError as error:
                self._note(RetryableError(f"{spool.path}: {error.strerror}"))
                if spool is not self._spools[-1] or self._signal.remaining_s <= 0:
                    return []
                self._pause(failures)
                failures += 1

    def _wait_for_more(self, own: Spool, position: int) -> bool:
        """Whether our own spool has more events than up to a position; waits until that is known."""
        with self._signal.changed:
            while not (self._signal.complete or own.log.end > position or self._signal.remaining_s <= 0):
                self._signal.changed.wait(_LOOK_S)
        return own.log.end > position and self._signal.remaining_s > 0

    def why_not(self, spool: Spool, undelivered: int) -> str | None:
        """Why the broker does not have so many events of a spool, for people; None if there are none."""
        aside = len(spool.ledger.aside(self.transport.name))
        reasons = [f"{aside} set aside: {spool.ledger.why_aside(self.transport.name)}"] if aside else []
        if undelivered > aside:
            reasons.append(str(self.trouble or "no answer in time"))
        return redact("; ".join(reasons)) if reasons else None

    def _deliver_aside(self, spool: Spool) -> bool:
        """Send again, one by one, what was set aside; False if the time is over before."""
        return all(
            self._deliver(spool, start, self._read(spool, start)[:1], again=True)
            for start in spool.ledger.aside(self.transport.name)
        )

    def _deliver(self, spool: Spool, start: int, lines: list[bytes], *, again: bool = False) -> bool:
        """Send a window, or what was set aside, until the broker has it; False if the time is over before.

        Args:
            spool: Where the lines are from.
            start: Offset of the first one.
            lines: Whole ones.
            again: Whether they were set aside.
        """
        name, ledger = self.transport.name, spool.ledger
        failures = refusals = 0
        # A line that is no event, which only a damaged spool has, is passed over with the event before it.
        window = [(line, _event(line)) for line in lines]
        while window:
            if self._signal.remaining_s <= 0:
                return False
            events = [event for _, event in window if event is not None]
            taken, trouble = len(events), None
            try:
                if events:
                    self.transport.send(events, self._patience())
            except DeliveryError as error:
                taken, trouble = error.delivered, error
            except Exception as error:  # a client's defect must cost nobody a training
                taken, trouble = 0, RetryableError(f"{self.transport.address}: {type(error).__name__}: {error}")
            done = _lines_of(window, taken)
            if done:
                if again:
                    ledger.take_back(name, start)
                start += sum(len(line) for line, _ in window[:done])
                if not again:
                    ledger.advance(name, start)
                window = window[done:]
            if isinstance(trouble, TooLargeError) and window:
                (line, _), *window = window
                self._set_aside(spool, start, line, trouble)
                start, trouble = start + len(line), None
            self._note(trouble)
            ending = self._signal.deadline is not None
            refusals = refusals + 1 if ending and isinstance(trouble, RefusedError) else 0
            if refusals >= _LAST_REFUSALS:
                return False  # nobody changes a setting in the time that is left
            if trouble is not None:
                self._pause(failures)
                failures += 1
        return True

    def _set_aside(self, spool: Spool, start: int, line: bytes, trouble: TooLargeError) -> None:
        """Let an event stay in the spool that the broker refuses."""
        spool.ledger.set_aside(self.transport.name, start, start + len(line), str(trouble))
        if not self._has_told_of_aside:
            self._has_told_of_aside = True
            self._log.warning(
                "%s: %s; it stays in the spool, and other events are delivered",
                json.loads(line)["id"],
                trouble,
            )

    def _patience(self) -> TimeLeft:
        """For one attempt."""
        attempt = countdown(_ATTEMPT_S)
        return lambda: min(attempt(), self._signal.remaining_s)

    def _note(self, trouble: DeliveryError | None) -> None:
        """Tell a change of the broker's state, once."""
        before, self.trouble = self.trouble, trouble
        if not self._quiet:
            if trouble is not None and before is None:
                self._log.warning("%s; status waits in the spool", trouble)
            elif trouble is None and before is not None:
                self._log.info("%s is back", self.transport.address)
        self._quiet = False
        self.answered.set()

    def _pause(self, failures: int) -> None:
        """Exponential backoff with jitter; ends early when the end is asked for."""
        first = _LONGEST_PAUSE_S if isinstance(self.trouble, RefusedError) else _FIRST_PAUSE_S
        pause = pause_s(failures, first, _LONGEST_PAUSE_S)
        with self._signal.changed:
            ending = self._signal.deadline is not None
            limit = min(pause, 0.2, max(0.0, self._signal.remaining_s)) if ending else pause
            self._signal.changed.wait_for(lambda: not ending and self._signal.deadline is not None, limit)


def _lines_of(window: Sequence[tuple[bytes, EncodedEvent | None]], events: int) -> int:
    """How many lines the first events of a window are, with the damaged ones that follow them."""
    for number, (_, event) in enumerate(window):
        if event is not None:
            if events == 0:
                return number
            events -= 1
    return len(window)


def _event(line: bytes) -> EncodedEvent | None:
    """A spooled line as it is sent; None for a line that is no event, which only a damaged spool has."""
    try:
        return EncodedEvent.from_body(line.rstrip(b"\n"))
    except EventError:
        return None
