"""Connections to Pub/Sub: Google's service with its credentials, or an emulator without any."""

from __future__ import annotations

import os
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from components.shared.errors import StatusRefusedError
from components.shared.events.google_errors import ODD_FILE, reason_of
from components.shared.events.redaction import register_secret
from components.shared.events.transport import RetryableError
from components.shared.logs import silence
from components.shared.strict_json import read_json

if TYPE_CHECKING:
    import google.auth.credentials

EMULATOR_VARIABLE = "PUBSUB_EMULATOR_HOST"
_SCOPES = ("https://www.googleapis.com/auth/pubsub",)
_SERVICE = "pubsub.googleapis.com:443"
_TOKEN_S = 10.0  # for one request for a token
_SECRET_FIELDS = ("private_key", "client_secret", "refresh_token")

# A connection through a firewall or a load balancer dies silently when it is idle; pings find that out.
# Without a pool of its own a new channel would inherit the long pauses between attempts of the one that failed.
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
)


def require_client(key: str) -> None:
    """Refuse a key of the params that needs the client where it is not installed.

    Raises:
        StatusRefusedError: It is not.
    """
    try:
        import google.pubsub_v1  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise StatusRefusedError(f"{key}: needs google-cloud-pubsub; pip install 'shutterline[status]'") from error


def check_credentials_file(file: str | None) -> None:
    """Refuse a service-account file that is not there or is none, before anything is opened.

    Raises:
        StatusRefusedError: With what is wrong; never with what the file holds.
    """
    if file is None:
        return
    name = "GOOGLE_APPLICATION_CREDENTIALS"
    try:
        document = read_json(file)
    except FileNotFoundError as error:
        raise StatusRefusedError(f"{name}: there is no file {file}; mount it, or leave the key out to use the "
                                 "application default credentials") from error  # fmt: skip
    except OSError as error:
        raise StatusRefusedError(f"{name}: {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StatusRefusedError(f"{name}: {file} is not a JSON file of credentials") from error
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise StatusRefusedError(f'{name}: {file} is not a file of Google credentials: it has no "type"')
    for field in _SECRET_FIELDS:
        if isinstance(secret := document.get(field), str):
            register_secret(secret)


def open_channel(credentials_file: str | None) -> Any:
    """A gRPC channel to the emulator that the environment names, or to Google's service.

    Raises:
        StatusRefusedError: The credentials are missing, cannot be used or are not accepted.
        RetryableError: Whoever gives tokens for them does not answer, or not now.
    """
    import grpc

    check_credentials_file(credentials_file)
    silence("grpc")  # a token that is refused it would tell by itself
    if emulator := os.environ.get(EMULATOR_VARIABLE):
        return grpc.insecure_channel(emulator, options=_CHANNEL_OPTIONS)
    from google.auth.transport import grpc as auth_grpc
    from google.auth.transport import requests

    credentials, request = _credentials(credentials_file), requests.Request()
    _log_in(credentials, request, _where(credentials_file))
    return auth_grpc.secure_authorized_channel(  # type: ignore[no-untyped-call]
        credentials, request, _SERVICE, options=_CHANNEL_OPTIONS
    )


def _log_in(credentials: google.auth.credentials.Credentials, request: Any, where: str) -> None:
    """Get the first token here: within a call, gRPC takes credentials that are refused for a service that is down."""
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials.refresh(partial(request, timeout=_TOKEN_S))  # type: ignore[no-untyped-call]
    except GoogleAuthError as error:
        if _is_refusal(error):
            raise StatusRefusedError(f"{where}: not accepted: {reason_of(error)}") from error
        raise RetryableError(f"{where}: no token for now: {reason_of(error)}") from error
    register_secret(str(credentials.token))


def _is_refusal(error: Exception) -> bool:
    """Whether Google says no to the credentials, and not just nothing."""
    from google.auth.exceptions import RefreshError, TransportError

    temporary = getattr(error, "retryable", False) or isinstance(error.__cause__, TransportError)
    return isinstance(error, RefreshError) and not temporary


def _where(file: str | None) -> str:
    return f"GOOGLE_APPLICATION_CREDENTIALS: {file}" if file else "application default credentials"


def _credentials(file: str | None) -> google.auth.credentials.Credentials:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    found: google.auth.credentials.Credentials
    try:
        if file is not None:
            found = _of_file(file)
        else:
            found, _ = google.auth.default(scopes=list(_SCOPES))
    except (GoogleAuthError, *ODD_FILE) as error:
        advice = "" if file else "; name a service-account file by GOOGLE_APPLICATION_CREDENTIALS"
        raise StatusRefusedError(f"{_where(file)}: cannot be used: {reason_of(error, file)}{advice}") from error
    return found


def _of_file(file: str) -> google.auth.credentials.Credentials:
    import google.auth
    from google.oauth2 import service_account

    found: google.auth.credentials.Credentials
    scopes = list(_SCOPES)
    if read_json(file)["type"] == "service_account":
        found = service_account.Credentials.from_service_account_file(file, scopes=scopes)  # type: ignore[no-untyped-call]
    else:
        with warnings.catch_warnings():  # of files from strangers; this one is named by whoever starts the run
            warnings.simplefilter("ignore", DeprecationWarning)
            found, _ = google.auth.load_credentials_from_file(file, scopes=scopes)  # type: ignore[no-untyped-call]
    return found


def is_too_large(error: Exception) -> bool:
    """Whether a publish call was refused for the size of what it brings: 10 MB for the service, 4 MB for others."""
    from google.api_core import exceptions

    # "The value for request_size is too large…", "Request payload size exceeds the limit…" (Google), "Received message
    # larger than max…" (gRPC's own limit, an emulator's); the same codes mean other things with other texts.
    refused = isinstance(error, exceptions.InvalidArgument | exceptions.ResourceExhausted)
    return refused and re.search(r"too large|exceeds the limit|larger than max", str(error)) is not None


def explain(error: Exception, place: str, action: str) -> tuple[bool, str]:
    """What an error of a Pub/Sub call means.

    Args:
        error: What the client raised.
        place: The topic's or subscription's full name.
        action: The permission's role that is missing if it is: ``publisher`` or ``subscriber``.

    Returns:
        Whether only a change of settings helps, and a message for people.
    """
    from google.api_core import exceptions

    kind = "topic" if "/topics/" in place else "subscription"
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, exceptions.NotFound):
        return True, f"Pub/Sub has no {kind} {place}; create it, it is not made by itself"
    if isinstance(error, exceptions.PermissionDenied | exceptions.Forbidden):
        return True, f"Pub/Sub forbids {place}: {said}; grant its credentials the role roles/pubsub.{action}"
    if isinstance(error, exceptions.Unauthenticated | exceptions.Unauthorized):
        return (
            True,
            f"Pub/Sub does not accept the credentials for {place}: {said}; check GOOGLE_APPLICATION_CREDENTIALS",
        )
    if isinstance(error, exceptions.InvalidArgument | exceptions.FailedPrecondition):
        return True, f"Pub/Sub refuses {place}: {said}"
    if _is_refusal(error):
        return True, f"the credentials for {place} are not accepted: {said}"
    return False, f"Pub/Sub does not answer for {place}: {said}"
