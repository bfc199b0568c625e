"""Official clients as the peers' tests use them: patient enough for a busy machine, closed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.api_core.exceptions import DeadlineExceeded, ServiceUnavailable
from google.api_core.retry import Retry, if_exception_type
from google.cloud.pubsub_v1 import PublisherClient as BatchingPublisher  # type: ignore[import-untyped] # publishes no types
from google.cloud.pubsub_v1.types import PublisherOptions  # type: ignore[import-untyped] # the same
from google.pubsub_v1 import PublisherClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from kafka import KafkaProducer
from kafka.net.sasl.oauth import AbstractTokenProvider

PATIENT = {
    "bootstrap_timeout_ms": 20_000,
    "max_block_ms": 20_000,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "reconnect_backoff_max_ms": 200,
}
# With a version given, the constructor asks nobody; so it leaves no sockets behind when nobody answers.
HOPELESS = {**PATIENT, "max_block_ms": 1000, "api_version": (2, 8)}


class Token(AbstractTokenProvider):  # type: ignore[misc] # kafka-python publishes no types
    """A bearer token that stays as it is."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def token(self) -> str:
        return self._token


@contextmanager
def kafka_producer(bootstrap: str, **settings: Any) -> Iterator[Any]:
    producer = KafkaProducer(bootstrap_servers=bootstrap.split(","), **{**PATIENT, **settings})
    try:
        yield producer
    finally:
        producer.close(timeout=5)


def produce(bootstrap: str, topic: str, *values: bytes, **settings: Any) -> None:
    """Write values one after another, each acknowledged before the next."""
    with kafka_producer(bootstrap, **settings) as producer:
        for value in values:
            producer.send(topic, value, key=b"run", headers=[("kind", b"test")]).get(timeout=30)


def publish(host: str, topic: str, *values: bytes, channel: grpc.Channel | None = None, timeout: float = 20.0) -> None:
    """Publish values under one ordering key, each acknowledged before the next; errors that may pass are retried."""
    retry = Retry(if_exception_type(ServiceUnavailable, DeadlineExceeded), initial=0.05, timeout=timeout)
    with channel or grpc.insecure_channel(host) as connection:
        client = PublisherClient(transport=PublisherGrpcTransport(channel=connection))
        for value in values:
            message = types.PubsubMessage(data=value, ordering_key="run", attributes={"kind": "test"})
            request = types.PublishRequest(topic=topic, messages=[message])
            client.publish(request, retry=retry, timeout=timeout)


def publish_in_batches(host: str, topic: str, *values: bytes) -> None:
    """Publish values under one ordering key with the client that batches in a thread of its own."""
    with grpc.insecure_channel(host) as channel:
        client = BatchingPublisher(
            publisher_options=PublisherOptions(enable_message_ordering=True),
            transport=PublisherGrpcTransport(channel=channel),
        )
        futures = [client.publish(topic, value, ordering_key="run", kind="test") for value in values]
        for future in futures:
            future.result(timeout=30)
        client.stop()
