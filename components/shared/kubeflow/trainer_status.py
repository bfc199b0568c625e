"""How far a step is, for Kubeflow Trainer, which shows it as the TrainJob's ``status.trainerStatus``.

Where its feature gate TrainJobStatus is on, Trainer names a server, the file of its CA and that of a token to every pod
(pkg/runtime/framework/plugins/trainjobstatus of v2.3.0); each report replaces the one before (pkg/statusserver). By
the standard library, since the images hold no client of Trainer's.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self
from urllib.parse import urlsplit

from components.shared.errors import RetryableError
from components.shared.events.data import EventData, Progress, Succeeded
from components.shared.events.redaction import redact, register_secret
from components.shared.kubeflow.api import token_of
from components.shared.retry import bounded, countdown, pause_s, retry_after_s

URL_VARIABLE = "KUBEFLOW_TRAINER_SERVER_URL"
CA_VARIABLE, TOKEN_VARIABLE = "KUBEFLOW_TRAINER_SERVER_CA_CERT", "KUBEFLOW_TRAINER_SERVER_TOKEN"  # their files

# Trainer's server applies 5 reports a second of all jobs together; its SDK sends one every 5 s.
EVERY_S = 5.0
_LONGEST_PAUSE_S = 60.0
_LONGEST_RETRY_AFTER_S = 600.0
ATTEMPT_S = 5.0
LAST_S = 2.0  # what a step's end may wait for the last report
# The CRD's limits, and the server's of a body.
_MOST_METRICS, _LONGEST_TEXT, _LARGEST_INT, _LARGEST_BODY = 256, 64, 2**31 - 1, 64 * 1024
_LARGEST_ANSWER = 64 * 1024
_WHO = "Kubeflow Trainer"


@dataclass(frozen=True)
class TrainerServer:
    """Where one job's status is reported: the address of its own, the file of the CA, and that of the token."""

    url: str
    ca_file: Path
    token_file: Path

    @classmethod
    def from_environment(cls) -> Self | None:
        """What Trainer has set, if it has; ValueError where that cannot be used."""
        named = [os.environ.get(name, "") for name in (URL_VARIABLE, CA_VARIABLE, TOKEN_VARIABLE)]
        if not named[0]:
            return None
        try:
            parts = urlsplit(named[0])
            is_address = parts.scheme == "https" and parts.hostname and parts.port != 0 and parts.username is None
        except ValueError:
            is_address = False
        if not is_address:
            raise ValueError(f"{URL_VARIABLE} must be https://HOST:PORT/PATH")
        if not all(named):
            raise ValueError(f"{URL_VARIABLE} is set, and not both of {CA_VARIABLE} and {TOKEN_VARIABLE}")
        return cls(named[0], Path(named[1]), Path(named[2]))

    def post(self, body: bytes, within_s: float) -> None:
        """Send a report; RetryableError: it is not taken, and why."""
        parts = urlsplit(self.url)
        try:
            if (token := token_of(self.token_file)) is None:  # read each time: Kubernetes renews it
                raise RetryableError(f"the file that {TOKEN_VARIABLE} names holds no token")
            register_secret(token)
            # Only what this authority has signed, no proxy, which would lead out of the cluster, and no redirect.
            trusted = ssl.create_default_context(cafile=str(self.ca_file))
            connection = HTTPSConnection(parts.hostname or "", parts.port, timeout=within_s, context=trusted)
        except OSError as error:
            raise RetryableError(f"{self.ca_file}: {error.strerror or error}") from error
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}

        def ask() -> tuple[int, float | None, bytes]:
            connection.request("POST", parts.path, body, headers)
            answer = connection.getresponse()
            text = b"" if answer.status == HTTPStatus.OK else answer.read(_LARGEST_ANSWER)  # else the report again
            return answer.status, retry_after_s(answer.getheader("Retry-After", "")), text

        try:
            status, later_s, text = bounded(ask, within_s)
        except (OSError, HTTPException, ValueError) as error:  # a name that is too long is a UnicodeError
            reason = f"does not answer within {within_s:g} s" if isinstance(error, TimeoutError) else _reason(error)
            raise RetryableError(f"{parts.netloc}: {reason}") from error
        finally:
            with suppress(OSError, AttributeError):  # what still waits there ends
                connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
        if status != HTTPStatus.OK:
            raise RetryableError(f"{parts.netloc}: answers {status}{_message(text)}", later_s)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _message(text: bytes) -> str:
    """The message of Kubernetes' Status, as Trainer answers it."""
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        return ", " + redact("".join(c for c in str(json.loads(text)["message"]) if c.isprintable())[:200])
    return ""


class TrainerStatus(threading.Thread):
    """Reports how far this step is, at most every 5 s and of the newest progress alone, until it ends."""

    def __init__(self, server: TrainerServer, log: logging.Logger) -> None:
        super().__init__(name="status-trainer", daemon=True)
        self._server = server
        self._log = log
        self._newest: Progress | None = None
        self._last: Succeeded | None = None
        self._is_idle = self._is_ending = self._has_cut = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._trouble = ""
        self._time_left = countdown(LAST_S)

    @classmethod
    def started(cls, log: logging.Logger) -> Self | None:
        """One that reports to the server that the environment names; None where it names none that can be used."""
        try:
            server = TrainerServer.from_environment()
        except ValueError as error:
            log.warning("progress is not reported to %s: %s", _WHO, error)
            return None
        if server is None:
            return None
        status = cls(server, log)
        status.start()
        return status

    def take(self, data: EventData) -> None:
        """Report progress, soon; costs a microsecond. What travels at a step's start and end is no progress of it."""
        if isinstance(data, Progress) and data.unit != "bytes":
            self._newest = data
            if self._is_idle:
                self._is_idle = False
                self._wake.put(None)

    def end(self, data: EventData) -> None:
        """Report the end, 100 % where the step has succeeded; else what was reached stays."""
        self._last = data if isinstance(data, Succeeded) else None
        self._time_left = countdown(LAST_S)
        self._is_ending = True
        self._wake.put(None)

    def close(self) -> None:
        """Wait for the last report, at most two seconds from when the end was known."""
        self.join(max(0.0, self._time_left()))
        if self.is_alive():
            self._note("no answer in time")

    def run(self) -> None:
        """Report until the end."""
        reported: Progress | None = None
        failures = 0
        while not self._is_ending:
            self._is_idle = True
            if self._newest is reported:
                self._wake.get()
                continue
            self._is_idle = False
            progress = self._newest
            retry_after = self._report(_status_of(progress, None), ATTEMPT_S)
            if retry_after is None:
                reported, failures = progress, 0
                pause = EVERY_S
            else:
                pause = max(EVERY_S, pause_s(failures, EVERY_S, _LONGEST_PAUSE_S), retry_after)
                failures += 1
            self._pause(pause)
        if self._last is not None or self._newest is not reported:
            self._report(_status_of(self._newest, self._last), max(0.1, self._time_left()))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._is_ending and (left := end - time.monotonic()) > 0:
            with suppress(Empty):
                self._wake.get(timeout=left)

    def _report(self, status: dict[str, Any], within_s: float) -> float | None:
        """Send a report; None if it was taken, else the seconds that the server asks to wait."""
        body, left_out = _body(status)
        if left_out and not self._has_cut:
            self._has_cut = True
            self._log.warning("%d metrics are not reported to %s, which takes 256 and 64 kB", left_out, _WHO)
        try:
            self._server.post(body, within_s)
        except RetryableError as error:
            self._note(str(error))
            return min(error.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S)
        except Exception as error:  # a defect of ours; it must cost nobody a training
            self._note(f"{type(error).__name__}: {error}")
            return _LONGEST_PAUSE_S
        self._note("")
        return None

    def _note(self, trouble: str) -> None:
        """Log trouble, and that there is none any more, once each."""
        before, self._trouble = self._trouble, trouble
        if trouble and not before:
            self._log.warning("progress is not reported to %s: %s; going on", _WHO, redact(trouble))
        elif before and not trouble:
            self._log.info("progress is reported to %s again", _WHO)


def _status_of(progress: Progress | None, end: Succeeded | None) -> dict[str, Any]:
    status: dict[str, Any] = {"lastUpdatedTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    figures: dict[str, float | None] = {}
    if progress is not None:
        if progress.steps:  # 100 is the end's alone: after the last step a model is still to be written
            status["progressPercentage"] = min(99, 100 * progress.step // progress.steps)
        if progress.eta_seconds is not None and not math.isnan(progress.eta_seconds):
            status["estimatedRemainingSeconds"] = math.ceil(min(max(0.0, progress.eta_seconds), _LARGEST_INT))
        figures = {"epoch": progress.epoch, "samples_per_second": progress.samples_per_second}
        figures |= {"learning_rate": progress.learning_rate}
        figures |= {f"{split}_loss": loss for split, loss in progress.losses.items()} | progress.metrics
    if end is not None:
        status |= {"progressPercentage": 100, "estimatedRemainingSeconds": 0}
        figures |= end.metrics
    status["metrics"] = _metrics(figures)
    return status


def _metrics(figures: Mapping[str, float | None]) -> list[dict[str, str]]:
    known: dict[str, str] = {}
    for name, value in figures.items():
        if name and value is not None and math.isfinite(value):
            known.setdefault(name[:_LONGEST_TEXT], f"{value:.6g}")
    return [{"name": name, "value": value} for name, value in known.items()]


def _body(status: dict[str, Any]) -> tuple[bytes, int]:
    """A report as JSON, and how many of its metrics had no room in it."""
    metrics = status["metrics"]
    for count in range(min(len(metrics), _MOST_METRICS), -1, -1):
        document = {"trainerStatus": status | {"metrics": list(islice(metrics, count))}}
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(body) <= _LARGEST_BODY:
            return body, len(metrics) - count
    raise AssertionError  # without metrics it is small
