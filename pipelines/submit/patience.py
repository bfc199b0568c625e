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

    Args:
        within_s: Not more than so many seconds; None: as many as the environment says.
        tell: Hears of each failure when it happens. Who does that goes on afterwards, so a quota is no refusal then.

    Raises:
        InputError: The environment's timeout is no positive number.
    """

    def __init__(self, within_s: float | None = None, tell: Callable[[str], None] | None = None) -> None:
        self._seconds = timeout_s() if within_s is None else min(timeout_s(), within_s)
        self._end = time.monotonic() + self._seconds
        self._tell = tell

    def request_s(self) -> float:
        """How long one request may take."""
        return min(_LONGEST_REQUEST_S, max(_SHORTEST_REQUEST_S, self._end - time.monotonic()))

    def persist(self, attempt: Callable[[], T], *, lost: str = "") -> T:
        """Make an attempt until it succeeds, with backoff and jitter; the last one when little time is left.

        Args:
            attempt: Raises Later where it is worth another one.
            lost: What to tell if time is up and what was asked for may have been done.

        Raises:
            PlatformRefusedError: It is a quota that did not allow it in all that time.
            PlatformUnavailableError: Time is up.
        """
        failures, done, last = 0, False, False
        while True:
            try:
                return attempt()
            except Later as error:
                done = done or error.done
                if self._tell is not None:
                    self._tell(str(error))
                pause = pause_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                wish = min(error.retry_after_s or 0.0, _LONGEST_WISH_S)
                failures += 1
                left = self._end - time.monotonic()
                if last or left <= wish:
                    raise self._given_up(error, lost if done else "") from error
                last = max(pause, wish) >= left
                time.sleep(max(wish, left / 2) if last else max(pause, wish))

    def _given_up(self, error: Later, lost: str) -> PlatformRefusedError | PlatformUnavailableError:
        gave_up = f"{error}; gave up after {self._seconds:g} s ({TIMEOUT_VARIABLE} sets the seconds)"
        if error.quota and self._tell is None:
            return PlatformRefusedError(f"{gave_up}. Wait some minutes, or ask for a higher quota")
        return PlatformUnavailableError(f"{gave_up}. {lost or 'Check the network, and try again'}")
