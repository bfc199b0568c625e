"""How long to go on asking, and what to do between two attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from components.shared.backoff import pause_s, seconds_from
from components.shared.errors import PlatformRefusedError, PlatformUnavailableError

TIMEOUT_VARIABLE = "SHUTTERLINE_SUBMIT_TIMEOUT"
_TIMEOUT_S = 60.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_LONGEST_WISH_S = 30.0  # of a Retry-After
_LONGEST_REQUEST_S = 30.0
_SHORTEST_REQUEST_S = 1.0

T = TypeVar("T")


class Later(Exception):  # noqa: N818 - a state of the platform or of the way there, not a fault of ours
    """Not now; the same request may succeed later.

    Attributes:
        done: Whether the request may have been carried out nevertheless: its answer was lost.
        quota: Whether it is a quota that stands in the way.
        retry_after_s: How long the platform wants to be left alone, if it says so.
    """

    def __init__(
        self, message: str, *, done: bool = False, quota: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.done = done
        self.quota = quota
        self.retry_after_s = retry_after_s


def timeout_s() -> float:
    """For how many seconds to go on asking a platform.

    Raises:
        InputError: The environment variable is no positive number.
    """
    return seconds_from(TIMEOUT_VARIABLE, _TIMEOUT_S)


class Patience:
    """The time that one call of a platform has, however many requests it takes.

    Raises:
        InputError: The environment's timeout is no positive number.
    """

    def __init__(self) -> None:
        self._seconds = timeout_s()
        self._end = time.monotonic() + self._seconds

    def request_s(self) -> float:
        """How long one request may take."""
        return min(_LONGEST_REQUEST_S, max(_SHORTEST_REQUEST_S, self._end - time.monotonic()))

    def persist(self, attempt: Callable[[], T], *, lost: str = "") -> T:
        """Make an attempt until it succeeds, with backoff and jitter.

        Args:
            attempt: Raises Later where it is worth another one.
            lost: What to tell if time is up and what was asked for may have been done.

        Raises:
            PlatformRefusedError: It is a quota that did not allow it in all that time.
            PlatformUnavailableError: Time is up.
        """
        failures, done = 0, False
        while True:
            try:
                return attempt()
            except Later as error:
                done = done or error.done
                pause = pause_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                if error.retry_after_s is not None:
                    pause = max(pause, min(error.retry_after_s, _LONGEST_WISH_S))
                failures += 1
                if time.monotonic() + pause >= self._end:
                    raise self._given_up(error, lost if done else "") from error
                time.sleep(pause)

    def _given_up(self, error: Later, lost: str) -> PlatformRefusedError | PlatformUnavailableError:
        gave_up = f"{error}; gave up after {self._seconds:g} s ({TIMEOUT_VARIABLE} sets the seconds)"
        if error.quota:
            return PlatformRefusedError(f"{gave_up}. Wait some minutes, or ask for a higher quota")
        return PlatformUnavailableError(f"{gave_up}. {lost or 'Check the network, and try again'}")
