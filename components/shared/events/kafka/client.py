"""What publisher and subscriber share of kafka-python: its arguments, its silence, and what its errors mean."""

from __future__ import annotations

import logging
import random
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from components.shared.errors import StatusRefusedError, StatusUnavailableError
from components.shared.events.kafka.login import login_arguments
from components.shared.events.kafka.probe import probe
from components.shared.events.kafka.settings import KafkaSettings, kafka_settings, refer_to_secrets
from components.shared.events.transport import RefusedError, RetryableError, TimeLeft
from components.shared.logs import silence

# Enough for a broker that is seconds away; a call of this client cannot be cut short.
_CONNECT_S = 12.0
_OWN_RANDOM = random.Random()  # noqa: S311 - pauses, not secrets


@dataclass(frozen=True)
class TopicDescription:
    """What the brokers say of a topic.

    Attributes:
        version: Theirs, as a client's ``api_version``.
        partitions: Numbers of the topic's partitions.
    """

    version: tuple[int, ...]
    partitions: tuple[int, ...]


class KafkaConnection:
    """How to reach one cluster, for any of kafka-python's clients.

    Args:
        servers: Brokers as ``host:port``.
        topic: The topic it is all about.

    Raises:
        StatusRefusedError: The environment's settings are wrong, or the client is not installed.
    """

    def __init__(self, servers: Sequence[str], topic: str) -> None:
        self.servers = tuple(servers)
        self.topic = topic
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own imports
                import kafka  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise StatusRefusedError("KAFKA_HOST: needs kafka-python; pip install 'shutterline[status]'") from error
        silence("kafka")
        if not refer_to_secrets():
            self.settings  # noqa: B018 - read, so that wrong ones are told at once

    @cached_property
    def settings(self) -> KafkaSettings:
        """The environment's settings; those that refer to secrets are asked for when a broker is."""
        return kafka_settings()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for kafka-python's clients."""
        _give_own_random()
        return {"bootstrap_servers": list(self.servers), **login_arguments(self.settings)}

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"Kafka {','.join(self.servers)} topic {self.topic}"

    def check(self, time_left: TimeLeft) -> TopicDescription:
        """Find out whether the brokers answer, accept the login and have the topic.

        Args:
            time_left: How long to try.

        Raises:
            RefusedError: Until a setting is changed.
            RetryableError: Not now.
        """
        from kafka.errors import KafkaError, KafkaTimeoutError

        try:
            settings = self.settings
        except StatusRefusedError as error:
            raise RefusedError(str(error)) from error
        except StatusUnavailableError as error:  # as little a reason to end a step as a broker that is away
            raise RetryableError(str(error)) from error
        probe(self.servers, settings, time_left)
        with _causes() as causes:
            try:
                return self.describe(min(time_left(), _CONNECT_S))
            except KafkaError as error:
                # That the time is over is the least of what there is to tell.
                told = [cause for cause in causes if not isinstance(cause, KafkaTimeoutError)]
                raise self.trouble(told[-1] if told and isinstance(error, KafkaTimeoutError) else error) from error

    def describe(self, timeout_s: float) -> TopicDescription:
        """Ask for the topic.

        Raises:
            KafkaError: There is no such topic, or nobody answers; as kafka-python says it.
        """
        from kafka.errors import for_code

        with self._admin(timeout_s) as admin:
            # A producer's question would make the topic where brokers make them by themselves; this one does not.
            (described,) = admin.describe_topics([self.topic])
            if code := described["error_code"]:
                raise for_code(code)(self.topic)
            partitions = tuple(each["partition_index"] for each in described["partitions"])
            return TopicDescription(admin.config["api_version"], partitions)

    def size_limit(self, timeout_s: float) -> int | None:
        """The most bytes that the topic takes in a batch; None where nobody says it, as without DescribeConfigs."""
        from kafka.admin import ConfigResource, ConfigResourceType
        from kafka.errors import KafkaError

        name = "max.message.bytes"
        asked = ConfigResource(ConfigResourceType.TOPIC, self.topic, [name])
        with suppress(KafkaError, LookupError, ValueError), self._admin(timeout_s) as admin:
            # By default it leaves out what is a default of the broker; a refusal it shows as no settings.
            answer = admin.describe_configs([asked], config_filter="all")
            return int(answer["topic"][self.topic][name]["value"])
        return None

    @contextmanager
    def _admin(self, timeout_s: float) -> Iterator[Any]:
        """An admin client.

        Raises:
            KafkaError: Nobody answers; as kafka-python says it.
        """
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError
        from kafka.net.compat import KafkaNetClient

        made: list[Any] = []

        def client(**config: Any) -> Any:
            made.append(KafkaNetClient(**config))
            return made[-1]

        limit_ms = round(max(0.05, timeout_s) * 1000)
        try:
            admin = KafkaAdminClient(
                **self.arguments,
                bootstrap_timeout_ms=limit_ms,
                request_timeout_ms=max(limit_ms, 1000),
                kafka_client=client,
            )
        except KafkaError:
            for opened in made:
                opened.close()  # a constructor that fails leaves a thread and its sockets behind
            raise
        try:
            yield admin
        finally:
            admin.close()

    def consumer(self, version: tuple[int, ...], group: str | None = None) -> Any:
        """A consumer that waits for nobody yet, and decides nothing by itself; to be closed by `close_consumer`.

        Args:
            version: The brokers', as `check` found it.
            group: The consumer group that it commits for.
        """
        from kafka import KafkaConsumer

        return KafkaConsumer(
            # With a version the constructor waits for nobody; one that fails leaves its thread behind.
            **{"api_version": version} | self.arguments,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="none",  # where to go on is decided here
            allow_auto_create_topics=False,
            check_crcs=False,  # in Python, 8 MB/s; what comes damaged over TCP is no event either
            request_timeout_ms=10_000,
            reconnect_backoff_max_ms=1_000,
            metrics_enabled=False,
        )

    def trouble(self, error: BaseException) -> RefusedError | RetryableError:
        """What an error that kafka-python raised or logged means."""
        final, message = _meaning(error, self.place)
        return RefusedError(message) if final else RetryableError(message)


def _give_own_random() -> None:
    """Give kafka-python a generator of its own: it draws its pauses from Python's, whose state training saves."""
    for name, module in list(sys.modules.items()):
        if name.startswith("kafka.") and getattr(module, "random", None) is random:
            vars(module)["random"] = _OWN_RANDOM


def close_consumer(consumer: Any) -> None:
    """Close a consumer without waiting for its brokers."""
    from kafka.errors import KafkaError

    with suppress(KafkaError):
        consumer.close(autocommit=False, timeout_ms=500)


def _meaning(error: BaseException, place: str) -> tuple[bool, str]:
    """Whether only a change of settings helps, and a message for people."""
    from kafka import errors

    said = " ".join(str(error).split()) or type(error).__name__
    if type(error) is errors.KafkaError and (code := re.search(r"\[Error ([0-9]+)\]", said)):
        error = errors.for_code(int(code[1]))()  # which it only quotes
    meanings: list[tuple[tuple[type[BaseException], ...], str]] = [
        (
            (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError),
            "there is no such topic; create it, it is not made by itself",
        ),
        (
            (errors.TopicAuthorizationFailedError,),
            "its user may not use the topic; grant Describe and Write to publish, Describe and Read to watch",
        ),
        ((errors.ClusterAuthorizationFailedError,), "its user lacks IdempotentWrite on the cluster"),
        ((errors.AuthorizationError,), f"forbidden: {said}"),
        (
            (errors.SaslAuthenticationFailedError,),
            f"the login is not accepted: {said}; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
        ),
        ((errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError), f"KAFKA_SASL_MECHANISM: {said}"),
        ((errors.KafkaConfigurationError, StatusRefusedError), said),
    ]
    for kinds, message in meanings:
        if isinstance(error, kinds):
            return True, f"{place}: {message}"
    return False, f"{place} does not answer: {said}"


@contextmanager
def _causes() -> Iterator[list[BaseException]]:
    """What kafka-python says in its log of why a connection failed; it says it nowhere else."""
    found: list[BaseException] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            arguments = record.args if isinstance(record.args, tuple) else ()
            found.extend(argument for argument in arguments if isinstance(argument, BaseException))

    logger, collector = logging.getLogger("kafka.net.manager"), Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)
