"""A token for Google's services, by a file of credentials or the application default credentials."""

from __future__ import annotations

import base64
import json
import os
import time
import warnings
from datetime import UTC
from functools import partial
from typing import Any

from components.shared.errors import RetryableError, StatusRefusedError, causes_of
from components.shared.events.redaction import redact, register_secret

HOW_TO_LOG_IN = (
    "give the job or pod a service account, name a key file by GOOGLE_APPLICATION_CREDENTIALS, or run "
    "`gcloud auth application-default login`"
)
# What comes out of google-auth, beside its own, for a file that is a folder, or JSON of another shape.
ODD_FILE = (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError)


def reason_of(error: Exception, file: str | None = None) -> str:
    """What google-auth says, whose error may bring another with the reason, or a server's whole answer."""
    if type(error) in (AttributeError, TypeError, KeyError, RecursionError):  # google-auth's own may be of these, too
        named = file or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or "what gcloud has kept"
        return f"{named} is no file of Google credentials"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    parts = [str(part).splitlines()[0] for part in error.args if isinstance(part, str | Exception) and str(part)]
    return "; ".join(parts) or type(error).__name__


def log_in(where: str, scope: str, file: str | None = None, timeout_s: float = 10.0) -> Any:
    """Credentials of google-auth with a fresh token, which is a secret from then on.

    They are those of a file, or the application default credentials, for a `scope` without Google's prefix; `where` is
    what needs them, for messages.

    Raises:
        StatusRefusedError: There are none, or they are not accepted.
        RetryableError: The service that gives tokens does not answer.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    scopes = [f"https://www.googleapis.com/auth/{scope}"]
    credentials: Any
    problem = "no Google credentials"
    try:
        with warnings.catch_warnings():  # about files of unknown origin; the user names this one
            warnings.simplefilter("ignore", DeprecationWarning)
            if file is None:
                credentials, _ = google.auth.default(scopes=scopes)
            else:
                credentials, _ = google.auth.load_credentials_from_file(file, scopes=scopes)  # type: ignore[no-untyped-call]
        problem = "the Google credentials are not accepted"
        credentials.refresh(partial(Request(), timeout=timeout_s))
    except (GoogleAuthError, *ODD_FILE) as error:
        reason = redact(reason_of(error, file)).rstrip(".")
        is_known = problem != "no Google credentials"
        if is_known and (getattr(error, "retryable", False) or any(isinstance(e, OSError) for e in causes_of(error))):
            raise RetryableError(f"{where}: no token for the Google credentials for now: {reason}") from error
        raise StatusRefusedError(f"{where}: {problem}: {reason}; {HOW_TO_LOG_IN}") from error
    register_secret(str(credentials.token))
    return credentials


def google_token() -> str:
    """A fresh token for Google's managed Kafka, of the application default credentials.

    The format is the one Google documents for SASL/OAUTHBEARER: three base64url parts, of which the last is the access
    token. Google's Kafka reads it without a signature of its own. Raises as `log_in`.
    """
    credentials = log_in("KAFKA_SASL_OAUTH_PROVIDER=google", "cloud-platform")
    access_token = str(credentials.token)
    register_secret(_part(access_token))
    now = time.time()
    # google-auth gives the expiry in UTC without saying so.
    expiry = credentials.expiry.replace(tzinfo=UTC).timestamp() if credentials.expiry else now + 3600
    account = getattr(credentials, "service_account_email", "")
    header = {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}
    claims = {"exp": int(expiry), "iat": int(now), "iss": "Google", "scope": "kafka", "sub": account}
    token = ".".join(map(_part, (json.dumps(header), json.dumps(claims), access_token)))
    register_secret(token)
    return token


def _part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
