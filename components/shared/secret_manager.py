"""Secrets that are kept in Google's Secret Manager: fetched by reference when they are needed, and written nowhere.

A platform without secrets of its own, such as Vertex AI, hands a step only text. So that text names a secret's version,
and the step reads it with the application default credentials, which there are the job's service account.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from components.shared.backoff import pause_s
from components.shared.causes import causes_of
from components.shared.errors import StatusRefusedError
from components.shared.events.google_errors import ODD_FILE, reason_of
from components.shared.events.redaction import redact, register_secret
from components.shared.events.transport import RetryableError
from components.shared.params.allowed_classes import shortened

SCHEME = "sm://"
REFERENCE_FORM = "sm://projects/PROJECT/secrets/NAME/versions/VERSION"
ENDPOINT_VARIABLE = "SHUTTERLINE_SECRET_MANAGER_ENDPOINT"

# A project's id, perhaps of a domain, or its number; a version's number, an alias of one, or latest.
_REFERENCE = re.compile(
    r"sm://(projects/(?:[a-z0-9.-]+:)?[a-z0-9-]{1,63}/secrets/[A-Za-z0-9_-]{1,255}"
    r"/versions/(?:[1-9][0-9]{0,17}|[A-Za-z][A-Za-z0-9_-]{0,62}))"
)
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_HERE = ("127.0.0.1", "::1", "localhost")
_PATIENCE_S = 10.0
_ANSWER_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0
_LOG_IN = (
    "give the job or pod a service account, name a key file by GOOGLE_APPLICATION_CREDENTIALS, or run "
    "`gcloud auth application-default login`"
)


class _NotNow(Exception):  # noqa: N818 - a state of the service or of the way there, not a fault of ours
    """The same request may succeed later."""


def is_reference(text: str) -> bool:
    """Whether a text is, or is meant to be, a reference to a secret and not a path."""
    return text.startswith(SCHEME)


def fetch_secret(where: str, reference: str, *, is_public: bool = False) -> bytes:
    """Fetch a secret; never to be written out from then on.

    Args:
        where: The variable that names it, for messages.
        reference: As `REFERENCE_FORM`; VERSION is a number, an alias, or latest.
        is_public: Whether it is no secret after all, such as an authority's certificates: texts may hold it.

    Raises:
        StatusRefusedError: The reference is malformed, there is no such version or it is disabled, the credentials are
            missing, not accepted or not allowed to read it, or the libraries are not installed.
        RetryableError: Nobody answers, or with a wrong checksum, though asked again for 10 seconds.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise StatusRefusedError(
            f"{where}: {shortened(reference, 150)} refers to no secret; write {REFERENCE_FORM}, VERSION a number, an "
            "alias or latest"
        )
    place = f"{where}: {reference}"
    try:
        import google_crc32c
        import requests
        from google.auth.exceptions import GoogleAuthError
    except ImportError as error:
        raise StatusRefusedError(
            f"{place}: needs google-auth and google-crc32c; pip install 'shutterline[status,storage]'"
        ) from error
    try:
        credentials = _credentials()
    except (GoogleAuthError, *ODD_FILE) as error:
        raise StatusRefusedError(f"{place}: no Google credentials: {_said(error)}; {_LOG_IN}") from error
    url = f"{_endpoint(credentials.universe_domain)}/v1/{found[1]}:access"
    with requests.Session() as session:
        data = _persist(lambda: _payload(_ask(session, credentials, url, place), place, google_crc32c.value), place)
    text = data.decode("utf-8", "ignore")
    if not is_public:
        register_secret(text)
        register_secret(text.strip())
    return data


def _credentials() -> Any:
    import google.auth

    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return credentials


def _said(error: Exception) -> str:
    return redact(reason_of(error)).rstrip(".")


def _endpoint(universe: str) -> str:
    """Where the service is: as the environment says, or where the credentials' universe has it."""
    given = os.environ.get(ENDPOINT_VARIABLE)
    if not given:
        return f"https://secretmanager.{universe}"
    try:
        parts = urlsplit(given)
        is_one = bool(parts.hostname) and parts.port != 0 and not (parts.username or parts.query or parts.fragment)
    except ValueError:  # of a port or an IPv6 address
        is_one = False
    # A token must not travel in the clear. The address is not repeated: it may hold a password.
    if not (is_one and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE))):
        raise StatusRefusedError(
            f"{ENDPOINT_VARIABLE}: must be https://HOST[:PORT] (http:// for this machine alone); leave it out for "
            "Google's own"
        )
    return given.rstrip("/")


def _persist(attempt: Callable[[], bytes], place: str) -> bytes:
    """Ask until there is an answer: with backoff and jitter, for a bounded time."""
    end = time.monotonic() + _PATIENCE_S
    failures = 0
    while True:
        try:
            return attempt()
        except _NotNow as error:
            pause = pause_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            failures += 1
            if time.monotonic() + pause >= end:
                raise RetryableError(f"{place}: {error}, asked {failures} times") from error
            time.sleep(pause)


def _ask(session: Any, credentials: Any, url: str, place: str) -> Any:
    """The answer's JSON to one request."""
    import requests

    try:
        response = session.get(
            url, headers=_authorized(session, credentials, place), timeout=_ANSWER_S, allow_redirects=False
        )
    except requests.RequestException as error:
        raise _broken(error, url, place) from error
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    status: int = response.status_code
    if status in (408, 429) or status >= 500:
        raise _NotNow(f"Secret Manager answers {status}{_remark(answer)}")
    if status != 200:
        raise StatusRefusedError(f"{place}: {_refusal(status, answer, credentials, url)}")
    return answer


def _authorized(session: Any, credentials: Any, place: str) -> dict[str, str]:
    """The headers of a request, with a token.

    google-auth's own session would also ask a server of Google's, in a thread that outlives it, where the credentials
    may be used: another host to be reachable.
    """
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    headers: dict[str, str] = {}
    try:
        if not credentials.valid:
            credentials.refresh(partial(Request(session), timeout=_ANSWER_S))
    except GoogleAuthError as error:
        said = _said(error)
        if getattr(error, "retryable", False) or any(isinstance(each, OSError) for each in causes_of(error)):
            raise _NotNow(f"no token for the Google credentials for now: {said}") from error
        raise StatusRefusedError(f"{place}: the Google credentials are not accepted: {said}; {_LOG_IN}") from error
    register_secret(str(credentials.token))
    credentials.apply(headers)
    return headers


def _payload(answer: Any, place: str, checksum: Any) -> bytes:
    """The secret in an answer, checked."""
    try:
        payload = answer["payload"]
        data = base64.b64decode(payload.get("data", ""), validate=True)
        expected = int(payload["dataCrc32c"]) if "dataCrc32c" in payload else None
    except (TypeError, KeyError, ValueError, AttributeError, binascii.Error):
        raise StatusRefusedError(
            f"{place}: what answers is not Secret Manager; check {ENDPOINT_VARIABLE} and the proxy's settings"
        ) from None  # it may quote the secret
    # The service has had checksums since 2021; an older version may be without one.
    if expected is not None and checksum(data) != expected:
        raise _NotNow("what Secret Manager sends has another checksum than it says")
    return data


def _refusal(status: int, answer: Any, credentials: Any, url: str) -> str:
    """What an answer means that is no success, and what to do."""
    remark = _remark(answer)
    reasons = {detail.get("reason") for detail in _of(answer, "details", list) if isinstance(detail, dict)}
    if status == 404:
        return f"there is no such secret or version{remark}; create it, or check the names"
    if "SERVICE_DISABLED" in reasons:
        return f"the Secret Manager API is not enabled in the project{remark}; enable it"
    if status == 403:
        email = str(getattr(credentials, "service_account_email", ""))
        account = email if "@" in email else "the step's account"
        return f"forbidden{remark}; grant {account} roles/secretmanager.secretAccessor on the secret"
    if status == 401:
        return f"the Google credentials are not accepted{remark}; {_LOG_IN}"
    if status == 400 and _of(answer, "status", str) == "FAILED_PRECONDITION":
        return f"the version cannot be read{remark}; enable it if it is disabled, or name another one"
    if _of(answer, "message", str):
        return f"Secret Manager refuses it: {status}{remark}"
    return f"{urlsplit(url).netloc} answers {status} and is not Secret Manager; check {ENDPOINT_VARIABLE}"


def _of(answer: Any, name: str, kind: type) -> Any:
    """A field of an answer's error, as Google's APIs tell them; empty where there is none of that kind."""
    error = answer.get("error") if isinstance(answer, dict) else None
    value = error.get(name) if isinstance(error, dict) else None
    return value if isinstance(value, kind) else kind()


def _remark(answer: Any) -> str:
    """The service's own words, in brackets."""
    message = _of(answer, "message", str)
    return f" ({redact(shortened(' '.join(message.split()).rstrip('.'), 200))})" if message else ""


def _broken(error: Exception, url: str, place: str) -> Exception:
    """What became of a request that got no answer."""
    host = urlsplit(url).netloc
    for cause in causes_of(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return StatusRefusedError(
                f"{place}: the certificate of {host} is not trusted ({cause.verify_message}); name the authority's "
                "file by REQUESTS_CA_BUNDLE"
            )
        if isinstance(cause, socket.gaierror):
            return _NotNow(f"the name {host} cannot be resolved ({cause.strerror})")
    return _NotNow(f"{host} does not answer, or broke off ({type(error).__name__})")
