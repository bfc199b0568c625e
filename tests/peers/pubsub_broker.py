"""What a Pub/Sub service remembers: topics, subscriptions, who has been handed what."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc
from google.pubsub_v1 import types

from tests.peers.pubsub_topics import Message

DEFAULT_ACK_DEADLINE_S = 10

Kept = TypeVar("Kept")


class RefusedError(Exception):
    """A request the service does not fulfil, in its words."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class _Delivery:
    sequence: int
    message: types.PubsubMessage
    attempt: int = 0


@dataclass
class _Subscription:
    settings: types.Subscription
    waiting: list[_Delivery] = field(default_factory=list)
    # By acknowledgement id, with the time from which it is handed out again.
    outstanding: dict[str, tuple[_Delivery, float]] = field(default_factory=dict)

    def give_back(self, ack_id: str) -> None:
        delivery, _ = self.outstanding.pop(ack_id)
        self.waiting.append(delivery)
        self.waiting.sort(key=lambda each: each.sequence)


class Broker:
    """Topics and subscriptions in memory, with the service's rules and its words for what is wrong.

    A message waits until it is acknowledged; one handed out and not acknowledged in time is handed out again. Of an
    ordering key, the next message is not handed out before the earlier ones are acknowledged.

    Attributes:
        handlers: What answers each of the protocol's methods; None is the protocol's empty message.
    """

    def __init__(self, ack_deadline: float | None = None) -> None:
        self.handlers: dict[str, Callable[[Any], Any]] = {
            "Publish": self.publish,
            "CreateTopic": self.create_topic,
            "GetTopic": self.get_topic,
            "DeleteTopic": self.delete_topic,
            "CreateSubscription": self.create_subscription,
            "Pull": self.pull,
            "Acknowledge": self.acknowledge,
            "ModifyAckDeadline": self.modify_ack_deadline,
        }
        self._ack_deadline = ack_deadline
        self._lock = threading.RLock()
        self._sequence = itertools.count(1)
        self._topics: dict[str, list[Message]] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self.largest_request = 10_000_000  # bytes of a Publish call, as the service has it

    def published(self, topic: str) -> list[Message]:
        with self._lock:
            messages: list[Message] = _found(self._topics, topic)
            return list(messages)

    def publish(self, request: types.PublishRequest) -> types.PublishResponse:
        with self._lock:
            stored = _found(self._topics, request.topic)
            if any(not message.data and not message.attributes for message in request.messages):
                raise RefusedError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    "One or more messages in the publish request is empty. Each message must contain either non-empty "
                    "data, or at least one attribute.",
                )
            size = len(types.PublishRequest.serialize(request))
            if size > self.largest_request:
                raise RefusedError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"The value for request_size is too large. You passed {size} in the request, but the maximum value "
                    f"is {self.largest_request}.",
                )
            now = datetime.now(UTC)
            ids = []
            for message in request.messages:
                sequence = next(self._sequence)
                message.message_id = str(sequence)
                message.publish_time = now
                ids.append(message.message_id)
                stored.append(Message(message.data, dict(message.attributes), message.ordering_key, message.message_id))
                for subscription in self._subscriptions.values():
                    if subscription.settings.topic == request.topic:
                        subscription.waiting.append(_Delivery(sequence, message))
            return types.PublishResponse(message_ids=ids)

    def create_topic(self, request: types.Topic) -> types.Topic:
        with self._lock:
            _missing(self._topics, request.name)
            self._topics[request.name] = []
            return request

    def get_topic(self, request: types.GetTopicRequest) -> types.Topic:
        with self._lock:
            _found(self._topics, request.topic)
            return types.Topic(name=request.topic)

    def delete_topic(self, request: types.DeleteTopicRequest) -> None:
        with self._lock:
            _found(self._topics, request.topic)
            del self._topics[request.topic]
            for subscription in self._subscriptions.values():
                if subscription.settings.topic == request.topic:
                    subscription.settings.topic = "_deleted-topic_"

    def create_subscription(self, request: types.Subscription) -> types.Subscription:
        with self._lock:
            _missing(self._subscriptions, request.name)
            _found(self._topics, request.topic)
            request.ack_deadline_seconds = request.ack_deadline_seconds or DEFAULT_ACK_DEADLINE_S
            self._subscriptions[request.name] = _Subscription(request)
            return request

    def pull(self, request: types.PullRequest) -> types.PullResponse:
        """Hand out what may be handed out now; waiting for more is the caller's affair."""
        return types.PullResponse(received_messages=self.take(request.subscription, request.max_messages))

    def take(self, name: str, limit: int) -> list[types.ReceivedMessage]:
        """Hand out up to ``limit`` messages, to be acknowledged within their deadline."""
        with self._lock:
            subscription = _found(self._subscriptions, name)
            now = time.monotonic()
            for ack_id in [each for each, (_, due) in subscription.outstanding.items() if due <= now]:
                subscription.give_back(ack_id)
            ordered = subscription.settings.enable_message_ordering
            blocked = {delivery.message.ordering_key for delivery, _ in subscription.outstanding.values()}
            taken: list[types.ReceivedMessage] = []
            left: list[_Delivery] = []
            lease = self._ack_deadline or subscription.settings.ack_deadline_seconds
            for delivery in subscription.waiting:
                key = delivery.message.ordering_key
                if len(taken) == limit or (ordered and key and key in blocked):
                    left.append(delivery)
                    continue
                blocked.add(key)
                delivery.attempt += 1
                ack_id = f"{name}:{delivery.sequence}:{delivery.attempt}"
                subscription.outstanding[ack_id] = (delivery, now + lease)
                taken.append(types.ReceivedMessage(ack_id=ack_id, message=delivery.message))
            subscription.waiting = left
            return taken

    def acknowledge(self, request: types.AcknowledgeRequest) -> None:
        with self._lock:
            subscription = _found(self._subscriptions, request.subscription)
            for ack_id in request.ack_ids:
                # Too late is no error: the message has been or will be handed out again.
                subscription.outstanding.pop(ack_id, None)

    def modify_ack_deadline(self, request: types.ModifyAckDeadlineRequest) -> None:
        with self._lock:
            subscription = _found(self._subscriptions, request.subscription)
            for ack_id in request.ack_ids:
                if ack_id not in subscription.outstanding:
                    continue
                if request.ack_deadline_seconds == 0:
                    subscription.give_back(ack_id)
                elif self._ack_deadline is None:
                    delivery, _ = subscription.outstanding[ack_id]
                    subscription.outstanding[ack_id] = (delivery, time.monotonic() + request.ack_deadline_seconds)


def _found(kept: dict[str, Kept], name: str) -> Kept:
    if name not in kept:
        raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name.rpartition('/')[2]}).")
    return kept[name]


def _missing(kept: dict[str, Any], name: str) -> None:
    if name in kept:
        told = f"Resource already exists in the project (resource={name.rpartition('/')[2]})."
        raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, told)
