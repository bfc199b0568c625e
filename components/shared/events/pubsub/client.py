"""Connections to Pub/Sub: Google's service with its credentials, or an emulator without any."""

from __future__ import annotations

import os
import re
from typing import Any

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.google_login import log_in
from components.shared.events.redaction import register_secret
from components.shared.logs import silence
from components.shared.strict_json import read_json

EMULATOR_VARIABLE = "PUBSUB_EMULATOR_HOST"
SERVICE = "pubsub.googleapis.com:443"
_SECRET_FIELDS = ("private_key", "client_secret", "refresh_token")
# A connection through a firewall or a load balancer dies silently when it is idle; pings find that out.
# Without a pool of its own a new channel would inherit the long pauses between attempts of the one that failed.
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
)


def check_client(key: str, credentials_file: str | None) -> None:
    """Refuse what cannot work, before anything is opened.

    Args:
        key: Of the params that needs the client.
        credentials_file: None: application default credentials.

    Raises:
        StatusRefusedError: The client is not installed, or the file is not there or is none; never with what it holds.
    """
    name = f"GOOGLE_APPLICATION_CREDENTIALS: {credentials_file}"
    try:
        import google.pubsub_v1  # noqa: F401 - only whether it is there

        document = {"type": ""} if credentials_file is None else read_json(credentials_file)
    except ImportError as error:
        raise StatusRefusedError(f"{key}: needs google-cloud-pubsub; pip install 'shutterline[status]'") from error
    except OSError as error:
        raise StatusRefusedError(
            f"{name} cannot be read: {error.strerror}; mount it, or leave the key out to use the application default "
            "credentials"
        ) from error
    except ValueError as error:
        raise StatusRefusedError(f"{name} is not a JSON file of credentials") from error
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise StatusRefusedError(f'{name} is not a file of Google credentials: it has no "type"')
    for field in _SECRET_FIELDS:
        if isinstance(secret := document.get(field), str):
            register_secret(secret)


def open_channel(credentials_file: str | None) -> Any:
    """A gRPC channel to the emulator that the environment names, or to Google's service.

    Raises:
        StatusRefusedError: The credentials are missing, cannot be used or are not accepted.
        RetryableError: The service that gives tokens for them does not answer.
    """
    import grpc

    silence("grpc")  # it would print a token that is refused
    if emulator := os.environ.get(EMULATOR_VARIABLE):
        return grpc.insecure_channel(emulator, options=_CHANNEL_OPTIONS)
    from google.auth.transport import grpc as auth_grpc
    from google.auth.transport import requests

    where = f"GOOGLE_APPLICATION_CREDENTIALS: {credentials_file}" if credentials_file else "Pub/Sub"
    # The first token here: within a call, gRPC takes credentials that are refused for a service that is down.
    credentials = log_in(where, "pubsub", credentials_file)
    return auth_grpc.secure_authorized_channel(  # type: ignore[no-untyped-call]
        credentials, requests.Request(), SERVICE, options=_CHANNEL_OPTIONS
    )


def is_too_large(error: Exception) -> bool:
    """Whether a publish call was refused for the size of what it brings: 10 MB for the service, 4 MB for others."""
    from google.api_core import exceptions

    # "The value for request_size is too large…", "Request payload size exceeds the limit…" (Google), "Received message
    # larger than max…" (gRPC's own limit, an emulator's); the same codes mean other things with other texts.
    refused = isinstance(error, exceptions.InvalidArgument | exceptions.ResourceExhausted)
    return refused and re.search(r"too large|exceeds the limit|larger than max", str(error)) is not None


def meaning(error: Exception, resource: str, role: str) -> RetryableError | StatusRefusedError:
    """What an error of a Pub/Sub call means; `role` is missing if a permission is: ``publisher`` or ``subscriber``."""
    from google.api_core import exceptions
    from google.auth.exceptions import RefreshError, TransportError

    kind = "topic" if "/topics/" in resource else "subscription"
    reason = " ".join(str(error).split()) or type(error).__name__
    meanings: dict[type[Exception], str] = {
        exceptions.NotFound: f"Pub/Sub has no {kind} {resource}; create it, it is not made by itself",
        exceptions.Forbidden: (
            f"Pub/Sub forbids {resource}: {reason}; grant its credentials the role roles/pubsub.{role}"
        ),
        exceptions.Unauthorized: (
            f"Pub/Sub does not accept the credentials for {resource}: {reason}; check GOOGLE_APPLICATION_CREDENTIALS"
        ),
        exceptions.BadRequest: f"Pub/Sub refuses {resource}: {reason}",  # also failed preconditions
    }
    for kind_of_error, message in meanings.items():
        if isinstance(error, kind_of_error):
            return StatusRefusedError(message)
    if isinstance(error, RefreshError) and not (error.retryable or isinstance(error.__cause__, TransportError)):
        return StatusRefusedError(f"the credentials for {resource} are not accepted: {reason}")
    return RetryableError(f"Pub/Sub does not answer for {resource}: {reason}")
