"""What the tests of security settings share; each imports the fixtures that it needs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import _exponential_backoff

from components.shared.events import redaction
from components.shared.events.data import Emit, Progress, StepStarted
from components.shared.events.event import EncodedEvent, EventSource, StepEvent, encode
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.events.spool import events_in
from components.shared.params.params import Params
from components.shared.retry import countdown
from components.shared.run import EVENTS_VARIABLE
from components.shared.step import StepFailed, StepRecord, run_step
from tests.configs import small
from tests.peers.peer import Peer
from tests.shared.test_step import Result

# How long a test waits for something that must not come.
BRIEF_S = 0.6
# How long a test waits for something that must come; only a defect takes it.
LONG_S = 30.0


@pytest.fixture(autouse=True)
def a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but the test's own, and no secret of an earlier test that would be removed from this one's texts."""
    for name in list(os.environ):
        if name.startswith(("KAFKA_", "GOOGLE_", "PUBSUB_", "SHUTTERLINE_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(redaction, "registered_secrets", set())


@pytest.fixture
def hurried_google(monkeypatch: pytest.MonkeyPatch) -> None:
    """google-auth tries again without the seconds between that it gives a server to recover."""
    monkeypatch.setattr(_exponential_backoff, "time", SimpleNamespace(sleep=lambda seconds: None))


def an_event(number: int = 0) -> EncodedEvent:
    data = StepStarted("1.0", "pod-1")
    return encode(EventSource("run-1", "train", 0, "pod-1"), number, "started", time.time_ns(), data)


def deliver(servers: Sequence[str], topic: str, seconds: float = LONG_S) -> EncodedEvent:
    """Send one event with a transport of its own."""
    event = an_event()
    with closing(KafkaTransport(servers, topic)) as transport:
        transport.send([event], countdown(seconds))
    return event


def failure(kind: type[Exception], servers: Sequence[str], topic: str, seconds: float = LONG_S) -> str:
    """The message for whoever cannot deliver, in one line."""
    with pytest.raises(kind) as caught:
        deliver(servers, topic, seconds)
    message = str(caught.value)
    assert "\n" not in message
    return message


@dataclass(frozen=True)
class StepEnd:
    """How a step ended.

    Attributes:
        code: Its exit code.
        worked: Whether its work was begun.
        told: Its log.
        record: What it leaves.
        spooled: The states it told, as the spool has them.
    """

    code: int
    worked: bool
    told: str
    record: StepRecord
    spooled: list[str]

    @property
    def error_type(self) -> str:
        """The class of the error that it ended with."""
        return self.record.error.type if self.record.error is not None else ""

    @property
    def message(self) -> str:
        """The one line that tells what is wrong."""
        (line,) = [line for line in self.told.splitlines() if "ERROR" in line]
        return line.partition("ERROR failed: ")[2]


Step = Callable[..., StepEnd]


@pytest.fixture
def a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Step:
    """Run a step whose params name brokers, as a pipeline does."""
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events"))

    def run(**params: Any) -> StepEnd:
        worked = []

        def work(params: Params, emit: Emit) -> Result:
            worked.append(params)
            emit(Progress(1, 1))
            return Result()

        code = 0
        try:
            _, record = run_step("train", Params.from_dict(small(**params)), work)
        except StepFailed as failed:
            code, record = failed.record.exit_code, failed.record
        spooled: list[str] = [event.state for event in events_in(tmp_path / "events")]
        return StepEnd(code, bool(worked), capsys.readouterr().err, record, spooled)

    return run


def states(bodies: Sequence[bytes]) -> list[str]:
    """What a broker was told, in short."""
    return [StepEvent.from_bytes(body).state for body in bodies]


class TokenServer(Peer):
    """Answers requests for access tokens as Google's OAuth server does.

    Attributes:
        answers: Status and JSON document of each answer in turn, the last one for ever.
        asked: How often it was asked.
    """

    def __init__(self, *answers: tuple[int, dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked += 1
                status, document = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/token"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


GRANTED = (200, {"access_token": "ya29.of-nobody", "expires_in": 600})
REVOKED = (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
BUSY = (503, {"error": "temporarily_unavailable"})


@pytest.fixture
def google_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    """A service account that the environment names, and who gives tokens for it."""
    with TokenServer(GRANTED) as server:
        file = service_account(tmp_path / "account.json", token_uri=server.uri)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        yield server


@cache
def private_key() -> str:
    """A service account's private key as Google writes it (PEM)."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


def service_account(path: Path, **changes: str | None) -> Path:
    """A service-account file, with `changes`; None leaves a field out."""
    document = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "0123456789abcdef",
        "private_key": private_key(),
        "client_email": "status@project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:9/token",  # nobody listens
        **changes,
    }
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))
    return path
