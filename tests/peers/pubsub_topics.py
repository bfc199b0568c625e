"""Topics, subscriptions and what arrives at them, on any server that speaks Pub/Sub's protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.pubsub_v1 import PublisherClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport


@dataclass(frozen=True)
class Message:
    """One message as a subscriber sees it."""

    data: bytes
    attributes: dict[str, str]
    ordering_key: str
    message_id: str


class PubSubTopics:
    """What tests ask of a server, whichever it is; each call has a connection of its own, without credentials."""

    @property
    def host(self) -> str:
        """The server as ``host:port``."""
        raise NotImplementedError

    def create_topic(self, project: str, topic: str) -> str:
        """Make a topic; returns its full name."""
        name = f"projects/{project}/topics/{topic}"
        with self.publisher() as client:
            client.create_topic(types.Topic(name=name), timeout=10)
        return name

    def delete_topic(self, name: str) -> None:
        with self.publisher() as client:
            client.delete_topic(types.DeleteTopicRequest(topic=name), timeout=10)

    def create_subscription(self, project: str, subscription: str, topic: str, *, ordered: bool = True) -> str:
        """Make a subscription to a topic (by its full name); returns the subscription's full name."""
        name = f"projects/{project}/subscriptions/{subscription}"
        request = types.Subscription(name=name, topic=topic, enable_message_ordering=ordered)
        with self.subscriber() as client:
            client.create_subscription(request, timeout=10)
        return name

    def pull_all(
        self, subscription: str, *, expected: int = 0, quiet: float = 0.3, timeout: float = 300.0
    ) -> list[Message]:
        """Take and acknowledge what waits, in the order in which it comes.

        Args:
            subscription: Its full name.
            expected: Keep on waiting until this many have come.
            quiet: Once they have, stop after this many seconds without another.
            timeout: Stop after this many seconds at any rate.
        """
        found: list[Message] = []
        deadline = time.monotonic() + timeout
        last = time.monotonic()
        with self.subscriber() as client:
            # The method below the client's own, which warns that return_immediately is not for production.
            pull: Any = client.transport.pull
            while time.monotonic() < deadline and (len(found) < expected or time.monotonic() < last + quiet):
                request = types.PullRequest(subscription=subscription, return_immediately=True, max_messages=1000)
                received = pull(request, timeout=10).received_messages
                if not received:
                    time.sleep(0.02)
                    continue
                last = time.monotonic()
                for each in received:
                    message = each.message
                    found.append(
                        Message(message.data, dict(message.attributes), message.ordering_key, message.message_id)
                    )
                acknowledged = types.AcknowledgeRequest(
                    subscription=subscription, ack_ids=[each.ack_id for each in received]
                )
                client.acknowledge(acknowledged, timeout=10)
        return found

    @contextmanager
    def publisher(self) -> Iterator[PublisherClient]:
        with grpc.insecure_channel(self.host) as channel:
            yield PublisherClient(transport=PublisherGrpcTransport(channel=channel))

    @contextmanager
    def subscriber(self) -> Iterator[SubscriberClient]:
        with grpc.insecure_channel(self.host) as channel:
            yield SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


class ExternalPubSub(PubSubTopics):
    """A server that runs elsewhere: it may be used, not stopped."""

    def __init__(self, host: str) -> None:
        self._host = host

    @property
    def host(self) -> str:
        return self._host
