"""The SASL login, asked for before a client is made.

kafka-python tries a login that is refused again and again until its time is over, which locks accounts, and then says
that there is no broker. The messages themselves are its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from components.shared.errors import StatusRefusedError
from components.shared.events.kafka.settings import KafkaSettings
from components.shared.events.transport import RefusedError


def log_in(server: str, settings: KafkaSettings, ask: Callable[[bytes], bytes]) -> None:
    """Log in once, with the mechanism that the server has agreed to.

    Args:
        server: Its name, for messages.
        settings: Of a protocol with a login.
        ask: Sends the body of one SaslAuthenticate request of version 0, and returns that of the answer.

    Raises:
        RefusedError: The login is not accepted.
        RetryableError: Whoever gives tokens for it does not answer.
        OSError: The server does not answer.
    """
    from kafka.net.sasl import get_sasl_mechanism

    if settings.mechanism == "OAUTHBEARER":
        check = "the token, or what KAFKA_SASL_OAUTH_PROVIDER stands for"
    else:
        check = "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    mechanism = get_sasl_mechanism(settings.mechanism)(host=server.rpartition(":")[0], **login_arguments(settings))
    try:
        while not mechanism.is_done():
            message: bytes = mechanism.auth_bytes()
            code, reason, data = _read(ask(struct.pack(">i", len(message)) + message))
            if code:
                raise RefusedError(
                    f"Kafka {server} does not accept the login: {reason or f'error {code}'}; check {check}"
                )
            mechanism.receive(data)
    except StatusRefusedError as error:
        raise RefusedError(f"Kafka {server}: {error}") from error
    except ConnectionError as error:  # a refusal may be lost with the connection that it came by
        raise RefusedError(f"Kafka {server} closes the connection during the login; check {check}") from error
    except (ValueError, KeyError, struct.error) as error:  # of the answer
        raise RefusedError(f"Kafka {server} does not know the login: {error}; check {check}") from error
    if not mechanism.is_authenticated():
        raise RefusedError(f"Kafka {server} does not accept the login; check {check}")


def login_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments for kafka-python's clients, with the token provider if there is one."""
    if settings.token is None:
        return settings.client
    from kafka.net.sasl.oauth import AbstractTokenProvider

    token = settings.token

    class Provider(AbstractTokenProvider):  # type: ignore[misc] # kafka-python has no types
        """Gives the token of the settings, fresh at every login."""

        def token(self) -> str:
            return token()

    return settings.client | {"sasl_oauth_token_provider": Provider()}


def _read(answer: bytes) -> tuple[int, str, bytes]:
    """Error code, message and the mechanism's own bytes."""
    code, length = struct.unpack_from(">hh", answer)
    end = 4 + max(0, length)
    (size,) = struct.unpack_from(">i", answer, end)
    return code, answer[4:end].decode("utf-8", "replace"), answer[end + 4 : end + 4 + max(0, size)]
