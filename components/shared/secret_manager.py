"""Secrets that are kept in Google's Secret Manager: fetched by reference when they are needed, and written nowhere.

A platform without secrets of its own, such as Vertex AI, hands a step only text. So that text names a secret's version,
and the step reads it with the application default credentials, which there are the job's service account.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from components.shared.errors import RetryableError, StatusRefusedError, causes_of
from components.shared.events.google_login import HOW_TO_LOG_IN, log_in
from components.shared.events.redaction import redact, register_secret
from components.shared.retry import OutOfTimeError, retried
from components.shared.text import shortened

SCHEME = "sm://"
REFERENCE_FORM = "sm://projects/PROJECT/secrets/NAME/versions/VERSION"
ENDPOINT_VARIABLE = "SHUTTERLINE_SECRET_MANAGER_ENDPOINT"

# A project's id, perhaps of a domain, or its number; a version's number, an alias of one, or latest.
_REFERENCE = re.compile(
    r"sm://(projects/(?:[a-z0-9.-]+:)?[a-z0-9-]{1,63}/secrets/[A-Za-z0-9_-]{1,255}"
    r"/versions/(?:[1-9][0-9]{0,17}|[A-Za-z][A-Za-z0-9_-]{0,62}))"
)
# For so long the service is asked again while it does not answer, or answers with a wrong checksum.
TIMEOUT_S = 10.0
_ANSWER_S = 5.0
_PAUSES_S = (0.2, 2.0)


def is_reference(text: str) -> bool:
    """Whether a text is, or is meant to be, a reference to a secret and not a path."""
    return text.startswith(SCHEME)


def fetch_secret(where: str, reference: str, *, is_public: bool = False) -> bytes:
    """Fetch what a variable refers to; never to be written out from then on, unless it is public, as certificates are.

    Raises:
        StatusRefusedError: The reference is malformed, there is no such version or it is disabled, the credentials are
            missing, not accepted or not allowed to read it, or the libraries are not installed.
        RetryableError: Nobody gives a right answer within `TIMEOUT_S`.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise StatusRefusedError(
            f"{where}: {shortened(reference, 150)} refers to no secret; write {REFERENCE_FORM}, VERSION a number, an "
            "alias or latest"
        )
    name = f"{where}: {reference}"
    try:
        import google.auth  # noqa: F401 - only whether they are there
        import google_crc32c  # noqa: F401
    except ImportError as error:
        raise StatusRefusedError(
            f"{name}: needs google-auth and google-crc32c; pip install 'shutterline[status,storage]'"
        ) from error
    answer_s = min(_ANSWER_S, TIMEOUT_S)
    endpoint = _endpoint()
    login = cache(lambda: log_in(name, "cloud-platform", timeout_s=answer_s))
    try:
        data = retried(lambda _: _access(login(), endpoint, found[1], name, answer_s), TIMEOUT_S, _PAUSES_S)
    except OutOfTimeError as over:
        raise RetryableError(f"{over}, asked {over.attempts} times") from over.error
    if not is_public:
        text = data.decode("utf-8", "ignore")
        register_secret(text)
        register_secret(text.strip())
    return data


def _access(credentials: Any, endpoint: str | None, version: str, name: str, timeout_s: float) -> bytes:
    """Ask once for the payload of a version."""
    import google_crc32c
    import requests

    url = f"{endpoint or f'https://secretmanager.{credentials.universe_domain}'}/v1/{version}:access"
    host = urlsplit(url).netloc
    # google-auth's own session would also ask a server of Google's, in a thread that outlives it, where the credentials
    # may be used: another host to be reachable.
    headers: dict[str, str] = {}
    credentials.apply(headers)
    try:
        response = requests.get(url, headers=headers, timeout=timeout_s, allow_redirects=False)
    except requests.RequestException as error:
        for cause in causes_of(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise StatusRefusedError(
                    f"{name}: the certificate of {host} is not trusted ({cause.verify_message}); name the authority's "
                    "file by REQUESTS_CA_BUNDLE"
                ) from error
            if isinstance(cause, socket.gaierror):
                raise RetryableError(f"{name}: the name {host} cannot be resolved ({cause.strerror})") from error
        raise RetryableError(f"{name}: {host} does not answer, or broke off ({type(error).__name__})") from error
    try:
        answer: Any = response.json()
    except (ValueError, RecursionError):
        answer = None
    if response.status_code != 200:
        raise _refusal(response.status_code, answer, credentials, host, name)
    try:
        payload = answer["payload"]
        data = base64.b64decode(payload.get("data", ""), validate=True)
        checksum = int(payload["dataCrc32c"]) if "dataCrc32c" in payload else None
    except (TypeError, KeyError, ValueError, AttributeError):
        raise StatusRefusedError(
            f"{name}: what answers is not Secret Manager; check {ENDPOINT_VARIABLE} and the proxy's settings"
        ) from None  # it may quote the secret
    # The service has had checksums since 2021; an older version may be without one.
    if checksum is not None and google_crc32c.value(data) != checksum:
        raise RetryableError(f"{name}: what Secret Manager sends has another checksum than it says")
    return data


def _endpoint() -> str | None:
    """Where the environment has the service; None: where the credentials' universe has it."""
    if not (given := os.environ.get(ENDPOINT_VARIABLE)):
        return None
    try:
        parts = urlsplit(given)
        is_one = bool(parts.hostname) and parts.port != 0 and not (parts.username or parts.query or parts.fragment)
    except ValueError:  # of a port or an IPv6 address
        is_one = False
    # A token must not travel in the clear. The address is not repeated: it may hold a password.
    is_here = parts.hostname in ("127.0.0.1", "::1", "localhost") if is_one else False
    if not (is_one and (parts.scheme == "https" or (parts.scheme == "http" and is_here))):
        raise StatusRefusedError(
            f"{ENDPOINT_VARIABLE}: must be https://HOST[:PORT] (http:// for this machine alone); leave it out for "
            "Google's own"
        )
    return given.rstrip("/")


def _refusal(status: int, answer: Any, credentials: Any, host: str, name: str) -> Exception:
    """What an answer means that is no success, and what to do."""
    try:
        error = answer["error"]
        message = redact(shortened(" ".join(error["message"].split()).rstrip("."), 200))
        reasons = {str(detail.get("reason")) for detail in error.get("details", [])}
    except (TypeError, KeyError, AttributeError):  # not in the form of Google's APIs
        error, message, reasons = {}, "", set()
    remark = f" ({message})" if message else ""
    if status in (408, 429) or status >= 500:
        return RetryableError(f"{name}: Secret Manager answers {status}{remark}")
    if status == 404:
        meaning = f"there is no such secret or version{remark}; create it, or check the names"
    elif "SERVICE_DISABLED" in reasons:
        meaning = f"the Secret Manager API is not enabled in the project{remark}; enable it"
    elif status == 403:
        email = str(getattr(credentials, "service_account_email", ""))
        account = email if "@" in email else "the step's account"
        meaning = f"forbidden{remark}; grant {account} roles/secretmanager.secretAccessor on the secret"
    elif status == 401:
        meaning = f"the Google credentials are not accepted{remark}; {HOW_TO_LOG_IN}"
    elif status == 400 and error.get("status") == "FAILED_PRECONDITION":
        meaning = f"the version cannot be read{remark}; enable it if it is disabled, or name another one"
    elif message:
        meaning = f"Secret Manager refuses it: {status}{remark}"
    else:
        meaning = f"{host} answers {status} and is not Secret Manager; check {ENDPOINT_VARIABLE}"
    return StatusRefusedError(f"{name}: {meaning}")
