"""One topic of a cluster: kafka-python's arguments for it, what the brokers say of it, and what its errors mean.

kafka-python's own clients say "Unable to bootstrap" whatever the reason is, repeat a refused login until the time is
over, which locks accounts, and leak a socket at every attempt. So before one is made a broker is asked once, over one
socket. The messages and the login's mechanisms are kafka-python's; here are only the socket, the time limit, and what
an answer says of the settings.
"""

from __future__ import annotations

import random
import re
import socket
import ssl
import struct
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.kafka.settings import client_arguments, refer_to_secrets
from components.shared.logs import silence
from components.shared.retry import TimeLeft

_UNSUPPORTED_MECHANISM, _ILLEGAL_SASL_STATE = 33, 34
_WRONG_NAME = (62, 64)  # OpenSSL's: of the host, of the address
_DESCRIBE_S = 10.0
_POLL_S = 0.2  # how often a wait asks whether it is to end
_OWN_RANDOM = random.Random()  # noqa: S311 - pauses, not secrets


@dataclass(frozen=True)
class TopicDescription:
    """What the brokers say of a topic; `version` is theirs as a client's ``api_version``, `brokers` are host:port."""

    version: tuple[int, ...]
    partitions: tuple[int, ...]
    brokers: tuple[str, ...]


class KafkaTopic:
    """How to reach one topic, of brokers as ``host:port``, with any of kafka-python's clients.

    Raises:
        StatusRefusedError: The environment's settings are wrong, or the client is not installed.
    """

    def __init__(self, servers: Sequence[str], topic: str) -> None:
        self.servers = tuple(servers)
        self.topic = topic
        self.address = f"Kafka {','.join(servers)} topic {topic}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own imports
                import kafka  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise StatusRefusedError("KAFKA_HOST: needs kafka-python; pip install 'shutterline[status]'") from error
        silence("kafka")
        if not refer_to_secrets():
            self._settings  # noqa: B018 - read, so that wrong ones are reported at once

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return client_arguments()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for kafka-python's clients."""
        _adapt_client()
        return {"bootstrap_servers": list(self.servers), **self._settings}

    def describe(self, time_left: TimeLeft) -> TopicDescription:
        """Ask the brokers, in order, until one answers; the topic is never created.

        Raises:
            StatusRefusedError: One is there and refuses the settings or the login, or the topic is not there.
            RetryableError: None answers.
        """
        from kafka.errors import KafkaError

        end = time.monotonic() + _DESCRIBE_S
        reasons = []
        for number, server in enumerate(self.servers):
            begin = time.monotonic()
            limit = begin + (end - begin) / (len(self.servers) - number)  # equal parts of the time that is left

            def left(limit: float = limit) -> float:
                return max(0.05, min(time_left(), limit - time.monotonic()))

            try:
                return _describe(server, self.topic, self.arguments, left)
            except KafkaError as error:
                raise self.trouble(error) from error
            except TimeoutError:
                reasons.append(f"{server} does not answer within {time.monotonic() - begin:.1f} s")
            except socket.gaierror as error:
                reasons.append(f"{server}: the name cannot be resolved ({error.strerror})")
            except OSError as error:
                reasons.append(f"{server}: {error.strerror or error}")
        raise RetryableError(f"Kafka does not answer: {'; '.join(reasons)}")

    def trouble(self, error: BaseException) -> StatusRefusedError | RetryableError:
        """What an error that kafka-python raised means."""
        from kafka import errors

        reason = " ".join(str(error).split()) or type(error).__name__
        if type(error) is errors.KafkaError and (code := re.search(r"\[Error ([0-9]+)\]", reason)):
            error = errors.for_code(int(code[1]))()  # which it only quotes
        no_topic = "there is no such topic; create it, it is not made by itself"
        meanings: dict[type[BaseException], str] = {
            errors.UnknownTopicOrPartitionError: no_topic,
            errors.InvalidTopicError: no_topic,
            errors.TopicAuthorizationFailedError: (
                "its user may not use the topic; grant Describe and Write to publish, Describe and Read to watch"
            ),
            errors.ClusterAuthorizationFailedError: "its user lacks IdempotentWrite on the cluster",
            errors.AuthorizationError: f"forbidden: {reason}",
            errors.SaslAuthenticationFailedError: (
                f"the login is not accepted: {reason}; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            ),
            errors.UnsupportedSaslMechanismError: f"KAFKA_SASL_MECHANISM: {reason}",
            errors.IllegalSaslStateError: f"KAFKA_SASL_MECHANISM: {reason}",
            errors.KafkaConfigurationError: reason,
            StatusRefusedError: reason,
        }
        for kind, message in meanings.items():
            if isinstance(error, kind):
                return StatusRefusedError(f"{self.address}: {message}")
        return RetryableError(f"{self.address} does not answer: {reason}")


def _adapt_client() -> None:
    """Give kafka-python a generator of its own, and a checksum that is not in Python.

    It draws its pauses from Python's generator, whose state training saves. Its checksum takes 35 to 60 µs an event,
    more than all the rest; Google's, which comes with the client of its storage, less than one.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("kafka.") and getattr(module, "random", None) is random:
            vars(module)["random"] = _OWN_RANDOM
    with suppress(ImportError):
        import google_crc32c
        from kafka.record import default_records

        if google_crc32c.implementation == "c":
            default_records.calc_crc32c = lambda data: google_crc32c.value(bytes(data))


class _ClosedError(ConnectionError):
    """The other side closed the connection instead of answering."""


class _NotKafkaError(ConnectionError):
    """The other side answered, and not as a broker does."""


class _Connection:
    """A connection to one broker; `client` has kafka-python's arguments, of which security and version are heeded."""

    def __init__(self, server: str, client: dict[str, Any], time_left: TimeLeft) -> None:
        from kafka.protocol.parser import KafkaProtocol

        self._server, self._client, self._time_left = server, client, time_left
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

    def log_in(self) -> tuple[int, ...]:
        """Log in where the settings have a login, and return the broker's version."""
        from kafka.protocol.broker_version_data import BrokerVersionData
        from kafka.protocol.metadata import ApiVersionsRequest

        answer = self.ask(ApiVersionsRequest(version=0))
        mechanism = self._client.get("sasl_mechanism")
        if mechanism is not None and self._agree_on_mechanism(mechanism):
            self._authenticate(mechanism)
        versions = {each.api_key: (each.min_version, each.max_version) for each in answer.api_keys}
        self._versions = BrokerVersionData(api_versions=versions)
        if (asked := self._client.get("api_version")) is not None:
            self._versions = min(self._versions, BrokerVersionData(asked))
        version: tuple[int, ...] = self._versions.broker_version
        return version

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
                if self._time_left() <= _POLL_S:
                    raise
                continue
            if not part:
                raise _ClosedError("it closes the connection")
            return part

    def offered_mechanisms(self, mechanism: str) -> tuple[int, str]:
        """Name a SASL mechanism; the answer's error code, and the mechanisms that the broker offers."""
        from kafka.protocol.sasl import SaslHandshakeRequest

        answer = self.ask(SaslHandshakeRequest(mechanism=mechanism, version=1))
        return answer.error_code, " or ".join(answer.mechanisms)

    def _agree_on_mechanism(self, mechanism: str) -> bool:
        """Whether the broker goes on with the login; it may be too old for that, and is the client's then."""
        try:
            code, offered = self.offered_mechanisms(mechanism)
        except ConnectionError as error:
            raise StatusRefusedError(
                f"Kafka {self._server} wants no login: it closes the connection when one begins; "
                "KAFKA_SECURITY_PROTOCOL is probably PLAINTEXT or SSL there, or another port is meant"
            ) from error
        if code == _UNSUPPORTED_MECHANISM:
            raise StatusRefusedError(
                f"Kafka {self._server} does not offer KAFKA_SASL_MECHANISM {mechanism}; it offers {offered or 'none'}"
            )
        if code == _ILLEGAL_SASL_STATE:
            raise StatusRefusedError(f"Kafka {self._server} wants no login; leave SASL out of KAFKA_SECURITY_PROTOCOL")
        return code == 0

    def _authenticate(self, name: str) -> None:
        from kafka.net.sasl import get_sasl_mechanism
        from kafka.protocol.sasl import SaslAuthenticateRequest

        check = "check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
        if name == "OAUTHBEARER":
            check = "check the token, or what KAFKA_SASL_OAUTH_PROVIDER stands for"
        mechanism = get_sasl_mechanism(name)(host=self._host, **self._client)
        try:
            while not mechanism.is_done():
                answer = self.ask(SaslAuthenticateRequest(auth_bytes=mechanism.auth_bytes(), version=0))
                if answer.error_code:
                    reason = answer.error_message or f"error {answer.error_code}"
                    raise StatusRefusedError(f"Kafka {self._server} does not accept the login: {reason}; {check}")
                mechanism.receive(bytes(answer.auth_bytes))
        except ConnectionError as error:  # a refusal may be lost with the connection that it came by
            message = f"Kafka {self._server} closes the connection during the login; {check}"
            raise StatusRefusedError(message) from error
        except (ValueError, KeyError) as error:  # of the answer
            raise StatusRefusedError(f"Kafka {self._server} does not know the login: {error}; {check}") from error
        if not mechanism.is_authenticated():
            raise StatusRefusedError(f"Kafka {self._server} does not accept the login; {check}")


def _describe(server: str, topic: str, client: dict[str, Any], time_left: TimeLeft) -> TopicDescription:
    """Ask one broker; what a refusal says of the settings comes out as StatusRefusedError."""
    from kafka.errors import for_code
    from kafka.protocol.metadata import MetadataRequest

    logged_in = False
    try:
        with _Connection(server, client, time_left) as broker:
            version = broker.log_in()
            logged_in = True
            topics = [MetadataRequest.MetadataRequestTopic(name=topic)]
            answer = broker.ask(MetadataRequest(topics=topics, allow_auto_topic_creation=False))
    except ssl.SSLCertVerificationError as error:
        advice = "KAFKA_SSL_CAFILE names the certificates to trust"
        if error.verify_code in _WRONG_NAME:
            advice = "name it as its certificate does, or set KAFKA_SSL_CHECK_HOSTNAME to false"
        raise StatusRefusedError(
            f"Kafka {server}: its certificate cannot be verified: {error.verify_message.rstrip('.')}; {advice}"
        ) from error
    except ConnectionRefusedError:
        raise
    except (ssl.SSLError, ConnectionError) as error:
        refusal = _missing_login(server, client, time_left) if logged_in and "sasl_mechanism" not in client else None
        refusal = refusal or _other_protocol(server, client, time_left, error)
        if refusal is None and isinstance(error, _NotKafkaError):
            refusal = ": what answers there is not a Kafka broker; check KAFKA_HOST"
        if refusal is None:
            raise
        raise StatusRefusedError(f"Kafka {server}{refusal}") from error
    (found,) = answer.topics
    if found.error_code:
        raise for_code(found.error_code)(topic)
    brokers = tuple(f"{each.host}:{each.port}" for each in answer.brokers)
    return TopicDescription(version, tuple(each.partition_index for each in found.partitions), brokers)


def _missing_login(server: str, client: dict[str, Any], time_left: TimeLeft) -> str | None:
    """What a broker wants that hangs up on a client without a login; None if that is no login."""
    with suppress(OSError), _Connection(server, client, time_left) as broker:
        code, offered = broker.offered_mechanisms("none")
        if code == _UNSUPPORTED_MECHANISM and offered:
            protocol = "SASL_PLAINTEXT" if client.get("ssl_context") is None else "SASL_SSL"
            return f" wants a login: set KAFKA_SECURITY_PROTOCOL to {protocol} and KAFKA_SASL_MECHANISM to {offered}"
    return None


def _other_protocol(server: str, client: dict[str, Any], time_left: TimeLeft, error: OSError) -> str | None:
    """Which setting of TLS would fit where a connection failed; None if none would."""
    sasl = "SASL_" if "sasl_mechanism" in client else ""
    if client.get("ssl_context") is None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only whether it is TLS; nothing is sent
        with suppress(OSError), _Connection(server, client | {"ssl_context": context}, time_left):
            return f" speaks TLS; set KAFKA_SECURITY_PROTOCOL to {sasl}SSL"
        return None
    from kafka.protocol.metadata import ApiVersionsRequest

    with suppress(OSError), _Connection(server, client | {"ssl_context": None}, time_left) as broker:
        broker.ask(ApiVersionsRequest(version=0))
        return f" does not speak TLS; set KAFKA_SECURITY_PROTOCOL to {sasl}PLAINTEXT, or name its TLS port"
    # It has TLS, as we do, and hangs up after the handshake: in TLS 1.3 that is how a client is turned away.
    reason = getattr(error, "reason", None) or "it closes the connection"
    if isinstance(error, _ClosedError) or "CERTIFICATE" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            f" does not accept our TLS connection ({reason}); it may want a client certificate: "
            "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
        )
    return None
