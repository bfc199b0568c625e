"""Pub/Sub's credentials and permissions: checked as a step starts, told with what to do, never shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.pubsub import client
from components.shared.events.pubsub.client import check_client
from components.shared.events.pubsub.publisher import PubSubTransport
from components.shared.events.redaction import redact
from components.shared.retry import countdown
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.ports import HOST, claim_port
from tests.peers.pubsub_server import PubSubServer
from tests.peers.tls import Certificates, tls_relay
from tests.shared.events.security_fixtures import (
    BUSY,
    GRANTED,
    LONG_S,
    REVOKED,
    Step,
    TokenServer,
    an_event,
    private_key,
    service_account,
    states,
)
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import a_step as a_step
from tests.shared.events.security_fixtures import google_account as google_account
from tests.shared.events.security_fixtures import hurried_google as hurried_google

# A step that is refused waits so long at its end for the broker that refuses.
PUBSUB: dict[str, Any] = {"PUB_SUB_PROJECT": "project", "PUB_SUB_TOPIC": "status", "TIMEOUT": 1.5}
TOPIC = "projects/project/topics/status"


@pytest.fixture
def server(pubsub_server: PubSubServer) -> PubSubServer:
    """A server with the topic."""
    pubsub_server.create_topic("project", "status")
    return pubsub_server


@pytest.fixture
def emulated(server: PubSubServer, monkeypatch: pytest.MonkeyPatch) -> PubSubServer:
    """The same, which the environment names as an emulator: no credentials are asked for."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.host)
    return server


@pytest.fixture
def service(
    server: PubSubServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PubSubServer]:
    """The same with TLS in the place of Google's service; its authority is trusted as Google's is."""
    with tls_relay(server.port, certificates, kafka=False) as front:
        trusting = partial(grpc.ssl_channel_credentials, root_certificates=certificates.ca_file.read_bytes())
        monkeypatch.setattr(grpc, "ssl_channel_credentials", trusting)
        monkeypatch.setattr(client, "SERVICE", front.address)
        yield server


def deliver(credentials: Path | None = None) -> None:
    file = None if credentials is None else str(credentials)
    with closing(PubSubTransport(TOPIC, file, timeout_s=LONG_S)) as transport:
        transport.send([an_event()], countdown(LONG_S))


def published(server: PubSubServer) -> list[str]:
    return states([message.data for message in server.published(TOPIC)])


MOUNT = "; mount it, or leave the key out to use the application default credentials"
NO_CREDENTIALS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, f" cannot be read: No such file or directory{MOUNT}"),
    "directory": (None, f" cannot be read: Is a directory{MOUNT}"),
    "not JSON": (b"private_key: hunter2", " is not a JSON file of credentials"),
    "no text": (b"\xff\xfehunter2", " is not a JSON file of credentials"),
    "deep": (b"[" * 100_000 + b"hunter2", " is not a JSON file of credentials"),
    "no object": (b'["hunter2"]', ' is not a file of Google credentials: it has no "type"'),
    "no type": (b'{"private_key": "hunter2"}', ' is not a file of Google credentials: it has no "type"'),
}


@pytest.mark.parametrize("kind", NO_CREDENTIALS)
def test_a_file_that_is_none_ends_the_step_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_step: Step, kind: str
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"{HOST}:{claim_port()}")
    content, expected = NO_CREDENTIALS[kind]
    file = tmp_path / "account.json"
    if kind == "directory":
        file.mkdir()
    if content is not None:
        file.write_bytes(content)
    ended = a_step(GOOGLE_APPLICATION_CREDENTIALS=str(file), **PUBSUB)
    assert (ended.code, ended.worked) == (2, False)
    assert ended.message == f"GOOGLE_APPLICATION_CREDENTIALS: {file}{expected}"
    assert "Traceback" not in ended.told
    assert "hunter2" not in ended.told
    assert ended.spooled == ["started", "failed"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"private_key": "hunter2"}, "Unable to load PEM file"),
        ({"client_email": None}, "missing fields client_email"),
        ({"token_uri": None}, "missing fields token_uri"),
        ({"type": "of_another_kind"}, "does not have a valid type"),
    ],
    ids=["no key", "no address", "nowhere to ask for tokens", "unknown type"],
)
def test_a_service_account_that_cannot_be_used_ends_the_step_with_its_name(
    tmp_path: Path, a_step: Step, changes: dict[str, str | None], expected: str
) -> None:
    file = service_account(tmp_path / "account.json", **changes)
    ended = a_step(GOOGLE_APPLICATION_CREDENTIALS=str(file), **PUBSUB)
    assert (ended.code, ended.worked) == (2, False)
    assert ended.message.startswith(f"GOOGLE_APPLICATION_CREDENTIALS: {file}: no Google credentials: ")
    assert expected in ended.message
    assert "Traceback" not in ended.told
    assert "hunter2" not in ended.told
    assert private_key().splitlines()[1] not in ended.told


def test_without_any_credentials_the_step_ends_with_how_to_name_some(
    a_step: Step, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    ended = a_step(**PUBSUB)
    assert (ended.code, ended.worked) == (2, False)
    assert ended.message.startswith("Pub/Sub: no Google credentials: ")
    assert "name a key file by GOOGLE_APPLICATION_CREDENTIALS" in ended.message


def test_a_secret_of_the_file_is_taken_out_of_texts_from_then_on(tmp_path: Path) -> None:
    user = {"type": "authorized_user", "client_secret": "GOCSPX-hunter2", "refresh_token": "1//0e-hunter2"}
    (tmp_path / "user.json").write_text(json.dumps(user))
    line = private_key().splitlines()[3]
    texts = f"GOCSPX-hunter2, 1//0e-hunter2, {line}"
    assert redact(texts) == texts
    for file in (tmp_path / "user.json", service_account(tmp_path / "account.json")):
        check_client("PUB_SUB_TOPIC", str(file))
    assert redact(texts) == "[redacted], [redacted], [redacted]"


def test_the_emulator_needs_no_credentials(emulated: PubSubServer) -> None:
    deliver()
    assert published(emulated) == ["started"]


@pytest.mark.parametrize("of_params", [True, False], ids=["of the params", "of the environment"])
def test_credentials_with_a_token_deliver(
    service: PubSubServer, google_account: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_params: bool
) -> None:
    if of_params:
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    deliver(tmp_path / "account.json" if of_params else None)
    assert google_account.asked == 1
    assert published(service) == ["started"]
    assert redact("with ya29.of-nobody") == "with [redacted]"


@pytest.mark.usefixtures("service")
def test_credentials_that_google_does_not_accept_end_the_step(
    google_account: TokenServer, tmp_path: Path, a_step: Step
) -> None:
    google_account.answers = [REVOKED]
    file = tmp_path / "account.json"
    ended = a_step(GOOGLE_APPLICATION_CREDENTIALS=str(file), **PUBSUB)
    assert (ended.code, ended.worked) == (2, False)
    assert ended.message.startswith(
        f"GOOGLE_APPLICATION_CREDENTIALS: {file}: the Google credentials are not accepted: invalid_grant: Invalid JWT"
    )
    assert "Traceback" not in ended.told


@pytest.mark.usefixtures("hurried_google")
def test_a_token_server_in_trouble_is_waited_for(
    google_account: TokenServer, tmp_path: Path, service: PubSubServer
) -> None:
    google_account.answers = [BUSY]
    with closing(PubSubTransport(TOPIC, str(tmp_path / "account.json"), timeout_s=LONG_S)) as transport:
        with pytest.raises(RetryableError, match="no token for the Google credentials for now: temporarily_unavailabl"):
            transport.send([an_event()], countdown(LONG_S))
        google_account.answers = [GRANTED]
        assert transport.send([an_event()], countdown(LONG_S)) == 1
    assert published(service) == ["started"]


CODES = grpc.StatusCode
ANSWERS: dict[str, tuple[grpc.StatusCode, str, str]] = {
    "no permission": (
        CODES.PERMISSION_DENIED, "User not authorized.",
        f"Pub/Sub forbids {TOPIC}: 403 User not authorized.; grant its credentials the role roles/pubsub.publisher",
    ),
    "bad credentials": (
        CODES.UNAUTHENTICATED, "Invalid.",
        f"Pub/Sub does not accept the credentials for {TOPIC}: 401 Invalid.; check GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "no topic": (
        CODES.NOT_FOUND, "Resource not found.", f"Pub/Sub has no topic {TOPIC}; create it, it is not made by itself",
    ),
    "disabled project": (
        CODES.FAILED_PRECONDITION, "Billing is off.", f"Pub/Sub refuses {TOPIC}: 400 Billing is off.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_refusal_ends_the_step_before_its_work_and_the_other_broker_hears_of_it(
    emulated: PubSubServer, kafka_broker: KafkaTopics, topic: str, a_step: Step, kind: str
) -> None:
    code, said, expected = ANSWERS[kind]
    emulated.fail_always("Publish", code, said)
    kafka_broker.create_topic(topic)
    ended = a_step(KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC=topic, **PUBSUB)
    assert (ended.code, ended.worked) == (2, False)
    assert ended.message == expected
    assert "Traceback" not in ended.told
    assert ended.error_type == "StatusRefusedError"
    assert states([record.value for record in kafka_broker.records(topic)]) == ["started", "failed"]
    assert emulated.published(TOPIC) == []


def test_a_topic_that_is_really_missing_is_not_made(emulated: PubSubServer, a_step: Step) -> None:
    emulated.delete_topic(TOPIC)
    ended = a_step(**PUBSUB)
    assert (ended.code, ended.worked) == (2, False)
    assert ended.message == f"Pub/Sub has no topic {TOPIC}; create it, it is not made by itself"
    assert emulated.requests["CreateTopic"] == 0


UNAVAILABLE: dict[str, Callable[[PubSubServer], None]] = {
    "it says so": lambda server: server.fail_always("Publish", CODES.UNAVAILABLE, "try again"),
    "it has too much to do": lambda server: server.fail_always("Publish", CODES.RESOURCE_EXHAUSTED, "quota"),
    "nobody listens": PubSubServer.stop,
}


@pytest.mark.parametrize("why", UNAVAILABLE)
def test_a_service_that_is_not_there_is_a_warning_and_everything_waits_in_the_spool(
    emulated: PubSubServer, a_step: Step, why: str
) -> None:
    UNAVAILABLE[why](emulated)
    ended = a_step(**PUBSUB)
    assert (ended.code, ended.worked) == (0, True)
    assert f"Pub/Sub does not answer for {TOPIC}" in ended.told
    assert "going on, status waits in the spool" in ended.told
    assert ended.spooled == ["started", "progress", "succeeded"]
    assert ended.record.delivery is not None
    report = ended.record.delivery["brokers"]["pubsub"]
    assert (report["delivered"], report["undelivered"]) == (0, 3)
    assert f"Pub/Sub does not answer for {TOPIC}" in report["trouble"]


def test_a_service_that_is_not_there_fails_the_step_where_the_params_say_so(
    emulated: PubSubServer, a_step: Step
) -> None:
    emulated.stop()
    ended = a_step(on_status_error="fail", **PUBSUB)
    assert (ended.code, ended.worked) == (1, False)
    assert f"Pub/Sub does not answer for {TOPIC}" in ended.message


@pytest.mark.parametrize(
    ("code", "kind"), [(CODES.PERMISSION_DENIED, StatusRefusedError), (CODES.UNAVAILABLE, RetryableError)]
)
def test_after_an_answer_of_no_the_next_attempt_may_succeed(
    emulated: PubSubServer, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    emulated.fail_next("Publish", code)
    with closing(PubSubTransport(TOPIC, timeout_s=LONG_S)) as transport:
        with pytest.raises(kind):
            transport.send([an_event()], countdown(LONG_S))
        transport.send([an_event()], countdown(LONG_S))
    assert len(emulated.published(TOPIC)) == 1
