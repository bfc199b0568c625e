"""The threads behind a step's events: one that delivers for each broker, and one that writes the spools.

A broker is sent a window of events and waited for before the next one, so that the order is kept whatever fails. An
event that it refuses for its size is set aside in the spool's ledger, and those behind it are delivered. Neither
another broker's trouble nor the disk's delays a delivery, and none of it delays `emit`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from components.shared.events.event import EncodedEvent
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
from components.shared.retry import pause_s

# Long enough for a handshake on a connection with round trips of two seconds.
_ATTEMPT_S = 30.0
# How often a full disk is tried again, and whether a delivery that nobody waits for any more has ended.
_DISK_RETRY_S = 1.0
# So many refusals in a row after the end was asked for are enough.
_LAST_REFUSALS = 5
PAUSES_S = (0.1, 5.0)  # the first after a failure, and the longest


class DeliveryControl:
    """What the threads of one stream or replay share: that something changed, and until when to go on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.is_complete = False
        self._deadline: float | None = None

    def notify(self, *, is_complete: bool = False) -> None:
        """Wake the threads: there are more events, or some were delivered; complete: no further event will come."""
        with self._changed:
            self.is_complete |= is_complete
            self._changed.notify_all()

    def end_within(self, seconds: float) -> None:
        """Ask for an end: so many seconds from now nobody waits any more."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()

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
    """Delivers spools to one broker.

    Args:
        transport: The broker.
        spools: Those of earlier steps, then our own, which still grows.
        control: Shared with the thread that adds events.
        log: Gets a line when the broker's state changes, and for the first event that is set aside.
        retry_set_aside: Whether to try events, too, that were set aside earlier.

    Attributes:
        answered: Set after the first attempt, whatever came of it.
        is_done: Whether it no longer uses the spools.
        trouble: Why the broker did not take the last window; None if it did.
    """

    def __init__(
        self,
        transport: Transport,
        spools: Sequence[Spool],
        control: DeliveryControl,
        log: logging.Logger,
        *,
        retry_set_aside: bool = False,
    ) -> None:
        super().__init__(name=f"status-{transport.name}", daemon=True)
        self.transport = transport
        self.spools = spools
        self.answered = threading.Event()
        self.is_done = False
        self.trouble: DeliveryError | None = None
        self._control = control
        self._log = log
        self._retry_set_aside = retry_set_aside
        self._failures = self._last_refusals = 0  # in a row
        self._has_logged_set_aside = False

    def run(self) -> None:
        """Deliver until the broker has everything or the time is over."""
        try:
            for spool in self.spools:
                if not (self._deliver_set_aside(spool) and self._deliver(spool)):
                    return
        finally:
            self.answered.set()
            self.transport.close()
            self.is_done = True
            self._control.notify()

    def reason(self, spool: Spool) -> str | None:
        """Why the broker does not have all events of a spool; None if it does."""
        undelivered, set_aside = spool.undelivered(self.transport.name), len(spool.set_aside(self.transport.name))
        reasons = [f"{set_aside} set aside: {spool.why_set_aside(self.transport.name)}"] if set_aside else []
        if undelivered > set_aside:
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
            try:
                events, numbers = spool.read(position)
            except OSError as error:
                self._note(RetryableError(f"{spool.path}: {error.strerror}"))
                if not is_own:  # an earlier step's is passed over
                    return True
                if not self._pause():
                    return False
                continue
            if not events:
                spool.advance(name, numbers[-1])
            elif not self._send(spool, events, numbers):
                return False

    def _deliver_set_aside(self, spool: Spool) -> bool:
        """Send again, one by one, what was set aside; False if the time is over before."""
        for number in spool.set_aside(self.transport.name) if self._retry_set_aside else ():
            try:
                events, _ = spool.read(number)
            except OSError as error:
                self._note(RetryableError(f"{spool.path}: {error.strerror}"))
                return True
            if not self._send(spool, events[:1], [number, number + 1], is_retry=True):
                return False
        return True

    def _send(self, spool: Spool, events: list[EncodedEvent], numbers: list[int], *, is_retry: bool = False) -> bool:
        """Send a window, or one event that was set aside, until the broker has it; False if the time is over before."""
        name, done = self.transport.name, 0
        while done < len(events):
            if self._control.remaining_s <= 0:
                return False
            trouble: DeliveryError | None = None
            try:
                self.transport.send(events[done:], self._time_left())
                done = len(events)
            except DeliveryError as error:
                done, trouble = min(done + error.delivered, len(events)), error
            except Exception as error:  # a client's defect must cost nobody a training
                trouble = RetryableError(f"{self.transport.address}: {type(error).__name__}: {error}")
            if not is_retry:
                spool.advance(name, numbers[done])
            elif done:
                spool.remove_set_aside(name, numbers[0])
            if isinstance(trouble, TooLargeError) and done < len(events):
                self._set_aside(spool, numbers[done], events[done], trouble)
                done, trouble = done + 1, None
            self._note(trouble)
            self._control.notify()
            if trouble is not None and not self._pause():
                return False
        return True

    def _set_aside(self, spool: Spool, number: int, event: EncodedEvent, trouble: TooLargeError) -> None:
        spool.add_set_aside(self.transport.name, number, str(trouble))
        if not self._has_logged_set_aside:
            self._has_logged_set_aside = True
            self._log.warning(
                "%s: %s; it stays in the spool, and other events are delivered", event.attributes["id"], trouble
            )

    def _time_left(self) -> TimeLeft:
        attempt = countdown(_ATTEMPT_S)
        return lambda: min(attempt(), self._control.remaining_s)

    def _note(self, trouble: DeliveryError | None) -> None:
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
        is_ending, is_refused = self._control.is_ending, isinstance(self.trouble, RefusedError)
        self._last_refusals = self._last_refusals + 1 if is_ending and is_refused else 0
        if self._last_refusals >= _LAST_REFUSALS:
            return False  # nobody changes a setting in the time that is left
        first_s, longest_s = PAUSES_S
        pause = pause_s(self._failures, longest_s if is_refused else first_s, longest_s)
        self._failures += 1
        self._control.wait_for(
            lambda: self._control.is_ending is not is_ending,
            min(pause, 0.2, self._control.remaining_s) if is_ending else pause,
        )
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
        self._has_logged_trouble = False

    def run(self) -> None:
        """Write until no event can come, and every delivery has ended."""
        while True:
            # Before the last write: what is complete by then is written whole.
            is_over = self._control.is_complete and all(each.is_done for each in self._deliveries)
            before = self._state()
            for spool in self._spools:
                spool.write()
                self._log_trouble(spool)
            if is_over:
                break
            self._control.wait_for(lambda known=before: self._state() != known, _DISK_RETRY_S)  # type: ignore[misc]
        for spool in self._spools:
            spool.close()

    def _state(self) -> object:
        """Changes when there is more to write, or a delivery has ended."""
        done = [each.is_done for each in self._deliveries]
        positions = [spool.position(name) for spool in self._spools for name in spool.targets]
        return self._control.is_complete, done, positions, [spool.count for spool in self._spools]

    def _log_trouble(self, spool: Spool) -> None:
        if spool.trouble is not None and not self._has_logged_trouble:
            self._has_logged_trouble = True
            self._log.warning("the spool %s takes nothing (%s); status is kept in memory", spool.path, spool.trouble)
