"""A Kafka front that asks who is there: SASL before a broker that knows no users."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import ssl
import struct
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)

from tests.peers.kafka_relay import KafkaRelay, read_frame
from tests.peers.ports import HOST

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36
UNSUPPORTED_SASL_MECHANISM, SASL_AUTHENTICATION_FAILED = 33, 58
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
SCRAM_ITERATIONS = 4096

# Takes a client's messages and gives the answers; ends with who the client is and the last answer.
_Exchange = Generator[bytes, bytes, tuple[str, bytes]]


class RefusedError(Exception):
    """The client is not who it says; the message is what a broker answers."""


class SaslRelay(KafkaRelay):
    """Lets those who authenticate through to a plain broker; answers all others as Apache Kafka does.

    Attributes:
        users: Passwords by user, for PLAIN and SCRAM; may be changed while it runs.
        tokens: Bearer tokens that are accepted.
        mechanisms: What is offered.
        authenticated: Who came in, as ``(mechanism, user or token)``, in order.
        refused: Who did not, as ``(mechanism, message)``.
        close_delay: Seconds from a refusal to the end of the connection. Apache Kafka lets none go by; kafka-python
            then sees the end and may miss the refusal before it.
    """

    def __init__(
        self,
        target: int,
        users: Mapping[str, str] | None = None,
        tokens: Iterable[str] = (),
        *,
        mechanisms: tuple[str, ...] = MECHANISMS,
        broker_port: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(target, broker_port=broker_port, tls=tls)
        self.users = dict(users or {})
        self.tokens = set(tokens)
        self.mechanisms = mechanisms
        self.authenticated: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.close_delay = 0.1

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        mechanism = "none"
        exchange: _Exchange | None = None
        while frame := await read_frame(reader):
            api_key, version, correlation = struct.unpack_from(">hhi", frame, 4)
            who, refusal = None, None
            if api_key == API_VERSIONS:
                answer = await self._ask_broker(frame)
            elif api_key == SASL_HANDSHAKE:
                mechanism = SaslHandshakeRequest.decode(frame, version=version, header=True, framed=True).mechanism
                code = 0
                if mechanism in self.mechanisms:
                    exchange = self._exchange(mechanism)
                    next(exchange)
                else:
                    code, refusal = UNSUPPORTED_SASL_MECHANISM, "unsupported mechanism"
                response = SaslHandshakeResponse(error_code=code, mechanisms=list(self.mechanisms))
                answer = _encode(response, version, correlation)
            elif api_key == SASL_AUTHENTICATE and exchange is not None:
                request = SaslAuthenticateRequest.decode(frame, version=version, header=True, framed=True)
                data = b""
                try:
                    data = exchange.send(bytes(request.auth_bytes))
                except StopIteration as end:
                    who, data = end.value
                except RefusedError as error:
                    refusal = str(error)
                code = SASL_AUTHENTICATION_FAILED if refusal else 0
                response = SaslAuthenticateResponse(error_code=code, error_message=refusal, auth_bytes=data)
                answer = _encode(response, version, correlation)
            else:
                # Without an answer: the connection of a client that skips authentication is closed.
                answer, refusal = b"", f"request {api_key} before authentication"
            await self._open.wait()
            writer.write(answer)
            await writer.drain()
            if refusal is not None:
                self.refused.append((mechanism, refusal))
                await asyncio.sleep(self.close_delay)
                return False
            if who is not None:
                self.authenticated.append((mechanism, who))
                return True
        return False

    async def _ask_broker(self, frame: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, self.target)
        try:
            writer.write(frame)
            return await read_frame(reader)
        finally:
            writer.close()
            await writer.wait_closed()

    def _exchange(self, mechanism: str) -> _Exchange:
        if mechanism == "PLAIN":
            return self._plain()
        if mechanism == "OAUTHBEARER":
            return self._bearer()
        return self._scram(mechanism)

    def _plain(self) -> _Exchange:
        _, user, password = (yield b"").decode().split("\0")
        if user not in self.users or self.users[user] != password:
            raise RefusedError("Authentication failed: Invalid username or password")
        return user, b""

    def _bearer(self) -> _Exchange:
        message = yield b""
        (token,) = [part[len("auth=Bearer ") :] for part in message.decode().split("\1") if part.startswith("auth=")]
        if token not in self.tokens:
            # The client confirms that it has read this, and only then is the exchange over.
            yield b'{"status":"invalid_token"}'
            raise RefusedError('{"status":"invalid_token"}')
        return token, b""

    def _scram(self, mechanism: str) -> _Exchange:
        """RFC 5802, the server's side."""
        algorithm = mechanism.removeprefix("SCRAM-").replace("-", "").lower()

        def mac(key: bytes, text: bytes) -> bytes:
            return hmac.new(key, text, algorithm).digest()

        refusal = (
            f"Authentication failed during authentication due to invalid credentials with SASL mechanism {mechanism}"
        )
        first_bare = (yield b"").split(b",", 2)[2]
        said = _attributes(first_bare)
        user = said["n"].replace("=2C", ",").replace("=3D", "=")
        if user not in self.users:
            raise RefusedError(refusal)
        salt = os.urandom(16)
        nonce = said["r"] + os.urandom(12).hex()
        server_first = f"r={nonce},s={base64.b64encode(salt).decode()},i={SCRAM_ITERATIONS}".encode()
        final = yield server_first
        unproved, _, proof = final.rpartition(b",p=")
        salted = hashlib.pbkdf2_hmac(algorithm, self.users[user].encode(), salt, SCRAM_ITERATIONS)
        transcript = b",".join((first_bare, server_first, unproved))
        client_key = mac(salted, b"Client Key")
        signature = mac(hashlib.new(algorithm, client_key).digest(), transcript)
        expected = bytes(left ^ right for left, right in zip(client_key, signature, strict=True))
        if _attributes(unproved)["r"] != nonce or base64.b64decode(proof) != expected:
            raise RefusedError(refusal)
        return user, b"v=" + base64.b64encode(mac(mac(salted, b"Server Key"), transcript))


def _attributes(message: bytes) -> dict[str, str]:
    return dict(part.split("=", 1) for part in message.decode().split(","))


def _encode(response: Any, version: int, correlation: int) -> bytes:
    response.API_VERSION = version
    response.with_header(correlation_id=correlation)
    encoded: bytes = response.encode(header=True, framed=True)
    return encoded
