"""Tokens for Google's managed Kafka, made of the application default credentials.

The format is the one Google documents for SASL/OAUTHBEARER: three base64url parts, of which the last is the access
token. Google's Kafka reads it without a signature of its own.
"""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC

from components.shared.events.google_login import log_in
from components.shared.events.redaction import register_secret


def _part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def google_token() -> str:
    """A fresh token.

    Raises:
        StatusRefusedError: There are no application default credentials, or they are not accepted.
        RetryableError: Whoever gives tokens for them does not answer, or not now.
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
