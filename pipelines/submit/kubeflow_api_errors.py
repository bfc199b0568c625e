"""What it means when Kubeflow Pipelines, or whoever is on the way there, answers anything but success."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_server_api import ApiException  # type: ignore[import-untyped] # it publishes no types
from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError, NewConnectionError, ProxyError, SSLError

from components.shared.backoff import retry_after_s
from components.shared.causes import causes_of
from components.shared.errors import InputError, PlatformRefusedError, PlatformUnavailableError, ShutterlineError
from components.shared.events.redaction import redact
from pipelines.submit.kubeflow_access import HOW_TO_SIGN_IN
from pipelines.submit.kubeflow_proxy import Proxy
from pipelines.submit.patience import Later
from pipelines.watch_text import printable

_LONGEST = 600  # characters of a server's message
_LATER = (502, 503, 504)
_TUNNEL = re.compile(r"Tunnel connection failed: (\d+)")  # http.client says it in words alone

# What a call of the generated client raises: besides its own it takes for granted that an error has a body, that texts
# are in the encoding they say, and that whatever is JSON has the API's shape.
FAILURES = (ApiException, HTTPError, AttributeError, LookupError, TypeError, ValueError)


class AlreadyExists(Exception):  # noqa: N818 - the expected end of a repetition
    """Something of that name is there; the text is the server's."""


@dataclass(frozen=True)
class Answers:
    """Reads what comes back.

    Attributes:
        host: Who is asked.
        namespace: In which namespace; None: none was named.
        told: What credentials were sent along, in words; empty: none.
        proxy: Who stands on the way; None: nobody is known to.
    """

    host: str
    namespace: str | None
    told: str
    proxy: Proxy | None = None

    def error(self, failure: BaseException, *, creates: bool, heard: bool) -> Exception:
        """What a failed request means: Later, AlreadyExists, or an error for people.

        Args:
            failure: One of FAILURES.
            creates: Whether the request was to make something: no other finds it there, or leaves it behind.
            heard: Whether the host has answered before: then what keeps it from doing so passes.
        """
        meant = self._meaning(failure, creates=creates, heard=heard)
        if isinstance(meant, Later):
            meant.done = meant.done and creates
        return meant

    def _meaning(self, failure: BaseException, *, creates: bool, heard: bool) -> Exception:
        if isinstance(failure, HTTPError):
            return self._no_answer(failure, heard=heard)
        # The generated client stumbled over the error it was about to raise.
        answer = failure if isinstance(failure, ApiException) else failure.__context__
        if not isinstance(answer, ApiException) or not answer.status:
            return self.no_api("sends what its API would not")
        return self._refusal(int(answer.status), answer.headers or {}, _text(answer.body), creates=creates)

    def no_api(self, what: str) -> PlatformRefusedError:
        """It is something else that answers there, most often a page to sign in."""
        causes = [] if self.host.endswith("/pipeline") else [f"Kubeflow's API is below /pipeline: {self.host}/pipeline"]
        if self.told:
            causes.append(f"or that is a page to sign in, and the {self.told} is not valid, or no longer")
        else:
            causes.append(f"or that is a page to sign in: {HOW_TO_SIGN_IN}")
        return PlatformRefusedError(f"{self.host}: is no Kubeflow Pipelines API: it {what}; {', '.join(causes)}")

    def _no_answer(self, failure: HTTPError, *, heard: bool) -> Exception:
        reason = failure.reason if isinstance(failure, MaxRetryError) and failure.reason else failure
        who = str(self.proxy) if self.proxy is not None and isinstance(reason, ProxyError) else self.host
        why = printable(redact(_root(reason)), 200)
        if not heard and (wrong := self._wrong(reason, who, why)):
            return InputError(wrong)
        # A connection that was never made did nothing. A proxy's error may come after the request, too.
        unmade = _TUNNEL.search(why) or any(isinstance(each, NewConnectionError) for each in causes_of(reason))
        return Later(f"{who} does not answer: {why}", done=not unmade)

    def _wrong(self, reason: BaseException, who: str, why: str) -> str:
        """What to tell where it is an address, TLS or a proxy's rule; empty where it may pass."""
        causes = list(causes_of(reason))
        if isinstance(reason, LocationParseError):
            return f"{who}: is no address"
        if any(isinstance(each, socket.gaierror) and each.errno == socket.EAI_NONAME for each in causes):
            return f"{who}: there is no host of that name" + (" (--host)" if who == self.host else "")
        if (tunnel := _TUNNEL.search(why)) and self.proxy is not None:
            return self._closed(self.proxy, int(tunnel[1]))
        # A connection that ends within TLS, which it may do at any time, comes as an error of TLS, too.
        ended = any(isinstance(each, ssl.SSLEOFError | ssl.SSLZeroReturnError) for each in causes)
        if ended or not any(isinstance(each, SSLError) for each in causes):
            return ""
        if "WRONG_VERSION_NUMBER" in str(reason):
            return f"{who}: does not speak TLS; write http://… if that is meant"
        untrusted = "certificate verify failed" in str(reason)
        help_ = "name its authority's certificate by --ca-file" if untrusted else "see what stands between"
        return f"{who}: TLS fails: {why}; {help_}"

    def _closed(self, proxy: Proxy, status: int) -> str:
        """Why a proxy lets nothing through; empty where it may do so later."""
        if status == 407:
            sent = "does not accept the user and password" if proxy.headers else "wants to know who asks"
            return f"{proxy}: {sent} (407); write USER:PASSWORD@ before the host in {proxy.variable}"
        if status >= 500 or status == 429:
            return ""
        return f"{proxy}: does not lead to {self.host} ({status}); see what it allows, or name the host in NO_PROXY"

    def _refusal(self, status: int, headers: Mapping[str, str], body: str, *, creates: bool) -> Exception:
        message = printable(redact(_message(body)), _LONGEST)
        if status == 407 and self.proxy is not None:
            return PlatformRefusedError(self._closed(self.proxy, status))
        if 300 <= status < 400:
            return self.no_api(f"leads elsewhere ({status})")
        if status == 401:
            sent = f"does not accept the {self.told}" if self.told else "wants to know who asks"
            return PlatformRefusedError(f"{self.host}: {sent} (401){_colon(message)}; {HOW_TO_SIGN_IN}")
        if status == 403:
            return PlatformRefusedError(
                f"{self.host}: {self._who()} may not do that {self._where()} (403){_colon(message)}; ask for the role "
                f"kubeflow-edit in that namespace, or choose another by --namespace"
                + ("" if self.told else f"; nothing was sent to sign in: {HOW_TO_SIGN_IN}")
            )
        if status == 429:
            asked = retry_after_s(headers.get("Retry-After", ""))
            return Later(f"{self.host}: a quota is used up (429){_colon(message)}", quota=True, retry_after_s=asked)
        if status in _LATER:
            asked = retry_after_s(headers.get("Retry-After", ""))
            return Later(f"{self.host} answers {status}{_colon(message)}", done=True, retry_after_s=asked)
        # Where files are uploaded, a name that is taken has been told by other codes in some versions.
        if creates and (status == 409 or (status in (400, 500) and "already exist" in message.lower())):
            return AlreadyExists(message)
        if status < 500 and not is_json(body):
            return self.no_api(f"answers {status} with a page")
        return self._refused(status, message)

    def _refused(self, status: int, message: str) -> ShutterlineError:
        if status >= 500:
            return PlatformUnavailableError(f"{self.host} answers {status}{_colon(message)}")
        if "namespace" in message.lower() and self.namespace is None:
            return PlatformRefusedError(f"{self.host}: {message}; name yours by --namespace")
        if status == 404:
            where = f"; is --namespace {self.namespace} right?" if self.namespace else ""
            return PlatformRefusedError(f"{self.host}: not found (404){_colon(message)}{where}")
        return PlatformRefusedError(f"{self.host}: refuses that ({status}){_colon(message)}")

    def _who(self) -> str:
        return f"the account of the {self.told}" if self.told else "somebody unknown"

    def _where(self) -> str:
        return f"in namespace {self.namespace}" if self.namespace else "there"


def _colon(message: str) -> str:
    return f": {message}" if message else ""


def _text(body: Any) -> str:
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")


def is_json(body: str) -> bool:
    """Whether a body is what the API sends: an object, and no page."""
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _message(body: str) -> str:
    """What an error says, without the page or the JSON around it."""
    if not is_json(body):
        return ""
    document = json.loads(body)
    # The API's own, the upload's, and what proxies use.
    for key in ("message", "error_details", "error_message", "error"):
        if isinstance(document.get(key), str) and document[key]:
            return str(document[key])
    return ""


def _root(error: BaseException) -> str:
    """What is at the bottom of an error of urllib3, in words."""
    cause: BaseException | None = error
    while cause is not None:
        error = cause
        further = (error.__cause__, error.__context__, *error.args)
        cause = next((each for each in further if isinstance(each, OSError | HTTPError)), None)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return (isinstance(error, OSError) and error.strerror) or str(error)
