"""When a request to a platform is repeated, and what it means that no answer came."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from urllib3.exceptions import HTTPError, NewConnectionError, ProxyError

from components.shared.errors import PlatformRefusedError, PlatformUnavailableError, causes_of
from components.shared.events.redaction import redact
from components.shared.retry import pause_s, seconds_from
from pipelines.watch_text import printable

TIMEOUT_VARIABLE = "SHUTTERLINE_SUBMIT_TIMEOUT"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
LONGEST_RETRY_AFTER_S = 30.0
_TIMEOUT_S = 60.0
_LONGEST_REQUEST_S, _SHORTEST_REQUEST_S = 30.0, 1.0
_TUNNEL = re.compile(r"Tunnel connection failed: (\d+)")  # http.client tells the status in its message alone

T = TypeVar("T")


class RetryableError(Exception):
    """The same request may succeed later.

    Attributes:
        perhaps_done: Whether the request may have been carried out nevertheless: its answer was lost.
        quota: Whether it is a quota that stands in the way.
        retry_after_s: How long the platform asks to wait.
    """

    def __init__(
        self, message: str, *, perhaps_done: bool = False, quota: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.perhaps_done = perhaps_done
        self.quota = quota
        self.retry_after_s = retry_after_s or 0.0


def retried(ask: Callable[[float], T], *, creates: str = "") -> T:
    """Make a request until it succeeds or ``SHUTTERLINE_SUBMIT_TIMEOUT`` seconds are over, with growing pauses.

    Args:
        ask: Makes it in so many seconds.
        creates: What it makes; then it is not repeated once it may have been carried out. Empty: it only asks.

    Raises:
        InputError: The environment's timeout is no positive number.
        PlatformRefusedError: A quota did not allow it in all that time.
        PlatformUnavailableError: Time is up, or whether it was carried out is not known.
    """
    seconds = seconds_from(TIMEOUT_VARIABLE, _TIMEOUT_S)
    end = time.monotonic() + seconds
    for failures in count():
        try:
            return ask(min(_LONGEST_REQUEST_S, max(_SHORTEST_REQUEST_S, end - time.monotonic())))
        except RetryableError as error:
            if creates and error.perhaps_done:
                raise PlatformUnavailableError(
                    f"{error}; whether {creates} was made is not known: repeat the command, without --again, which "
                    "finds it if it was"
                ) from error
            pause = pause_s(failures, FIRST_PAUSE_S, LONGEST_PAUSE_S)
            pause = max(pause, min(error.retry_after_s, LONGEST_RETRY_AFTER_S))
            if time.monotonic() + pause >= end:
                gave_up = f"{error}; gave up after {seconds:g} s ({TIMEOUT_VARIABLE} sets the seconds)"
                if error.quota:
                    raise PlatformRefusedError(f"{gave_up}. Wait some minutes, or ask for a higher quota") from error
                raise PlatformUnavailableError(f"{gave_up}. Check the network, and try again") from error
            time.sleep(pause)
    raise AssertionError  # the loop has no end


def connection_error(
    failure: BaseException, host: str, *, answered: bool, trust: str, proxy: str = "the proxy"
) -> RetryableError | PlatformRefusedError:
    """What it means that a connection failed.

    Args:
        failure: What urllib3, or a library over it, raised.
        host: Which host was asked.
        answered: Whether it has answered before: then what is in the way passes.
        trust: How to name an authority's certificate.
        proxy: Which proxy stands on the way.
    """
    causes = list(causes_of(failure))
    who = proxy if any(isinstance(each, ProxyError) for each in causes) else host
    tls = next((each for each in reversed(causes) if isinstance(each, ssl.SSLError)), None)
    tunnel = next((found for each in causes if (found := _TUNNEL.search(str(each)))), None)
    if not answered:
        if any(isinstance(each, socket.gaierror) and each.errno == socket.EAI_NONAME for each in causes):
            return PlatformRefusedError(f"there is no host of that name: {who}; check the address and the network")
        if tunnel is not None and int(tunnel[1]) < 500 and tunnel[1] != "429":
            return proxy_refusal(host, proxy, int(tunnel[1]))
        if isinstance(tls, ssl.SSLCertVerificationError):
            return PlatformRefusedError(f"{who}: its certificate is not trusted ({tls.verify_message}); {trust}")
        # A connection that ends within TLS, which it may do at any time, comes as an error of TLS, too.
        if tls is not None and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return PlatformRefusedError(f"{who}: does not speak TLS ({tls.reason}); write http://… if that is meant")
    never_sent = tunnel is not None or any(isinstance(each, NewConnectionError) for each in causes)
    return RetryableError(f"{who} does not answer: {_root(causes)}", perhaps_done=not never_sent)


def proxy_refusal(host: str, proxy: str, status: int) -> PlatformRefusedError:
    """What to raise where a proxy lets nothing through."""
    if status == 407:
        return PlatformRefusedError(
            f"{proxy} wants another user or password (407): write USER:PASSWORD@ before the host in the variable"
        )
    return PlatformRefusedError(f"{proxy} does not lead to {host} ({status}); see what it allows, or set NO_PROXY")


def _root(causes: list[BaseException]) -> str:
    errors = [each for each in causes if isinstance(each, OSError | HTTPError)]
    last = errors[-1] if errors else causes[0]
    return printable(redact((isinstance(last, OSError) and last.strerror) or str(last)), 200)
