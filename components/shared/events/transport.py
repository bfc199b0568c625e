"""What a broker is to the delivery: something that takes sealed events in order, or says why not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class DeliveryError(Exception):
    """Some events of a window were not taken.

    Attributes:
        delivered: How many, from the beginning of the window, were.
    """

    def __init__(self, message: str, delivered: int = 0) -> None:
        super().__init__(message)
        self.delivered = delivered


class Unavailable(DeliveryError):  # noqa: N818 - a state of the broker, not a fault of ours
    """The broker does not answer, or not now; the same events may be taken later."""


class Refused(DeliveryError):  # noqa: N818 - the broker's answer
    """The broker answers no, and will until a setting is changed: topic, permission, credentials."""


class TooLarge(DeliveryError):  # noqa: N818 - the broker's answer
    """The broker refuses the event that follows the delivered ones, for its size; those behind it may be taken."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An event as it is sent.

    Attributes:
        body: The CloudEvents JSON.
        key: The run's id, by which brokers keep the order.
        attributes: The CloudEvents attributes as text, for the bindings' headers.
    """

    body: bytes
    key: str
    attributes: dict[str, str]


def sealed(line: bytes) -> Sealed:
    """A spooled line as it is sent."""
    document = json.loads(line)
    attributes = {name: str(value) for name, value in document.items() if name not in ("data", "datacontenttype")}
    return Sealed(line, document["partitionkey"], attributes)


# The seconds that are left for a call. They may become fewer at any moment: when the step ends, so does the waiting.
Patience = Callable[[], float]


def patience_of(seconds: float) -> Patience:
    """A patience that runs out in so many seconds."""
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


class Transport(Protocol):
    """One broker. Used by one thread at a time; nothing is opened before the first call of `send`."""

    @property
    def name(self) -> str:
        """Which broker: ``kafka`` or ``pubsub``; the key of reports and ledgers."""
        ...

    @property
    def place(self) -> str:
        """Where it is, for people."""
        ...

    def send(self, events: Sequence[Sealed], patience: Patience) -> None:
        """Hand over a window of one run's events and return when the broker has all of them.

        Args:
            events: In order, all with one key.
            patience: How long to try; asked again and again by a call that can be cut short.

        Raises:
            Unavailable: Not now.
            Refused: Not until somebody changes a setting.
            TooLarge: One of the events not until the broker's limit is raised.
        """
        ...

    def close(self) -> None:
        """Let go of the broker without waiting for it."""
        ...
