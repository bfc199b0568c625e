"""What it means when Vertex AI, or whoever is on the way there, answers anything but success."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped] # protobuf publishes no types
from requests.exceptions import RequestException, SSLError
from urllib3.exceptions import NameResolutionError, NewConnectionError

from components.shared.backoff import retry_after_s
from components.shared.causes import causes_of
from components.shared.errors import PlatformRefusedError
from components.shared.events.google_errors import reason_of
from components.shared.events.redaction import redact, register_secret
from components.shared.params.allowed_classes import shortened
from pipelines.submit.patience import Later

LOG_IN = (
    "run `gcloud auth application-default login`, name a key file by GOOGLE_APPLICATION_CREDENTIALS, or run where a "
    "service account is"
)
_LONGEST = 1000  # characters of a server's message
_LATER = (408, 500, 502, 503, 504)
_BEARER = re.compile(r"(?i)bearer\s+(\S+)")
_ACT_AS = re.compile(r"(?i)act as service.?account|serviceAccounts\.actAs")
_RATE = re.compile(r"(?i)per minute|per second|rate limit")
_QUOTA = re.compile(r"(?i)quota")


class Expected(Exception):  # noqa: N818 - an answer, to whoever asks for that
    """A refusal that may be just what is asked for.

    Attributes:
        refusal: What to tell where it is not.
    """

    def __init__(self, refusal: PlatformRefusedError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class AlreadyExists(Expected):
    """Something of that name is there: the expected end of a repetition."""


class NotFound(Expected):
    """Nothing of that name is there: the answer to a question."""


# What the client raises when a request fails; AttributeError: it takes for granted that an error's JSON is Google's.
FAILURES = (GoogleAPICallError, GoogleAuthError, RequestException, ParseError, AttributeError)


@dataclass(frozen=True)
class Answers:
    """Reads what comes back from one place.

    Attributes:
        host: Who is asked.
        project: On whose behalf.
        location: Where it is to happen.
    """

    host: str
    project: str
    location: str

    def meaning(self, error: Exception, *expected: type[Expected], heard: bool = False) -> Exception:
        """What to raise in an error's place.

        Args:
            error: One of FAILURES.
            expected: What may be raised besides Later and PlatformRefusedError; where it is not, it is a refusal.
            heard: Whether the API has answered before: then names and TLS that fail are trouble on the way there.
        """
        meant = self._meaning(error, heard=heard)
        return meant.refusal if isinstance(meant, Expected) and not isinstance(meant, expected) else meant

    def _meaning(self, error: Exception, *, heard: bool) -> Exception:
        if isinstance(error, GoogleAPICallError):
            return self._answered(error)
        if isinstance(error, GoogleAuthError):
            return self._unauthenticated(error)
        if isinstance(error, RequestException):
            return self._unanswered(error, heard=heard)
        return self.stranger("its answer is not the API's")

    def _answered(self, error: GoogleAPICallError) -> Exception:
        _remember_token(error.response)
        said = _said(error)
        code = int(error.code or 0)
        wish = retry_after_s(error.response.headers.get("Retry-After", "")) if error.response is not None else None
        if said is None and code in (429, *_LATER):
            return Later(f"{self.host} answers {code}", done=code != 429, retry_after_s=wish)
        if said is None:
            return self.stranger(f"it answers {code}, and not as the API does")
        if code == 429:
            return self._exhausted(said, wish)
        if code in _LATER or said.status in ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return Later(f"{self.host} answers {said.name}: {said.message}", done=True, retry_after_s=wish)
        if code == 409:
            return AlreadyExists(self._refused(said, ""))
        if code == 404:
            return NotFound(self._refused(said, f"check the project {self.project} and the location {self.location}"))
        return self._refused(said, self._advice(code, said))

    def _advice(self, code: int, said: _Said) -> str:
        if code == 401:
            return LOG_IN
        if _ACT_AS.search(said.message):
            return (
                "grant whoever submits the role roles/iam.serviceAccountUser on the service account that the run is "
                "to have, and check that there is such an account"
            )
        if "quota project" in said.message:
            return f"run `gcloud auth application-default set-quota-project {self.project}`"
        if said.reason == "SERVICE_DISABLED":
            service = said.metadata.get("service") or "the Vertex AI API"
            return f"the API is not enabled: run `gcloud services enable {service} --project {self.project}`"
        if said.reason == "BILLING_DISABLED":
            return f"enable billing for the project {self.project}"
        if said.reason in ("CONSUMER_INVALID", "USER_PROJECT_DENIED"):
            return f"check that there is a project {self.project} that these credentials may use"
        if code == 403:
            return (
                f"grant these credentials the role roles/aiplatform.user in the project {self.project}; for a project "
                "that does not exist the answer is the same"
            )
        return ""

    def _exhausted(self, said: _Said, wish: float | None) -> Exception:
        quota = bool(_QUOTA.search(said.message))
        rate = said.reason == "RATE_LIMIT_EXCEEDED" or bool(_RATE.search(said.message))
        if quota and not rate:
            return self._refused(
                said,
                f"wait until other runs end, ask for more on the console's page of the quotas of {self.project}, or "
                "choose another accelerator or location",
            )
        return Later(f"{self.host} answers {said.name}: {said.message}", quota=True, retry_after_s=wish)

    def _refused(self, said: _Said, advice: str) -> PlatformRefusedError:
        where = f"Vertex AI ({self.project}, {self.location}) answers {said.name}: {said.message}"
        return PlatformRefusedError(f"{where}; {advice}" if advice else where)

    def _unauthenticated(self, error: GoogleAuthError) -> Exception:
        reason = _line(reason_of(error))
        if error.retryable or isinstance(error, TransportError) or isinstance(error.__cause__, TransportError):
            return Later(f"no token for now: {reason}")
        if isinstance(error, DefaultCredentialsError):
            return PlatformRefusedError(f"no Google credentials: {reason}; {LOG_IN}")
        return PlatformRefusedError(f"the Google credentials are not accepted: {reason}; {LOG_IN}")

    def _unanswered(self, error: RequestException, *, heard: bool) -> Exception:
        """What became of a request without an answer."""
        if error.request is not None:
            _remember_token(error)
        causes = list(causes_of(error))
        if not heard and (refusal := self._never_will(error, causes)) is not None:
            return refusal
        never_sent = any(isinstance(each, NewConnectionError | NameResolutionError) for each in causes)
        return Later(f"{self.host} does not answer, or broke off ({type(error).__name__})", done=not never_sent)

    def _never_will(self, error: RequestException, causes: list[BaseException]) -> PlatformRefusedError | None:
        """Why nobody answers there, whoever asks how often; None: somebody may."""
        untrusted = next((each for each in causes if isinstance(each, ssl.SSLCertVerificationError)), None)
        if untrusted is not None:
            return PlatformRefusedError(
                f"the certificate of {self.host} is not trusted ({untrusted.verify_message}); name the authority's "
                "file by REQUESTS_CA_BUNDLE"
            )
        # A connection that ends within TLS, which it may do at any time, comes as an error of TLS, too.
        if isinstance(error, SSLError) and not any(isinstance(each, ssl.SSLEOFError) for each in causes):
            return self.stranger("it does not speak TLS as it should")
        unknown = next((each for each in causes if isinstance(each, socket.gaierror)), None)
        if unknown is not None and unknown.errno == socket.EAI_NONAME:
            return PlatformRefusedError(
                f"there is no host {self.host}; check the location {self.location}, --endpoint and the network"
            )
        return None

    def stranger(self, why: str) -> PlatformRefusedError:
        """What to raise where somebody else answers."""
        return PlatformRefusedError(f"{self.host} is no Vertex AI endpoint, or a proxy answers for it: {why}")


@dataclass(frozen=True)
class _Said:
    """An error as the API words it."""

    name: str
    status: str
    reason: str
    message: str
    metadata: Mapping[str, str]


def _said(error: GoogleAPICallError) -> _Said | None:
    """What the API says; None where somebody else answers."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        document = error.response.json()["error"]
        status = str(document.get("status", ""))
        message = _line(str(document["message"]))
        for detail in document.get("details", ()):
            for violation in detail.get("fieldViolations", ()):
                told = _line(f"{violation.get('field', '')}: {violation.get('description', '')}")
                message = message if told in message else f"{message} ({told})"
        return _Said(status or str(error.code), status, str(error.reason or ""), message, error.metadata or {})
    return None


def _line(text: str) -> str:
    """A text from elsewhere as part of a message."""
    return shortened(redact(" ".join(text.split())), _LONGEST)


def _remember_token(answered: Any) -> None:
    """See that a token which an answer may quote is not shown."""
    headers = getattr(getattr(answered, "request", None), "headers", {})
    if found := _BEARER.fullmatch(headers.get("Authorization", "")):
        register_secret(found[1])
