"""One topic of a cluster: kafka-python's arguments for it, what the brokers say of it, and what its errors mean."""

from __future__ import annotations

import random
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from components.shared.errors import StatusRefusedError
from components.shared.events.kafka.probe import Broker, ask_brokers
from components.shared.events.kafka.settings import client_arguments, refer_to_secrets
from components.shared.events.transport import RefusedError, RetryableError, TimeLeft
from components.shared.logs import silence

_TOPIC_RESOURCE, _SIZE_LIMIT = 2, "max.message.bytes"
_OWN_RANDOM = random.Random()  # noqa: S311 - pauses, not secrets


@dataclass(frozen=True)
class TopicDescription:
    """What the brokers say of a topic.

    Attributes:
        version: Theirs, as a client's ``api_version``.
        partitions: Numbers of the topic's partitions.
        brokers: Where clients are to find them, ``host:port`` each.
    """

    version: tuple[int, ...]
    partitions: tuple[int, ...]
    brokers: tuple[str, ...]


class KafkaTopic:
    """How to reach one topic with any of kafka-python's clients.

    Args:
        servers: Brokers as ``host:port``.
        topic: Its name.

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
        _give_own_random()
        return {"bootstrap_servers": list(self.servers), **self._settings}

    def describe(self, time_left: TimeLeft) -> TopicDescription:
        """Find out whether the brokers answer, accept the login and have the topic; it is never created.

        Raises:
            RefusedError: Until a setting is changed.
            RetryableError: Not now.
        """
        from kafka.errors import KafkaError

        try:
            return ask_brokers(self.servers, self.arguments, time_left, self._description)
        except StatusRefusedError as error:
            raise RefusedError(str(error)) from error
        except KafkaError as error:
            raise self.trouble(error) from error

    def _description(self, broker: Broker) -> TopicDescription:
        from kafka.errors import for_code
        from kafka.protocol.metadata import MetadataRequest

        topics = [MetadataRequest.MetadataRequestTopic(name=self.topic)]
        answer = broker.ask(MetadataRequest(topics=topics, allow_auto_topic_creation=False))
        (found,) = answer.topics
        if found.error_code:
            raise for_code(found.error_code)(self.topic)
        brokers = tuple(f"{each.host}:{each.port}" for each in answer.brokers)
        return TopicDescription(broker.version, tuple(each.partition_index for each in found.partitions), brokers)

    def size_limit(self, time_left: TimeLeft) -> int | None:
        """The most bytes that the topic takes in a batch; None where nobody says it, as without DescribeConfigs."""
        from kafka.errors import KafkaError
        from kafka.protocol.admin import DescribeConfigsRequest

        request = DescribeConfigsRequest(resources=[(_TOPIC_RESOURCE, self.topic, [_SIZE_LIMIT])], min_version=0)
        with suppress(KafkaError, RefusedError, RetryableError, LookupError, ValueError):
            answer = ask_brokers(self.servers, self.arguments, time_left, lambda broker: broker.ask(request))
            return int(answer.results[0].configs[0].value)
        return None

    def consumer(self, version: tuple[int, ...], group: str | None = None) -> Any:
        """A consumer that waits for nobody yet, and decides nothing by itself; to be closed by `close_consumer`.

        Args:
            version: The brokers', as `describe` found it.
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
        """What an error that kafka-python raised means."""
        from kafka import errors

        reason = " ".join(str(error).split()) or type(error).__name__
        if type(error) is errors.KafkaError and (code := re.search(r"\[Error ([0-9]+)\]", reason)):
            error = errors.for_code(int(code[1]))()  # which it only quotes
        meanings: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
            (
                (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError),
                "there is no such topic; create it, it is not made by itself",
            ),
            (
                errors.TopicAuthorizationFailedError,
                "its user may not use the topic; grant Describe and Write to publish, Describe and Read to watch",
            ),
            (errors.ClusterAuthorizationFailedError, "its user lacks IdempotentWrite on the cluster"),
            (errors.AuthorizationError, f"forbidden: {reason}"),
            (
                errors.SaslAuthenticationFailedError,
                f"the login is not accepted: {reason}; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
            ),
            ((errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError), f"KAFKA_SASL_MECHANISM: {reason}"),
            ((errors.KafkaConfigurationError, StatusRefusedError), reason),
        )
        for kinds, message in meanings:
            if isinstance(error, kinds):
                return RefusedError(f"{self.address}: {message}")
        return RetryableError(f"{self.address} does not answer: {reason}")


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
