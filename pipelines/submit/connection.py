"""When a request to a platform is repeated, and what it means that no answer came."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from urllib3.exceptions import HTTPError, ProxyError

from components.shared import retry
from components.shared.errors import PlatformRefusedError, PlatformUnavailableError, RetryableError, causes_of
from components.shared.events.redaction import redact
from pipelines.watch_text import printable

TIMEOUT_VARIABLE = "SHUTTERLINE_SUBMIT_TIMEOUT"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
LONGEST_RETRY_AFTER_S = 30.0
LONGEST_REQUEST_S = 30.0
_TIMEOUT_S = 60.0
_TUNNEL = re.compile(r"Tunnel connection failed: (\d+)")  # http.client gives the status in its message alone

T = TypeVar("T")


def retried(ask: Callable[[float], T]) -> T:
    """Make a request until it succeeds or ``SHUTTERLINE_SUBMIT_TIMEOUT`` seconds are over, with growing pauses.

    Args:
        ask: Makes it in so many seconds, and may raise RetryableError.

    Raises:
        InputError: The environment's timeout is no positive number.
        PlatformUnavailableError: Time is up.
    """
    seconds = retry.seconds_from(TIMEOUT_VARIABLE, _TIMEOUT_S)

    def attempt(time_left: retry.TimeLeft) -> T:
        return ask(min(LONGEST_REQUEST_S, max(1.0, time_left())))

    try:
        return retry.retried(attempt, seconds, (FIRST_PAUSE_S, LONGEST_PAUSE_S), LONGEST_RETRY_AFTER_S)
    except retry.OutOfTimeError as over:
        raise PlatformUnavailableError(
            f"{over}; gave up after {seconds:g} s ({TIMEOUT_VARIABLE} sets the seconds); try again later"
        ) from over.error


def connection_error(
    failure: BaseException, host: str, *, answered: bool, trust: str
) -> RetryableError | PlatformRefusedError:
    """What it means that a connection failed.

    Args:
        failure: What requests raised.
        host: Which host was asked.
        answered: Whether it has answered before: then what is in the way passes.
        trust: How to name an authority's certificate.
    """
    causes = list(causes_of(failure))
    who = "the proxy" if any(isinstance(each, ProxyError) for each in causes) else host
    tls = next((each for each in reversed(causes) if isinstance(each, ssl.SSLError)), None)
    tunnel = next((found for each in causes if (found := _TUNNEL.search(str(each)))), None)
    if not answered:
        if any(isinstance(each, socket.gaierror) and each.errno == socket.EAI_NONAME for each in causes):
            return PlatformRefusedError(f"there is no host of that name: {who}; check the address and the network")
        if tunnel is not None and int(tunnel[1]) < 500 and tunnel[1] != "429":
            return proxy_refusal(host, int(tunnel[1]))
        if isinstance(tls, ssl.SSLCertVerificationError):
            return PlatformRefusedError(f"{who}: its certificate is not trusted ({tls.verify_message}); {trust}")
        # A connection that ends within TLS, which it may do at any time, comes as an error of TLS, too.
        if tls is not None and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return PlatformRefusedError(f"{who}: does not use TLS ({tls.reason}); write http://… if that is meant")
    errors = [each for each in causes if isinstance(each, OSError | HTTPError)]
    last = errors[-1] if errors else causes[0]
    reason = (isinstance(last, OSError) and last.strerror) or str(last)
    return RetryableError(f"{who} does not answer: {printable(redact(reason), 200)}")


def proxy_refusal(host: str, status: int) -> PlatformRefusedError:
    """What to raise where a proxy lets nothing through."""
    if status == 407:
        return PlatformRefusedError(
            "the proxy wants another user or password (407): write USER:PASSWORD@ before the host in HTTPS_PROXY or "
            "HTTP_PROXY"
        )
    return PlatformRefusedError(f"the proxy does not lead to {host} ({status}); see what it allows, or set NO_PROXY")
