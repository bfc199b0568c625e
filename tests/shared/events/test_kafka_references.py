"""Kafka's settings where nothing can be mounted: references into Secret Manager in the place of files."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from components.shared import secret_manager
from components.shared.errors import EXIT_BAD_INPUT, EXIT_FAILURE, RetryableError, StatusRefusedError
from components.shared.events.kafka.settings import client_arguments
from components.shared.events.redaction import REDACTED, redact
from components.shared.secret_manager import ENDPOINT_VARIABLE
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.sasl import SaslRelay
from tests.peers.secret_manager import SecretManager
from tests.peers.tls import Certificates
from tests.shared.events.security_fixtures import Step, deliver, service_account, states
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import a_step as a_step
from tests.shared.events.test_kafka_settings import BEARER, PASSWORD, PLAIN, TLS


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretManager]:
    """A Secret Manager that the environment names, with credentials; temporary files have a place of their own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with SecretManager() as running:
        monkeypatch.setenv(ENDPOINT_VARIABLE, running.endpoint)
        account = service_account(tmp_path / "account.json", token_uri=running.token_uri)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        yield running
    assert running.odd == []
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing that was fetched lies anywhere"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_manager, "TIMEOUT_S", 0.1)


def test_a_token_is_fetched_again_at_every_login(manager: SecretManager, impatient: None) -> None:
    manager.add("token", "first-token\n")
    reference = manager.reference("token", "latest")
    provider = client_arguments(BEARER | {"KAFKA_SASL_OAUTH_TOKEN_FILE": reference})["sasl_oauth_token_provider"]
    assert provider.token() == "first-token"
    manager.add("token", "second-token\n")
    assert provider.token() == "second-token"
    assert redact("first-token second-token") == f"{REDACTED} {REDACTED}"
    manager.faults.append(503)
    with pytest.raises(RetryableError, match=r"KAFKA_SASL_OAUTH_TOKEN_FILE: .*Secret Manager answers 503"):
        provider.token()
    manager.secrets["token"].versions[1].state = "DISABLED"
    with pytest.raises(StatusRefusedError, match="is in DISABLED state"):
        provider.token()


def test_what_is_fetched_opens_a_broker_that_wants_everything(
    manager: SecretManager,
    certificates: Certificates,
    kafka_broker: KafkaTopics,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka_broker.create_topic(topic)
    locked_key = certificates.locked_client_key(PASSWORD)
    authority = "# Zürich\n".encode() + certificates.ca_file.read_bytes()
    given = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": "alice",
        "KAFKA_SASL_PASSWORD_FILE": manager.add("password", PASSWORD),
        "KAFKA_SSL_CAFILE": manager.add("authority", authority),
        "KAFKA_SSL_CERTFILE": manager.add("certificate", certificates.client_cert_file.read_bytes()),
        "KAFKA_SSL_KEYFILE": manager.add("key", locked_key),
        "KAFKA_SSL_KEY_PASSWORD_FILE": manager.add("key-password", f"{PASSWORD}\n"),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    port = int(kafka_broker.bootstrap.split(",")[0].rpartition(":")[2])
    with SaslRelay(port, {"alice": PASSWORD}, tls=certificates.server_context(require_client=True)) as front:
        event = deliver([front.address], topic)
        assert set(front.authenticated) == {("SCRAM-SHA-512", "alice")}
    assert [record.value for record in kafka_broker.records(topic)] == [event.body]
    # The key is a secret from now on, and the authority's certificates are none.
    line_of_the_key, line_of_the_authority = (text.splitlines()[-3].decode() for text in (locked_key, authority))
    assert redact(f"{line_of_the_key}, {line_of_the_authority}") == f"{REDACTED}, {line_of_the_authority}"
    assert set(manager.read) == {"password/1", "authority/1", "certificate/1", "key/1", "key-password/1"}


@pytest.mark.parametrize(
    "fetched", [["KAFKA_SSL_CERTFILE"], ["KAFKA_SSL_KEYFILE"], ["KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"]]
)
@pytest.mark.parametrize("fits", [True, False], ids=["loaded", "refused"])
def test_what_openssl_reads_from_a_file_is_for_this_user_alone_and_for_a_moment(
    manager: SecretManager, certificates: Certificates, tmp_path: Path, fetched: list[str], fits: bool
) -> None:
    key_file = (certificates if fits else Certificates(tmp_path / "other")).client_key_file
    files = {"KAFKA_SSL_CERTFILE": certificates.client_cert_file, "KAFKA_SSL_KEYFILE": key_file}
    references = {name: manager.add(name, files[name].read_bytes()) for name in fetched}
    given = {name: str(file) for name, file in files.items()} | references
    modes = []

    def record(context: ssl.SSLContext, file: str, *rest: Any) -> None:
        modes.append(stat.S_IMODE(Path(file).stat().st_mode))
        load(context, file, *rest)

    with pytest.MonkeyPatch.context() as patch:
        load = ssl.SSLContext.load_cert_chain
        patch.setattr(ssl.SSLContext, "load_cert_chain", record)
        with nullcontext() if fits else pytest.raises(StatusRefusedError, match="are not a certificate and its key"):
            client_arguments(TLS | given)
    assert modes == [0o600]


def test_a_certificate_may_have_its_key_with_it(manager: SecretManager, certificates: Certificates) -> None:
    both = certificates.client_cert_file.read_bytes() + certificates.client_key_file.read_bytes()
    assert "ssl_context" in client_arguments(TLS | {"KAFKA_SSL_CERTFILE": manager.add("both", both)})


def test_where_no_temporary_file_can_be_written_the_variable_is_named(
    manager: SecretManager, certificates: Certificates
) -> None:
    both = certificates.client_cert_file.read_bytes() + certificates.client_key_file.read_bytes()
    reference = manager.add("both", both)
    with pytest.MonkeyPatch.context() as nowhere:
        nowhere.setattr("tempfile.tempdir", "/proc/nowhere")
        with pytest.raises(StatusRefusedError) as caught:
            client_arguments(TLS | {"KAFKA_SSL_CERTFILE": reference})
    assert str(caught.value) == (
        f"KAFKA_SSL_CERTFILE: {reference} has to lie in a temporary file for a moment, and none can "
        "be written: No such file or directory; TMPDIR names a directory for them"
    )


# By name: an environment, and what must be told. Words in braces are the references below.
BAD: dict[str, tuple[dict[str, str], str]] = {
    "secret empty": (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{newline}"}, "KAFKA_SASL_PASSWORD_FILE: {newline} is empty"),
    "secret no text": (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{noise}"}, "KAFKA_SASL_PASSWORD_FILE: {noise} is no text"),
    "secret not there": (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{nowhere}"},
        "KAFKA_SASL_PASSWORD_FILE: {nowhere}: there is no such secret or version ("),
    "secret malformed": (BEARER | {"KAFKA_SASL_OAUTH_TOKEN_FILE": "sm://token"},
        "KAFKA_SASL_OAUTH_TOKEN_FILE: sm://token refers to no secret; write sm://projects/"),
    "reference as password": (PLAIN | {"KAFKA_SASL_PASSWORD": "{good}"},
        "KAFKA_SASL_PASSWORD is a reference to a secret, not the secret; set KAFKA_SASL_PASSWORD_FILE to it instead"),
    "secret empty authority": (TLS | {"KAFKA_SSL_CAFILE": "{empty}"},
        "KAFKA_SSL_CAFILE: {empty} holds no certificates (PEM)"),
    "secret no ASCII": (TLS | {"KAFKA_SSL_CAFILE": "{umlaut}"},
        "KAFKA_SSL_CAFILE: {umlaut} holds no certificates (PEM)"),
    "secret no certificate": (TLS | {"KAFKA_SSL_CERTFILE": "{good}"},
        "KAFKA_SSL_CERTFILE: {good} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_references_are_told_with_what_to_do(manager: SecretManager, name: str) -> None:
    contents = {
        "newline": b"\n",
        "noise": b"\xff\xfe\x00",
        "good": PASSWORD.encode(),
        "empty": b"",
        "umlaut": "ä".encode(),
    }
    references = {word: manager.add(word, content) for word, content in contents.items()}
    references["nowhere"] = manager.reference("nowhere", "latest")
    environment, expected = BAD[name]
    with pytest.raises(StatusRefusedError) as caught:
        client_arguments({variable: value.format_map(references) for variable, value in environment.items()})
    message = str(caught.value)
    assert message.startswith(expected.format_map(references))
    assert "\n" not in message
    assert PASSWORD not in message
    assert redact(message) == message


@pytest.mark.parametrize("is_away", [False, True], ids=["no such secret", "away"])
def test_a_step_that_gets_no_secret_ends_before_its_work_with_one_message(
    manager: SecretManager, impatient: None, a_step: Step, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    reference = manager.add("kafka", PASSWORD) if is_away else manager.reference("kafka", 1)
    manager.faults += [503] * (100 * is_away)
    for name, value in (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": reference}).items():
        monkeypatch.setenv(name, value)
    ended = a_step(KAFKA_HOST="127.0.0.1:9", KAFKA_TOPIC="status", on_status_error="fail", TIMEOUT=3)
    assert ended.code == (EXIT_FAILURE if is_away else EXIT_BAD_INPUT)
    assert not ended.worked
    assert ended.message.startswith(f"KAFKA_SASL_PASSWORD_FILE: {reference}: ")
    assert "Traceback" not in ended.told
    assert ended.spooled[-1] == "failed"


def test_a_secret_manager_that_is_away_delays_status_and_nothing_else(
    manager: SecretManager, a_step: Step, kafka_broker: KafkaTopics, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka_broker.create_topic(topic)
    monkeypatch.setattr(secret_manager, "TIMEOUT_S", 0.1)
    for name, value in (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": manager.add("kafka", PASSWORD)}).items():
        monkeypatch.setenv(name, value)
    manager.faults += [503] * 3
    port = int(kafka_broker.bootstrap.split(",")[0].rpartition(":")[2])
    with SaslRelay(port, {"alice": PASSWORD}) as front:
        ended = a_step(KAFKA_HOST=front.address, KAFKA_TOPIC=topic, on_status_error="warn", TIMEOUT=20)
    assert (ended.code, ended.worked) == (0, True)
    assert "Secret Manager answers 503" in ended.told
    assert states([record.value for record in kafka_broker.records(topic)]) == ended.spooled
