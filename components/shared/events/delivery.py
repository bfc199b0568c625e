"""How encoded events reach a broker: its face, a thread that delivers to each, and one that writes the spools.

A broker is sent a window of events and waited for before the next one, so that the order is kept whatever fails. An
event that it refuses for its size is counted and passed over. Neither another broker's trouble nor the disk's delays a
delivery, and none of it delays `emit`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.event import EncodedEvent
from components.shared.events.redaction import redact
from components.shared.events.spool import Spool
from components.shared.retry import TimeLeft, countdown, pause_s

# Long enough for a handshake on a connection with round trips of two seconds.
_ATTEMPT_S = 30.0
_DISK_RETRY_S = 1.0
# So many refusals in a row after the end was asked for are enough.
_LAST_REFUSALS = 5
PAUSES_S = (0.1, 5.0)  # the first after a failure, and the longest


class TooLargeError(Exception):
    """The broker refuses the first event of a window for its size; those behind it may be taken."""


class Transport(Protocol):
    """One broker. Used by one thread at a time; nothing is opened before the first call of `send`.

    Attributes:
        name: ``kafka`` or ``pubsub``; the key of reports and ledgers.
        address: Broker and topic, for people.
    """

    name: str
    address: str

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> int:
        """Hand over a window of one run's events in order; how many, from the first, the broker has: one at least.

        Raises:
            RetryableError: It has none of them, and may take them later.
            StatusRefusedError: It takes none until somebody changes a setting.
            TooLargeError: It refuses the first for its size.
        """
        ...

    def close(self) -> None:
        """Close the connection without waiting for the broker."""
        ...


class DeliveryControl:
    """What the threads of one stream or replay share: that something changed, and until when to go on."""

    def __init__(self, *, is_complete: bool = False) -> None:
        self.changes = 0
        self.is_complete = is_complete
        self._changed = threading.Condition()
        self._deadline: float | None = None

    def notify(self, *, is_complete: bool = False) -> None:
        """Wake the threads: there are more events, or some were delivered, or no further one will come."""
        with self._changed:
            self.changes += 1
            self.is_complete |= is_complete
            self._changed.notify_all()

    def end_within(self, seconds: float) -> None:
        """Ask for an end: so many seconds from now nobody waits any more."""
        self._deadline = time.monotonic() + seconds
        self.notify()

    @property
    def is_ending(self) -> bool:
        """Whether an end was asked for."""
        return self._deadline is not None

    @property
    def remaining_s(self) -> float:
        """Seconds left; infinite before an end is asked for."""
        return float("inf") if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def wait_for(self, condition: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait until a condition holds, at most so long."""
        with self._changed:
            self._changed.wait_for(condition, timeout_s)


class Delivery(threading.Thread):
    """Delivers spools to one broker, until it has everything or the time is over.

    Attributes:
        spools: Those of earlier steps, then our own, which still grows.
        answered: Set after the first attempt, whatever came of it.
        is_done: Whether it no longer uses the spools.
        trouble: Why the broker did not take the last window; None if it did.
    """

    def __init__(
        self, transport: Transport, spools: Sequence[Spool], control: DeliveryControl, log: logging.Logger
    ) -> None:
        super().__init__(name=f"status-{transport.name}", daemon=True)
        self.transport = transport
        self.spools = spools
        self.answered = threading.Event()
        self.is_done = False
        self.trouble: Exception | None = None
        self._control = control
        self._log = log
        self._failures = self._last_refusals = 0  # in a row
        self._too_large = ""

    def run(self) -> None:
        """Deliver one spool after another."""
        try:
            for spool in self.spools:
                if not self._deliver(spool):
                    break
        finally:
            self.answered.set()
            self.transport.close()
            self.is_done = True
            self._control.notify()

    def reason(self, spool: Spool) -> str | None:
        """Why the broker does not have all events of a spool; None if it does."""
        undelivered, too_large = spool.undelivered(self.transport.name), spool.too_large(self.transport.name)
        reasons = [f"{too_large} too large: {self._too_large}"] if too_large else []
        if undelivered > too_large:
            reasons.append(str(self.trouble or "no answer in time"))
        return redact("; ".join(reasons)) if reasons else None

    def _deliver(self, spool: Spool) -> bool:
        """Deliver a spool to its end; False if the time is over before."""
        name, is_own = self.transport.name, spool is self.spools[-1]
        while True:
            position = spool.position(name)
            if is_own:
                self._control.wait_for(lambda known=position: spool.count > known or self._control.is_complete)  # type: ignore[misc]
            if position == spool.count:
                return True
            if self._control.remaining_s <= 0:
                return False
            trouble: Exception | None = None
            try:
                events = spool.read(position)
            except OSError as error:
                self._note(RetryableError(f"{spool.path}: {error.strerror}"))
                if not is_own or not self._pause():  # an earlier step's is passed over
                    return not is_own
                continue
            try:
                # Of a damaged line nothing is sent.
                spool.advance(name, position + (self.transport.send(events, self._time_left()) if events else 1))
            except TooLargeError as error:
                self._pass_over(spool, position, events[0], str(error))
            except (RetryableError, StatusRefusedError) as error:
                trouble = error
            except Exception as error:  # a client's defect must cost nobody a training
                trouble = RetryableError(f"{self.transport.address}: {type(error).__name__}: {error}")
            if events:
                self._note(trouble)
            self._control.notify()
            if trouble is not None and not self._pause():
                return False

    def _pass_over(self, spool: Spool, position: int, event: EncodedEvent, reason: str) -> None:
        spool.pass_over(self.transport.name, position)
        if not self._too_large:
            self._log.warning("%s: %s; it stays in the spool, and others are sent", event.attributes["id"], reason)
        self._too_large = reason

    def _time_left(self) -> TimeLeft:
        attempt = countdown(_ATTEMPT_S)
        return lambda: min(attempt(), self._control.remaining_s)

    def _note(self, trouble: Exception | None) -> None:
        """Log a change of the broker's state, once; the first answer is logged by `Status.check`."""
        before, self.trouble = self.trouble, trouble
        if self.answered.is_set():
            if trouble is not None and before is None:
                self._log.warning("%s; status waits in the spool", trouble)
            elif trouble is None and before is not None:
                self._log.info("%s is back", self.transport.address)
        self.answered.set()
        if trouble is None:
            self._failures = self._last_refusals = 0

    def _pause(self) -> bool:
        """Back off, until the end is asked for; False if trying again is no use."""
        is_ending, is_refused = self._control.is_ending, isinstance(self.trouble, StatusRefusedError)
        self._last_refusals = self._last_refusals + 1 if is_ending and is_refused else 0
        if self._last_refusals >= _LAST_REFUSALS:
            return False  # nobody changes a setting in the time that is left
        first_s, longest_s = PAUSES_S
        pause = pause_s(self._failures, longest_s if is_refused else first_s, longest_s)
        self._failures += 1
        if is_ending:
            pause = min(pause, 0.2, self._control.remaining_s)
        self._control.wait_for(lambda: self._control.is_ending is not is_ending, pause)
        return self._control.remaining_s > 0


class SpoolWriter(threading.Thread):
    """Writes spools and their ledgers to disk as they change, and closes them when no delivery uses them any more."""

    def __init__(
        self, spools: Sequence[Spool], deliveries: Sequence[Delivery], control: DeliveryControl, log: logging.Logger
    ) -> None:
        super().__init__(name="status-spool", daemon=True)
        self._spools = spools
        self._deliveries = deliveries
        self._control = control
        self._log = log

    def run(self) -> None:
        """Write until no event can come, and every delivery has ended."""
        has_logged = is_over = False
        while not is_over:
            changes = self._control.changes
            # Before the last write: what is complete by then is written whole.
            is_over = self._control.is_complete and all(each.is_done for each in self._deliveries)
            for spool in self._spools:
                spool.write()
                if spool.trouble is not None and not has_logged:
                    has_logged = True
                    message = "the spool %s takes nothing (%s); status is kept in memory"
                    self._log.warning(message, spool.path, spool.trouble)
            if not is_over:
                self._control.wait_for(lambda known=changes: self._control.changes != known, _DISK_RETRY_S)  # type: ignore[misc]
        for spool in self._spools:
            spool.close()
