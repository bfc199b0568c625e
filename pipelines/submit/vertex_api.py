"""Vertex AI's services and its staging bucket through Google's clients, and what their errors mean.

The clients of Vertex AI are the generated ones over REST: that goes through proxies, takes REQUESTS_CA_BUNDLE, and its
errors carry Retry-After, which gRPC's do not. PipelineJob.submit would take no timeout for its looks, make a bucket
that is missing, ask a third service for the project's number, and hide what goes wrong in both.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud.aiplatform_v1.services.metadata_service import MetadataServiceClient
from google.cloud.aiplatform_v1.services.pipeline_service import PipelineServiceClient
from google.cloud.storage import Client as StorageClient
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped] # protobuf publishes no types
from requests.exceptions import RequestException

from components.shared.errors import PlatformRefusedError, RetryableError
from components.shared.events.google_login import ODD_FILE, reason_of
from components.shared.events.redaction import redact, register_secret
from components.shared.retry import retry_after_s
from components.shared.text import shortened
from pipelines.submit.connection import connection_error, retried

LOG_IN = (
    "run `gcloud auth application-default login`, name a key file by GOOGLE_APPLICATION_CREDENTIALS, or run where a "
    "service account is"
)
_LONGEST = 1000  # characters of a server's message
_LATER = (408, 500, 502, 503, 504)
_RATE = re.compile(r"(?i)per minute|per second|rate limit|RATE_LIMIT_EXCEEDED")
_BEARER = re.compile(r"(?i)bearer\s+(\S+)")
# What the clients raise; AttributeError: they take for granted that an error's JSON is Google's.
_FAILURES = (GoogleAPICallError, GoogleAuthError, RequestException, ParseError, AttributeError)
# What to do about an error, by the first pattern that its code, reason and message match.
_ADVICE = (
    (r"^401 ", LOG_IN),
    (
        r"(?i)act as service.?account|serviceAccounts\.actAs",
        "grant the account that submits the role roles/iam.serviceAccountUser on the service account of the run, "
        "and check that there is such an account",
    ),
    (r"quota project", "run `gcloud auth application-default set-quota-project {project}`"),
    (r"^\S* SERVICE_DISABLED", "the API is not enabled: run `gcloud services enable {service} --project {project}`"),
    (r"^\S* BILLING_DISABLED", "enable billing for the project {project}"),
    (
        r"^\S* (CONSUMER_INVALID|USER_PROJECT_DENIED)",
        "check that there is a project {project} that these credentials may use",
    ),
    (
        r"^403 ",
        "grant these credentials the role roles/aiplatform.user in the project {project}; for a project that does not "
        "exist the answer is the same",
    ),
    (r"^404 ", "check the project {project} and the location {location}"),
    (
        r"^429 ",
        "wait until other runs end, ask for more on the console's page of the quotas of {project}, or choose another "
        "accelerator or location",
    ),
)

T = TypeVar("T")


class AnswerError(PlatformRefusedError):
    """A refusal with the message of Google's API; `code`: HTTP's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class VertexApi:
    """One project's and location's services; nothing is connected before the first request."""

    def __init__(self, project: str, location: str, endpoint: str) -> None:
        self._project, self._location, self._endpoint = project, location, endpoint
        self._answered = False

    @cached_property
    def pipelines(self) -> Any:
        """The client of pipeline jobs."""
        return self._client(lambda: PipelineServiceClient(transport="rest", client_options=self._options))

    @cached_property
    def metadata(self) -> Any:
        """The client of experiments."""
        return self._client(lambda: MetadataServiceClient(transport="rest", client_options=self._options))

    @cached_property
    def storage(self) -> Any:
        """The client of buckets."""
        return self._client(lambda: StorageClient(project=self._project))

    @property
    def _options(self) -> dict[str, str]:
        return {"api_endpoint": self._endpoint}

    def _client(self, make: Callable[[], T]) -> T:
        """A client, which finds the credentials of the environment."""
        try:
            with warnings.catch_warnings():
                # Of a person's credentials without a project for quotas; where that matters, the answer says so.
                warnings.simplefilter("ignore")
                return make()
        except GoogleAuthError as error:
            raise _unauthenticated(error) from error
        except ODD_FILE as error:
            raise PlatformRefusedError(f"no Google credentials: {redact(reason_of(error))}; {LOG_IN}") from error

    def ask(self, method: Callable[..., T], host: str = "", **request: Any) -> T:
        """Make a request until it succeeds or time is up; see :func:`pipelines.submit.connection.retried`.

        Args:
            method: Of one of the clients.
            host: Who is asked; empty: Vertex AI's endpoint.
            request: The method's arguments.

        Raises:
            AnswerError: The API refuses.
        """
        return retried(lambda timeout_s: self.ask_once(method, timeout_s, host, **request))

    def ask_once(self, method: Callable[..., T], timeout_s: float, host: str = "", **request: Any) -> T:
        """As `ask`, in one attempt, which may raise RetryableError."""
        try:
            answer = method(**request, retry=None, timeout=timeout_s)
        except _FAILURES as error:
            raise self._meaning(error, host or self._endpoint) from error
        # The generated clients take any JSON for a message, with nothing in it.
        if getattr(answer, "name", None) == "":
            raise _not_google(self._endpoint, "its answer is not the API's")
        self._answered = self._answered or not host
        return answer

    def _meaning(self, error: Exception, host: str) -> Exception:
        if isinstance(error, GoogleAPICallError):
            return self._refusal(error, host)
        if isinstance(error, GoogleAuthError):
            return _unauthenticated(error)
        if isinstance(error, RequestException):
            _remember_token(error)
            trust = "name the authority's file by REQUESTS_CA_BUNDLE"
            return connection_error(error, host, answered=self._answered, trust=trust)
        return _not_google(host, "its answer is not the API's")

    def _refusal(self, error: GoogleAPICallError, host: str) -> Exception:
        _remember_token(error.response)
        code, reason = int(error.code or 0), str(error.reason or "")
        wait_s = None if error.response is None else retry_after_s(error.response.headers.get("Retry-After", ""))
        try:
            document = error.response.json()["error"]
            message, status = _line(str(document["message"])), str(document.get("status") or code)
        except (ValueError, KeyError, TypeError, AttributeError):  # somebody else answers
            if code == 429 or code in _LATER:
                return RetryableError(f"{host} answers {code}", wait_s)
            return _not_google(host, f"it answers {code}, and not as the API does")
        for detail in document.get("details", ()):
            for violation in detail.get("fieldViolations", ()):
                found = _line(f"{violation.get('field', '')}: {violation.get('description', '')}")
                message = message if found in message else f"{message} ({found})"
        searched = f"{code} {reason} {message}"
        # A quota of what runs at once stays used up; one of requests a minute does not.
        is_rate = code == 429 and ("quota" not in message.lower() or _RATE.search(searched))
        if is_rate or code in _LATER or status in ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return RetryableError(f"{host} answers {status}: {message}", wait_s)
        service = (error.metadata or {}).get("service") or "aiplatform.googleapis.com"
        advice = next((f"; {text}" for pattern, text in _ADVICE if re.search(pattern, searched)), "")
        advice = advice.format(project=self._project, location=self._location, service=service)
        return AnswerError(f"Vertex AI ({self._project}, {self._location}) answers {status}: {message}{advice}", code)


def _unauthenticated(error: GoogleAuthError) -> Exception:
    reason = _line(reason_of(error))
    if error.retryable or isinstance(error, TransportError) or isinstance(error.__cause__, TransportError):
        return RetryableError(f"no token for now: {reason}")
    missing = isinstance(error, DefaultCredentialsError)
    what = "no Google credentials" if missing else "the Google credentials are not accepted"
    return PlatformRefusedError(f"{what}: {reason}; {LOG_IN}")


def _not_google(host: str, why: str) -> PlatformRefusedError:
    return PlatformRefusedError(f"{host} is no endpoint of Google's, or a proxy answers for it: {why}")


def _line(text: str) -> str:
    return shortened(redact(" ".join(text.split())), _LONGEST)


def _remember_token(answered: Any) -> None:
    """See that a token which an answer may quote is not shown."""
    headers = getattr(getattr(answered, "request", None), "headers", {})
    if found := _BEARER.fullmatch(headers.get("Authorization", "")):
        register_secret(found[1])
