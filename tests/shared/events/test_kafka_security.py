"""Kafka with TLS and a login: those who are let in deliver, all others learn which setting to change."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.retry import countdown
from tests.peers.kafka_relay import KafkaRelay, read_frame
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.mock_kafka import MockCluster
from tests.peers.ports import HOST, claim_port
from tests.peers.sasl import SASL_HANDSHAKE, SaslRelay
from tests.peers.tls import Certificates, tls_relay
from tests.shared.events.security_fixtures import BRIEF_S, LONG_S, REVOKED, an_event, deliver, failure
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import google_account as google_account

pytestmark = pytest.mark.usefixtures("leaky_kafka_client")

USER, PASSWORD, TOKEN, ANOTHER = "alice", "s3,cr=t ä word", "a-token-of-hers", "not-this-one"
BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PLAIN = {"SASL_MECHANISM": "PLAIN", "SASL_USERNAME": USER, "SASL_PASSWORD": PASSWORD}

Setter = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Setter:
    """Set variables; the KAFKA_ before their names may be left out."""

    def change(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"KAFKA_{name}", str(value))

    return change


@pytest.fixture
def port(kafka_broker: KafkaTopics) -> int:
    return kafka_broker.broker_port


@pytest.fixture(params=[False, True], ids=["SASL_PLAINTEXT", "SASL_SSL"])
def front(
    port: int, certificates: Certificates, environment: Setter, request: pytest.FixtureRequest
) -> Iterator[SaslRelay]:
    """A port that wants a login, with and without TLS; the protocol is set."""
    environment(SECURITY_PROTOCOL="SASL_SSL" if request.param else "SASL_PLAINTEXT")
    if request.param:
        environment(SSL_CAFILE=certificates.ca_file)
    tls = certificates.server_context() if request.param else None
    with SaslRelay(port, {USER: PASSWORD}, [TOKEN], tls=tls) as relay:
        yield relay


@pytest.fixture
def plain_front(port: int, environment: Setter) -> Iterator[SaslRelay]:
    environment(SECURITY_PROTOCOL="SASL_PLAINTEXT")
    with SaslRelay(port, {USER: PASSWORD}, [TOKEN]) as relay:
        yield relay


@pytest.mark.parametrize("login", [False, True], ids=["without login", "with login"])
def test_tls_where_none_was_set(
    port: int, status: str, certificates: Certificates, environment: Setter, login: bool
) -> None:
    if login:
        environment(SECURITY_PROTOCOL="SASL_PLAINTEXT", **PLAIN)
    with tls_relay(port, certificates) as relay:
        message = failure(StatusRefusedError, [relay.address], status)
    protocol = "SASL_SSL" if login else "SSL"
    assert message == f"Kafka {relay.address} speaks TLS; set KAFKA_SECURITY_PROTOCOL to {protocol}"


def test_no_tls_where_it_was_set(kafka_broker: KafkaTopics, status: str, environment: Setter) -> None:
    environment(SECURITY_PROTOCOL="SSL")
    message = failure(StatusRefusedError, [kafka_broker.bootstrap], status)
    assert "does not speak TLS; set KAFKA_SECURITY_PROTOCOL to PLAINTEXT, or name its TLS port" in message


@pytest.mark.parametrize("trusted", ["of somebody else", "of the system"])
def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(
    port: int, status: str, certificates: Certificates, tmp_path: Path, environment: Setter, trusted: str
) -> None:
    environment(SECURITY_PROTOCOL="SSL")
    if trusted == "of somebody else":
        environment(SSL_CAFILE=Certificates(tmp_path / "other").ca_file)
    with tls_relay(port, certificates) as relay:
        message = failure(StatusRefusedError, [relay.address], status)
    assert message.startswith(f"Kafka {relay.address}: its certificate cannot be verified: ")
    assert message.endswith("; KAFKA_SSL_CAFILE names the certificates to trust")


def test_a_certificate_for_another_host_is_refused_unless_names_do_not_matter(
    kafka_broker: KafkaTopics, port: int, status: str, certificates: Certificates, environment: Setter
) -> None:
    environment(SECURITY_PROTOCOL="SSL", SSL_CAFILE=certificates.ca_file)
    with KafkaRelay(port, tls=certificates.server_context("kafka.example.com")) as relay:
        message = failure(StatusRefusedError, [relay.address], status)
        assert kafka_broker.values(status) == []
        environment(SSL_CHECK_HOSTNAME="false")
        event = deliver([relay.address], status)
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in message
    assert message.endswith("; name it as its certificate does, or set KAFKA_SSL_CHECK_HOSTNAME to false")
    assert kafka_broker.values(status) == [event.body]


def test_a_client_certificate_that_is_wanted_must_be_shown(
    kafka_broker: KafkaTopics, port: int, status: str, certificates: Certificates, tmp_path: Path, environment: Setter
) -> None:
    environment(SECURITY_PROTOCOL="SSL", SSL_CAFILE=certificates.ca_file)
    with tls_relay(port, certificates, require_client=True) as relay:
        messages = [failure(StatusRefusedError, [relay.address], status)]
        others = Certificates(tmp_path / "other")
        environment(SSL_CERTFILE=others.client_cert_file, SSL_KEYFILE=others.client_key_file)
        messages.append(failure(StatusRefusedError, [relay.address], status))
        assert kafka_broker.values(status) == []
        environment(SSL_CERTFILE=certificates.client_cert_file, SSL_KEYFILE=certificates.client_key_file)
        event = deliver([relay.address], status)
    for message in messages:
        assert message.startswith(f"Kafka {relay.address} does not accept our TLS connection")
        assert message.endswith("it may want a client certificate: KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE")
    assert kafka_broker.values(status) == [event.body]


@pytest.mark.parametrize("mechanism", [*BY_PASSWORD, "OAUTHBEARER"])
def test_the_right_login_delivers(
    kafka_broker: KafkaTopics, front: SaslRelay, status: str, environment: Setter, mechanism: str
) -> None:
    environment(**(PLAIN if mechanism in BY_PASSWORD else {"SASL_OAUTH_TOKEN": TOKEN}) | {"SASL_MECHANISM": mechanism})
    event = deliver([front.address], status)
    assert kafka_broker.values(status) == [event.body]
    assert set(front.authenticated) == {(mechanism, USER if mechanism in BY_PASSWORD else TOKEN)}
    assert front.refused == []


@pytest.fixture(params=[0.1, 0.0], ids=["answer readable", "answer at the end of the connection"])
def close_delay(request: pytest.FixtureRequest) -> float:
    """How long after a refusal the broker hangs up; Apache Kafka does either."""
    delay: float = request.param
    return delay


@pytest.mark.parametrize("mechanism", BY_PASSWORD)
def test_a_wrong_password_is_refused_at_the_first_attempt(
    kafka_broker: KafkaTopics, front: SaslRelay, status: str, environment: Setter, mechanism: str, close_delay: float
) -> None:
    front.close_delay = close_delay
    environment(SASL_MECHANISM=mechanism, SASL_USERNAME=USER, SASL_PASSWORD=ANOTHER)
    message = failure(StatusRefusedError, [front.address], status)
    assert message.startswith(f"Kafka {front.address} does not accept the login: Authentication failed")
    assert message.endswith("; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
    assert ANOTHER not in message
    assert front.connections == 1, "more would lock the account where attempts are counted"
    assert kafka_broker.values(status) == []


def test_a_token_that_is_not_accepted_is_refused(
    front: SaslRelay, status: str, environment: Setter, close_delay: float
) -> None:
    front.close_delay = close_delay
    environment(SASL_MECHANISM="OAUTHBEARER", SASL_OAUTH_TOKEN=ANOTHER)
    message = failure(StatusRefusedError, [front.address], status)
    assert message.startswith(f'Kafka {front.address} does not accept the login: {{"status":"invalid_token"}}')
    assert message.endswith("; check the token, or what KAFKA_SASL_OAUTH_PROVIDER stands for")
    assert ANOTHER not in message


def test_a_mechanism_that_is_not_offered_is_refused_with_those_that_are(
    front: SaslRelay, status: str, environment: Setter, close_delay: float
) -> None:
    front.close_delay = close_delay
    front.mechanisms = ("SCRAM-SHA-512", "OAUTHBEARER")
    environment(**PLAIN)
    assert failure(StatusRefusedError, [front.address], status) == (
        f"Kafka {front.address} does not offer KAFKA_SASL_MECHANISM PLAIN; it offers SCRAM-SHA-512 or OAUTHBEARER"
    )


@pytest.mark.parametrize("alone", [True, False], ids=["one server", "the first of two is down"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["PLAINTEXT", "SSL"])
def test_a_missing_login_is_refused_with_what_is_offered(
    port: int, certificates: Certificates, status: str, environment: Setter, encrypted: bool, alone: bool
) -> None:
    if encrypted:
        environment(SECURITY_PROTOCOL="SSL", SSL_CAFILE=certificates.ca_file)
    tls = certificates.server_context() if encrypted else None
    with SaslRelay(port, mechanisms=("SCRAM-SHA-512", "PLAIN"), tls=tls) as front:
        servers = [front.address] if alone else [f"{HOST}:{claim_port()}", front.address]
        message = failure(StatusRefusedError, servers, status)
    protocol = "SASL_SSL" if encrypted else "SASL_PLAINTEXT"
    assert message == (
        f"Kafka {front.address} wants a login: set KAFKA_SECURITY_PROTOCOL to {protocol} and KAFKA_SASL_MECHANISM to "
        "SCRAM-SHA-512 or PLAIN"
    )


class NoLogins(KafkaRelay):
    """Answers, as Apache Kafka's ports without SASL do, that there is nothing to shake hands about."""

    async def _greet(self, reader: Any, writer: Any) -> bool:
        while frame := await read_frame(reader):
            api_key, _, correlation = struct.unpack_from(">hhi", frame, 4)
            body = struct.pack(">ihi", correlation, 34 if api_key == SASL_HANDSHAKE else 0, 0)
            writer.write(struct.pack(">i", len(body)) + body)
            await writer.drain()
        return False


@pytest.mark.parametrize("kind", ["answers", "hangs up"])
def test_a_login_where_none_is_wanted_is_refused(port: int, status: str, environment: Setter, kind: str) -> None:
    environment(SECURITY_PROTOCOL="SASL_PLAINTEXT", **PLAIN)
    with ExitStack() as stack:
        if kind == "answers":
            server = stack.enter_context(NoLogins(port)).address
        else:
            server = stack.enter_context(MockCluster(brokers=1)).bootstrap
        message = failure(StatusRefusedError, [server], status)
    assert message.startswith(f"Kafka {server} wants no login")
    assert "KAFKA_SECURITY_PROTOCOL" in message


def test_a_broker_that_hangs_up_during_the_login_is_a_refusal(port: int, status: str, environment: Setter) -> None:
    class Curt(SaslRelay):
        def _plain(self) -> Any:
            yield b""
            raise EOFError  # which ends the connection

    environment(SECURITY_PROTOCOL="SASL_PLAINTEXT", **PLAIN)
    with Curt(port) as front:
        assert failure(StatusRefusedError, [front.address], status) == (
            f"Kafka {front.address} closes the connection during the login; "
            "check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
        )


def test_a_broker_that_falls_silent_during_the_login_is_waited_for(
    plain_front: SaslRelay, status: str, environment: Setter
) -> None:
    environment(**PLAIN)
    plain_front.black_hole()
    message = failure(RetryableError, [plain_front.address], status, BRIEF_S)
    assert f"{plain_front.address} does not answer within" in message


def test_a_password_that_was_changed_is_reported_when_it_matters(
    kafka_broker: KafkaTopics, plain_front: SaslRelay, status: str, environment: Setter
) -> None:
    environment(**PLAIN)
    with closing(KafkaTransport([plain_front.address], status)) as transport:
        transport.send([an_event(0)], countdown(LONG_S))
        plain_front.users[USER] = "todays-password"
        plain_front.refuse()
        plain_front.pass_through()
        with pytest.raises((StatusRefusedError, RetryableError)):
            transport.send([an_event(1)], countdown(BRIEF_S))
        with pytest.raises(StatusRefusedError, match="does not accept the login"):
            transport.send([an_event(1)], countdown(LONG_S))
    assert len(kafka_broker.values(status)) == 1


def test_a_token_file_is_read_at_every_login(
    kafka_broker: KafkaTopics, plain_front: SaslRelay, status: str, tmp_path: Path, environment: Setter
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    environment(SASL_MECHANISM="OAUTHBEARER", SASL_OAUTH_TOKEN_FILE=file)
    with closing(KafkaTransport([plain_front.address], status)) as transport:
        transport.send([an_event(0)], countdown(LONG_S))
        plain_front.tokens = {"tomorrows-token"}
        file.write_text("tomorrows-token")
        transport.close()  # as after a broken connection
        transport.send([an_event(1)], countdown(LONG_S))
        transport.close()
        file.unlink()
        with pytest.raises(StatusRefusedError) as caught:
            transport.send([an_event(2)], countdown(LONG_S))
    assert plain_front.authenticated[-1] == ("OAUTHBEARER", "tomorrows-token")
    assert len(kafka_broker.values(status)) == 2
    assert str(caught.value) == (f"KAFKA_SASL_OAUTH_TOKEN_FILE: {file} cannot be read: No such file or directory")


def test_google_gives_a_token_for_each_login(
    kafka_broker: KafkaTopics, plain_front: SaslRelay, status: str, environment: Setter, google_account: Any
) -> None:
    class AnyToken(set[str]):
        def __contains__(self, token: object) -> bool:  # each is made anew
            return True

    plain_front.tokens = AnyToken()
    environment(SASL_MECHANISM="OAUTHBEARER", SASL_OAUTH_PROVIDER="google")
    event = deliver([plain_front.address], status)
    assert kafka_broker.values(status) == [event.body]
    assert all(len(token.split(".")) == 3 for _, token in plain_front.authenticated)
    google_account.answers = [REVOKED]
    message = failure(StatusRefusedError, [plain_front.address], status)
    assert message.startswith(
        "KAFKA_SASL_OAUTH_PROVIDER=google: the Google credentials are not accepted: invalid_grant"
    )
