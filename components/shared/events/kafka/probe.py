"""Is there a Kafka broker, and does it want the security settings that we have?

kafka-python says "Unable to bootstrap" whatever the reason is, and leaks a socket every time. So before a client is
made, a plain socket asks what every broker answers: ApiVersions, then SaslHandshake and SaslAuthenticate where there is
a login, and Metadata where there is none. The requests are those of the Kafka protocol guide, in their lowest versions.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from components.shared.events.kafka.login import log_in
from components.shared.events.kafka.settings import KafkaSettings
from components.shared.events.transport import RefusedError, RetryableError, TimeLeft

_METADATA, _SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = 3, 17, 18, 36
_UNSUPPORTED_MECHANISM, _ILLEGAL_SASL_STATE = 33, 34
_WRONG_NAME = (62, 64)  # OpenSSL's: of the host, of the address
_CLIENT = b"shutterline"
# Larger than any answer to these requests; what is not Kafka may begin with any number.
_LONGEST_ANSWER = 1_000_000
_PROBE_S = 10.0
_GLANCE_S = 0.2  # how often a wait looks whether it is to end


class _ClosedError(ConnectionError):
    """The other side closed the connection instead of answering."""


class _NotKafkaError(_ClosedError):
    """The other side answered in a language of its own."""


def probe(servers: Sequence[str], settings: KafkaSettings, time_left: TimeLeft) -> None:
    """Return once one of the servers answers as it should.

    Args:
        servers: ``host:port`` each; tried in order.
        settings: What a client would use.
        time_left: For all of them together.

    Raises:
        RefusedError: A server is there and wants other settings.
        RetryableError: None answers.
    """
    end = time.monotonic() + _PROBE_S
    reasons = []
    for number, server in enumerate(servers):
        # Each of those left gets an equal part of the time that is left.
        begin = time.monotonic()
        try:
            _ask(server, settings, _at_most(begin + (end - begin) / (len(servers) - number), time_left))
        except TimeoutError:
            reasons.append(f"{server} does not answer within {time.monotonic() - begin:.1f} s")
        except socket.gaierror as error:
            reasons.append(f"{server}: the name cannot be resolved ({error.strerror})")
        except OSError as error:
            reasons.append(f"{server}: {error.strerror or error}")
        else:
            return
    raise RetryableError(f"Kafka does not answer: {'; '.join(reasons)}")


def _at_most(end: float, time_left: TimeLeft) -> TimeLeft:
    """A time_left that is over at a time (``time.monotonic``) at the latest; a little is always left."""
    return lambda: max(0.05, min(time_left(), end - time.monotonic()))


def _ask(server: str, settings: KafkaSettings, time_left: TimeLeft) -> None:
    """Ask one server.

    Raises:
        RefusedError: It wants other settings.
        OSError: It does not answer.
    """
    try:
        with _open(server, settings, time_left) as connection:
            _request(connection, _API_VERSIONS, 0, b"", time_left)
            if settings.mechanism is None:
                _enter(connection, server, settings, time_left)
            elif _shake_hands(connection, server, settings.mechanism, time_left):
                log_in(server, settings, lambda body: _request(connection, _SASL_AUTHENTICATE, 0, body, time_left))
    except ssl.SSLCertVerificationError as error:
        advice = "KAFKA_SSL_CAFILE names the certificates to trust"
        if error.verify_code in _WRONG_NAME:
            advice = "name it as its certificate does, or set KAFKA_SSL_CHECK_HOSTNAME to false"
        raise RefusedError(
            f"Kafka {server}: its certificate cannot be verified: {error.verify_message.rstrip('.')}; {advice}"
        ) from error
    except (ssl.SSLError, ConnectionError) as error:
        if not isinstance(error, ConnectionRefusedError):
            _explain_closed(server, settings, error, time_left)
        if isinstance(error, _NotKafkaError):
            raise RefusedError(f"Kafka {server}: what answers there is not a Kafka broker; check KAFKA_HOST") from error
        raise


def _enter(connection: socket.socket, server: str, settings: KafkaSettings, time_left: TimeLeft) -> None:
    """Ask for something that only those who need no login are told.

    Raises:
        RefusedError: The server wants a login.
    """
    no_topics = struct.pack(">i", 0)
    try:
        _send(connection, _METADATA, 1, no_topics)
        _receive(connection, 4, time_left)
    except ConnectionError as error:
        if offered := _offered(server, settings, time_left):
            protocol = "SASL_PLAINTEXT" if settings.context is None else "SASL_SSL"
            raise RefusedError(
                f"Kafka {server} wants a login: set KAFKA_SECURITY_PROTOCOL to {protocol} and KAFKA_SASL_MECHANISM to "
                f"{' or '.join(offered)}"
            ) from error


def _shake_hands(connection: socket.socket, server: str, mechanism: str, time_left: TimeLeft) -> bool:
    """Whether the server goes on with a login of the mechanism; it may be too old for that, and is the client's then.

    Raises:
        RefusedError: It does not want such a login.
    """
    name = mechanism.encode()
    try:
        answer = _request(connection, _SASL_HANDSHAKE, 1, struct.pack(">h", len(name)) + name, time_left)
    except ConnectionError as error:
        raise RefusedError(
            f"Kafka {server} wants no login: it closes the connection when one begins; KAFKA_SECURITY_PROTOCOL is "
            "probably PLAINTEXT or SSL there, or another port is meant"
        ) from error
    (code,) = struct.unpack_from(">h", answer)
    if code == _UNSUPPORTED_MECHANISM:
        offered = ", ".join(_strings(answer[2:])) or "none"
        raise RefusedError(f"Kafka {server} does not offer KAFKA_SASL_MECHANISM {mechanism}; it offers {offered}")
    if code == _ILLEGAL_SASL_STATE:
        raise RefusedError(f"Kafka {server} wants no login; leave SASL out of KAFKA_SECURITY_PROTOCOL")
    return bool(code == 0)


def _offered(server: str, settings: KafkaSettings, time_left: TimeLeft) -> list[str]:
    """The mechanisms that a server offers to a client that came without a login; empty if it wants none."""
    with suppress(OSError, struct.error), _open(server, settings, time_left) as connection:
        answer = _request(connection, _SASL_HANDSHAKE, 1, struct.pack(">h", 4) + b"none", time_left)
        if struct.unpack_from(">h", answer)[0] == _UNSUPPORTED_MECHANISM:
            return _strings(answer[2:])
    return []


def _explain_closed(server: str, settings: KafkaSettings, error: OSError, time_left: TimeLeft) -> None:
    """Raise RefusedError if the server speaks the other language: TLS, or none.

    Raises:
        RefusedError: With the setting that would fit.
    """
    if settings.context is None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only whether it is TLS; nothing is sent
        with suppress(OSError), _open(server, replace(settings, context=context), time_left):
            wanted = "SASL_SSL" if settings.mechanism else "SSL"
            raise RefusedError(f"Kafka {server} speaks TLS; set KAFKA_SECURITY_PROTOCOL to {wanted}") from error
        return
    with suppress(OSError), _open(server, replace(settings, context=None), time_left) as connection:
        _request(connection, _API_VERSIONS, 0, b"", time_left)
        wanted = "SASL_PLAINTEXT" if settings.mechanism else "PLAINTEXT"
        raise RefusedError(
            f"Kafka {server} does not speak TLS; set KAFKA_SECURITY_PROTOCOL to {wanted}, or name its TLS port"
        ) from error
    # It speaks TLS, as we do, and hangs up after the handshake: in TLS 1.3 that is how a client is turned away.
    said = getattr(error, "reason", None) or "it closes the connection"
    hung_up = isinstance(error, _ClosedError) and not isinstance(error, _NotKafkaError)
    if hung_up or "CERTIFICATE" in said or "HANDSHAKE_FAILURE" in said:
        raise RefusedError(
            f"Kafka {server} does not accept our TLS connection ({said}); it may want a client certificate: "
            "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
        ) from error


def _open(server: str, settings: KafkaSettings, time_left: TimeLeft) -> socket.socket:
    host, _, port = server.rpartition(":")
    name = host.strip("[]")
    connection = socket.create_connection((name, int(port)), time_left())
    if settings.context is None:
        return connection
    try:
        return settings.context.wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise


def _send(connection: socket.socket, api: int, version: int, body: bytes) -> None:
    header = struct.pack(">hhih", api, version, 1, len(_CLIENT)) + _CLIENT
    connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)


def _request(connection: socket.socket, api: int, version: int, body: bytes, time_left: TimeLeft) -> bytes:
    """Send one request and return the body of its answer."""
    _send(connection, api, version, body)
    (size,) = struct.unpack(">i", _receive(connection, 4, time_left))
    if not 4 <= size <= _LONGEST_ANSWER:
        raise _NotKafkaError
    return _receive(connection, size, time_left)[4:]


def _receive(connection: socket.socket, size: int, time_left: TimeLeft) -> bytes:
    received = b""
    while len(received) < size:
        connection.settimeout(_GLANCE_S)
        try:
            part = connection.recv(size - len(received))
        except TimeoutError:
            if time_left() <= _GLANCE_S:
                raise
            continue
        if not part:
            raise _ClosedError("it closes the connection")
        received += part
    return received


def _strings(data: bytes) -> list[str]:
    """An array of strings of the Kafka protocol."""
    (count,) = struct.unpack_from(">i", data)
    strings, position = [], 4
    for _ in range(min(max(count, 0), 100)):
        (length,) = struct.unpack_from(">h", data, position)
        strings.append(data[position + 2 : position + 2 + length].decode("utf-8", "replace"))
        position += 2 + length
    return strings
