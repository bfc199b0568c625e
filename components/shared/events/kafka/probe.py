"""Ask a broker once, over one socket, what kafka-python's own clients do not report.

They say "Unable to bootstrap" whatever the reason is, repeat a refused login until the time is over, which locks
accounts, and leak a socket at every attempt. The messages and the login's mechanisms are kafka-python's; here are only
the socket, the time limit, and what an answer says of the settings.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

from components.shared.errors import StatusRefusedError
from components.shared.events.transport import RefusedError, RetryableError, TimeLeft

_UNSUPPORTED_MECHANISM, _ILLEGAL_SASL_STATE = 33, 34
_WRONG_NAME = (62, 64)  # OpenSSL's: of the host, of the address
_PROBE_S = 10.0
_POLL_S = 0.2  # how often a wait asks whether it is to end
_LOGIN_CHECKS = {"OAUTHBEARER": "the token, or what KAFKA_SASL_OAUTH_PROVIDER stands for"}

AnswerT = TypeVar("AnswerT")


class _ClosedError(ConnectionError):
    """The other side closed the connection instead of answering."""


class _NotKafkaError(ConnectionError):
    """The other side answered, and not as a broker does."""


class Broker:
    """A connection to one broker, logged in on entering.

    Args:
        server: ``host:port``.
        client: kafka-python's arguments, of which security and version are heeded.
        time_left: How long to wait for each answer.

    Attributes:
        version: Of the broker, as a client's ``api_version``.
    """

    version: tuple[int, ...]

    def __init__(self, server: str, client: dict[str, Any], time_left: TimeLeft) -> None:
        from kafka.protocol.parser import KafkaProtocol

        self._server, self._client, self._patience = server, client, time_left
        self._mechanism: str | None = client.get("sasl_mechanism")
        self._parser = KafkaProtocol(client_id=client["client_id"], receive_message_max_bytes=1_000_000)
        host, _, port = server.rpartition(":")
        self._host = host.strip("[]")
        self._socket = socket.create_connection((self._host, int(port)), time_left())
        if (context := client.get("ssl_context")) is not None:
            try:
                self._socket = context.wrap_socket(self._socket, server_hostname=self._host)
            except BaseException:
                self._socket.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def log_in(self) -> None:
        """Learn the broker's version, and log in where the settings have a login.

        Raises:
            RefusedError: It does not want such a login, or does not accept it.
            OSError: It does not answer.
        """
        from kafka.protocol.broker_version_data import BrokerVersionData
        from kafka.protocol.metadata import ApiVersionsRequest

        answer = self.ask(ApiVersionsRequest(version=0))
        if self._mechanism is not None and self._agree_on_mechanism(self._mechanism):
            self._authenticate(self._mechanism)
        versions = {each.api_key: (each.min_version, each.max_version) for each in answer.api_keys}
        self._versions = BrokerVersionData(api_versions=versions)
        if (asked := self._client.get("api_version")) is not None:
            self._versions = min(self._versions, BrokerVersionData(asked))
        self.version = self._versions.broker_version

    def ask(self, request: Any) -> Any:
        """Send one of kafka-python's requests, and return its decoded answer."""
        from kafka.errors import CorrelationIdError, InvalidReceiveError, KafkaProtocolError

        if request.API_VERSION is None:
            request.API_VERSION = self._versions.api_version(request)
        self._parser.send_request(request)
        self._socket.sendall(self._parser.send_bytes())
        try:
            while not (answers := self._parser.receive_bytes(self._receive())):
                pass
        except (CorrelationIdError, InvalidReceiveError, KafkaProtocolError, ValueError, struct.error) as error:
            raise _NotKafkaError("it does not answer as a broker does") from error
        return answers[0][1]

    def _receive(self) -> bytes:
        while True:
            self._socket.settimeout(_POLL_S)
            try:
                part = self._socket.recv(65536)
            except TimeoutError:
                if self._patience() <= _POLL_S:
                    raise
                continue
            if not part:
                raise _ClosedError("it closes the connection")
            return part

    def _agree_on_mechanism(self, mechanism: str) -> bool:
        """Whether the broker goes on with the login; it may be too old for that, and is the client's then."""
        try:
            code, offered = self.shake_hands(mechanism)
        except ConnectionError as error:
            raise RefusedError(
                f"Kafka {self._server} wants no login: it closes the connection when one begins; "
                "KAFKA_SECURITY_PROTOCOL is probably PLAINTEXT or SSL there, or another port is meant"
            ) from error
        if code == _UNSUPPORTED_MECHANISM:
            raise RefusedError(
                f"Kafka {self._server} does not offer KAFKA_SASL_MECHANISM {mechanism}; it offers "
                f"{', '.join(offered) or 'none'}"
            )
        if code == _ILLEGAL_SASL_STATE:
            raise RefusedError(f"Kafka {self._server} wants no login; leave SASL out of KAFKA_SECURITY_PROTOCOL")
        return code == 0

    def shake_hands(self, mechanism: str) -> tuple[int, list[str]]:
        """Name a SASL mechanism; the answer's error code, and the mechanisms that the broker offers."""
        from kafka.protocol.sasl import SaslHandshakeRequest

        answer = self.ask(SaslHandshakeRequest(mechanism=mechanism, version=1))
        return answer.error_code, list(answer.mechanisms)

    def _authenticate(self, name: str) -> None:
        from kafka.net.sasl import get_sasl_mechanism
        from kafka.protocol.sasl import SaslAuthenticateRequest

        check = f"check {_LOGIN_CHECKS.get(name, 'KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD')}"
        mechanism = get_sasl_mechanism(name)(host=self._host, **self._client)
        try:
            while not mechanism.is_done():
                answer = self.ask(SaslAuthenticateRequest(auth_bytes=mechanism.auth_bytes(), version=0))
                if answer.error_code:
                    reason = answer.error_message or f"error {answer.error_code}"
                    raise RefusedError(f"Kafka {self._server} does not accept the login: {reason}; {check}")
                mechanism.receive(bytes(answer.auth_bytes))
        except StatusRefusedError as error:  # of whoever gives tokens
            raise RefusedError(f"Kafka {self._server}: {error}") from error
        except ConnectionError as error:  # a refusal may be lost with the connection that it came by
            raise RefusedError(f"Kafka {self._server} closes the connection during the login; {check}") from error
        except (ValueError, KeyError) as error:  # of the answer
            raise RefusedError(f"Kafka {self._server} does not know the login: {error}; {check}") from error
        if not mechanism.is_authenticated():
            raise RefusedError(f"Kafka {self._server} does not accept the login; {check}")


def ask_brokers(
    servers: Sequence[str], client: dict[str, Any], time_left: TimeLeft, question: Callable[[Broker], AnswerT]
) -> AnswerT:
    """Put a question to the first of some brokers that answers.

    Args:
        servers: ``host:port`` each; tried in order.
        client: kafka-python's arguments.
        time_left: For all of them together.
        question: Asks on a connection that is logged in.

    Raises:
        RefusedError: A server is there and wants other settings.
        RetryableError: None answers.
        KafkaError: The question's.
    """
    end = time.monotonic() + _PROBE_S
    reasons = []
    for number, server in enumerate(servers):
        begin = time.monotonic()
        limit = begin + (end - begin) / (len(servers) - number)  # those left get equal parts of the time that is left

        def left(limit: float = limit) -> float:
            return max(0.05, min(time_left(), limit - time.monotonic()))

        try:
            return _ask_one(server, client, left, question)
        except TimeoutError:
            reasons.append(f"{server} does not answer within {time.monotonic() - begin:.1f} s")
        except socket.gaierror as error:
            reasons.append(f"{server}: the name cannot be resolved ({error.strerror})")
        except OSError as error:
            reasons.append(f"{server}: {error.strerror or error}")
    raise RetryableError(f"Kafka does not answer: {'; '.join(reasons)}")


def _ask_one(
    server: str, client: dict[str, Any], time_left: TimeLeft, question: Callable[[Broker], AnswerT]
) -> AnswerT:
    logged_in = False
    try:
        with Broker(server, client, time_left) as broker:
            broker.log_in()
            logged_in = True
            return question(broker)
    except ssl.SSLCertVerificationError as error:
        advice = "KAFKA_SSL_CAFILE names the certificates to trust"
        if error.verify_code in _WRONG_NAME:
            advice = "name it as its certificate does, or set KAFKA_SSL_CHECK_HOSTNAME to false"
        raise RefusedError(
            f"Kafka {server}: its certificate cannot be verified: {error.verify_message.rstrip('.')}; {advice}"
        ) from error
    except ConnectionRefusedError:
        raise
    except (ssl.SSLError, ConnectionError) as error:
        refusal = _missing_login(server, client, time_left) if logged_in and "sasl_mechanism" not in client else None
        refusal = refusal or _other_protocol(server, client, time_left, error)
        if refusal is None and isinstance(error, _NotKafkaError):
            refusal = "what answers there is not a Kafka broker; check KAFKA_HOST"
            raise RefusedError(f"Kafka {server}: {refusal}") from error
        if refusal is None:
            raise
        raise RefusedError(f"Kafka {server} {refusal}") from error


def _missing_login(server: str, client: dict[str, Any], time_left: TimeLeft) -> str | None:
    """What a broker wants that hangs up on a client without a login; None if that is no login."""
    with suppress(OSError), Broker(server, client, time_left) as broker:
        code, offered = broker.shake_hands("none")
        if code == _UNSUPPORTED_MECHANISM and offered:
            protocol = "SASL_PLAINTEXT" if client.get("ssl_context") is None else "SASL_SSL"
            return (
                f"wants a login: set KAFKA_SECURITY_PROTOCOL to {protocol} and KAFKA_SASL_MECHANISM to "
                f"{' or '.join(offered)}"
            )
    return None


def _other_protocol(server: str, client: dict[str, Any], time_left: TimeLeft, error: OSError) -> str | None:
    """Which setting of TLS would fit where a connection failed; None if none would."""
    sasl = "SASL_" if "sasl_mechanism" in client else ""
    if client.get("ssl_context") is None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only whether it is TLS; nothing is sent
        with suppress(OSError), Broker(server, client | {"ssl_context": context}, time_left):
            return f"speaks TLS; set KAFKA_SECURITY_PROTOCOL to {sasl}SSL"
        return None
    from kafka.protocol.metadata import ApiVersionsRequest

    with suppress(OSError), Broker(server, client | {"ssl_context": None}, time_left) as broker:
        broker.ask(ApiVersionsRequest(version=0))
        return f"does not speak TLS; set KAFKA_SECURITY_PROTOCOL to {sasl}PLAINTEXT, or name its TLS port"
    # It has TLS, as we do, and hangs up after the handshake: in TLS 1.3 that is how a client is turned away.
    reason = getattr(error, "reason", None) or "it closes the connection"
    if isinstance(error, _ClosedError) or "CERTIFICATE" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            f"does not accept our TLS connection ({reason}); it may want a client certificate: "
            "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
        )
    return None
