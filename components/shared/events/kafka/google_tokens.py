"""Tokens for Google's managed Kafka, made of the application default credentials.

The format is the one Google documents for SASL/OAUTHBEARER: three base64url parts, of which the last is the access
token. Google's Kafka reads it without a signature of its own.
"""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC
from functools import partial

from components.shared.errors import StatusRefusedError
from components.shared.events.google_errors import ODD_FILE, reason_of
from components.shared.events.redaction import register_secret
from components.shared.events.transport import RetryableError

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_REQUEST_S = 10.0
_HEADER = {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}


def _part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def google_token() -> str:
    """A fresh token.

    Raises:
        StatusRefusedError: There are no application default credentials, or they are not accepted.
        RetryableError: Whoever gives tokens for them does not answer, or not now.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        credentials.refresh(partial(Request(), timeout=_REQUEST_S))  # type: ignore[no-untyped-call] # hardly typed
    except GoogleAuthError as error:
        reason = reason_of(error)
        if error.retryable or isinstance(error, TransportError) or isinstance(error.__cause__, TransportError):
            raise RetryableError(f"KAFKA_SASL_OAUTH_PROVIDER=google: no token for now: {reason}") from error
        raise StatusRefusedError(f"KAFKA_SASL_OAUTH_PROVIDER=google: no usable Google credentials: {reason}") from error
    except ODD_FILE as error:
        reason = reason_of(error)
        raise StatusRefusedError(f"KAFKA_SASL_OAUTH_PROVIDER=google: no usable Google credentials: {reason}") from error
    access_token = str(credentials.token)
    register_secret(access_token)
    register_secret(_part(access_token))
    now = time.time()
    # google-auth gives the expiry in UTC without saying so.
    expiry = credentials.expiry.replace(tzinfo=UTC).timestamp() if credentials.expiry else now + 3600
    account = getattr(credentials, "service_account_email", "")
    claims = {"exp": int(expiry), "iat": int(now), "iss": "Google", "scope": "kafka", "sub": account}
    token = f"{_part(json.dumps(_HEADER))}.{_part(json.dumps(claims))}.{_part(access_token)}"
    register_secret(token)
    return token
