"""A token for Google's services, by a file of credentials or the application default credentials."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from components.shared.errors import RetryableError, StatusRefusedError, causes_of
from components.shared.events.google_errors import ODD_FILE, reason_of
from components.shared.events.redaction import redact, register_secret

HOW_TO_LOG_IN = (
    "give the job or pod a service account, name a key file by GOOGLE_APPLICATION_CREDENTIALS, or run "
    "`gcloud auth application-default login`"
)


def log_in(where: str, scope: str, file: str | None = None, timeout_s: float = 10.0) -> Any:
    """Credentials of google-auth with a fresh token, which is a secret from then on.

    Args:
        where: What needs them, for messages.
        scope: What they are for, without Google's prefix.
        file: Of credentials; None: the application default credentials.
        timeout_s: For one request.

    Raises:
        StatusRefusedError: There are none, or they are not accepted.
        RetryableError: Whoever gives tokens does not answer, or not now.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    scopes = [f"https://www.googleapis.com/auth/{scope}"]
    credentials: Any
    try:
        with warnings.catch_warnings():  # of files from strangers; this one is named by whoever starts the run
            warnings.simplefilter("ignore", DeprecationWarning)
            if file is None:
                credentials, _ = google.auth.default(scopes=scopes)
            else:
                credentials, _ = google.auth.load_credentials_from_file(file, scopes=scopes)  # type: ignore[no-untyped-call]
    except (GoogleAuthError, *ODD_FILE) as error:
        raise StatusRefusedError(f"{where}: no Google credentials: {_reason(error, file)}; {HOW_TO_LOG_IN}") from error
    try:
        credentials.refresh(partial(Request(), timeout=timeout_s))
    except (GoogleAuthError, *ODD_FILE) as error:
        reason = _reason(error, file)
        if getattr(error, "retryable", False) or any(isinstance(each, OSError) for each in causes_of(error)):
            raise RetryableError(f"{where}: no token for the Google credentials for now: {reason}") from error
        raise StatusRefusedError(
            f"{where}: the Google credentials are not accepted: {reason}; {HOW_TO_LOG_IN}"
        ) from error
    register_secret(str(credentials.token))
    return credentials


def _reason(error: Exception, file: str | None) -> str:
    return redact(reason_of(error, file)).rstrip(".")
