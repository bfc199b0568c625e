"""The face of a broker: it takes encoded events in order, or raises why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from components.shared.events.event import EncodedEvent


class DeliveryError(Exception):
    """Some events of a window were not taken.

    Attributes:
        delivered: How many, from the beginning of the window, were.
    """

    def __init__(self, message: str, delivered: int = 0) -> None:
        super().__init__(message)
        self.delivered = delivered


class RetryableError(DeliveryError):
    """The broker does not answer, or not now; the same events may be taken later."""


class RefusedError(DeliveryError):
    """The broker answers no, and will until a setting is changed: topic, permission, credentials."""


class TooLargeError(DeliveryError):
    """The broker refuses the event after the delivered ones for its size; those behind it may be taken."""


# Seconds left for a call. They may become fewer at any moment: a step's end shortens them.
TimeLeft = Callable[[], float]


def countdown(seconds: float) -> TimeLeft:
    """The time left of so many seconds from now."""
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


class Transport(Protocol):
    """One broker. Used by one thread at a time; nothing is opened before the first call of `send`."""

    @property
    def name(self) -> str:
        """Which broker: ``kafka`` or ``pubsub``; the key of reports and ledgers."""
        ...

    @property
    def address(self) -> str:
        """Broker and topic, for people."""
        ...

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> None:
        """Hand over a window of one run's events, and return when the broker has all of them.

        Args:
            events: In order, all with one key.
            time_left: How long to try; asked again and again by a call that can be cut short.

        Raises:
            RetryableError: Not now.
            RefusedError: Not until somebody changes a setting.
            TooLargeError: One of the events not until the broker's limit is raised.
        """
        ...

    def close(self) -> None:
        """Close the connection without waiting for the broker."""
        ...
