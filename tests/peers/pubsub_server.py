"""A Pub/Sub server inside the test's process, with the service's rules, which fails when it is asked to."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import grpc
from google.pubsub_v1 import types

from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port
from tests.peers.pubsub_topics import Message

PULL_WAIT_S = 5.0
POLL_S = 0.01
DEFAULT_ACK_DEADLINE_S = 10

Kept = TypeVar("Kept")


class RefusedError(Exception):
    """A request that the service does not fulfil, with its status code and message."""

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
    """Topics and subscriptions in memory.

    A message waits until it is acknowledged; one handed out and not acknowledged in time is handed out again. Of an
    ordering key, the next message is not handed out before the earlier ones are acknowledged.
    """

    def __init__(self, ack_deadline: float | None = None) -> None:
        # What answers each of the protocol's methods, and what it takes; None is the protocol's empty message.
        self.methods: dict[str, tuple[Callable[[Any], Any], Any]] = {
            "Publish": (self.publish, types.PublishRequest),
            "CreateTopic": (self.create_topic, types.Topic),
            "DeleteTopic": (self.delete_topic, types.DeleteTopicRequest),
            "CreateSubscription": (self.create_subscription, types.Subscription),
            "Pull": (self.pull, types.PullRequest),
            "Acknowledge": (self.acknowledge, types.AcknowledgeRequest),
            "ModifyAckDeadline": (self.modify_ack_deadline, types.ModifyAckDeadlineRequest),
        }
        self.lock = threading.RLock()
        self.largest_request = 10_000_000  # bytes of a Publish call, as the service has it
        self._ack_deadline = ack_deadline
        self._sequence = itertools.count(1)
        self._topics: dict[str, list[Message]] = {}
        self._subscriptions: dict[str, _Subscription] = {}

    def published(self, topic: str) -> list[Message]:
        messages: list[Message] = _found(self._topics, topic)
        return list(messages)

    def publish(self, request: types.PublishRequest) -> types.PublishResponse:
        stored = _found(self._topics, request.topic)
        if (size := len(types.PublishRequest.serialize(request))) > self.largest_request:
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The value for request_size is too large. You passed {size} in the request, but the maximum value "
                f"is {self.largest_request}.",
            )
        for message in request.messages:
            sequence = next(self._sequence)
            message.message_id, message.publish_time = str(sequence), datetime.now(UTC)
            stored.append(Message(message.data, dict(message.attributes), message.ordering_key, message.message_id))
            for subscription in self._subscriptions.values():
                if subscription.settings.topic == request.topic:
                    subscription.waiting.append(_Delivery(sequence, message))
        return types.PublishResponse(message_ids=[message.message_id for message in request.messages])

    def create_topic(self, request: types.Topic) -> types.Topic:
        _missing(self._topics, request.name)
        self._topics[request.name] = []
        return request

    def delete_topic(self, request: types.DeleteTopicRequest) -> None:
        _found(self._topics, request.topic)
        del self._topics[request.topic]
        for subscription in self._subscriptions.values():
            if subscription.settings.topic == request.topic:
                subscription.settings.topic = "_deleted-topic_"

    def create_subscription(self, request: types.Subscription) -> types.Subscription:
        _missing(self._subscriptions, request.name)
        _found(self._topics, request.topic)
        request.ack_deadline_seconds = request.ack_deadline_seconds or DEFAULT_ACK_DEADLINE_S
        self._subscriptions[request.name] = _Subscription(request)
        return request

    def pull(self, request: types.PullRequest) -> types.PullResponse:
        return types.PullResponse(received_messages=self.take(request.subscription, request.max_messages))

    def take(self, name: str, limit: int) -> list[types.ReceivedMessage]:
        """Hand out up to `limit` messages, to be acknowledged within their deadline."""
        with self.lock:
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
        subscription = _found(self._subscriptions, request.subscription)
        for ack_id in request.ack_ids:  # too late is no error: the message comes again
            subscription.outstanding.pop(ack_id, None)

    def modify_ack_deadline(self, request: types.ModifyAckDeadlineRequest) -> None:
        subscription = _found(self._subscriptions, request.subscription)
        for ack_id in request.ack_ids:
            if ack_id in subscription.outstanding and request.ack_deadline_seconds == 0:
                subscription.give_back(ack_id)
            elif ack_id in subscription.outstanding and self._ack_deadline is None:
                delivery, _ = subscription.outstanding[ack_id]
                subscription.outstanding[ack_id] = (delivery, time.monotonic() + request.ack_deadline_seconds)


def _found(kept: dict[str, Kept], name: str) -> Kept:
    if name not in kept:
        resource = name.rpartition("/")[2]
        raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={resource}).")
    return kept[name]


def _missing(kept: dict[str, Any], name: str) -> None:
    if name in kept:
        message = f"Resource already exists in the project (resource={name.rpartition('/')[2]})."
        raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, message)


@dataclass
class _Fault:
    code: grpc.StatusCode
    message: str
    times: float
    after_commit: bool = False


class PubSubServer(Peer):
    """Serves publishers and subscribers of Google's own clients.

    Methods are named as in the protocol: ``Publish``, ``Pull``, …

    Attributes:
        port: Where clients connect, the same over ``stop`` and ``start``; topics and messages stay as well.
        broker: What is published and not yet acknowledged.
        requests: How often each method was called so far, failed calls included.
    """

    def __init__(self, *, ack_deadline: float | None = None) -> None:
        """Make a server; with ``ack_deadline`` it hands out again after so many seconds, whatever clients ask for."""
        self.port = claim_port()
        self.host = f"{HOST}:{self.port}"
        self.broker = Broker(ack_deadline)
        self.requests: Counter[str] = Counter()
        self._server: grpc.Server | None = None
        self._faults: defaultdict[str, list[_Fault]] = defaultdict(list)
        self._healed = threading.Event()
        self._healed.set()

    def create_topic(self, project: str, topic: str) -> str:
        """Make a topic; returns its full name."""
        return str(self.broker.create_topic(types.Topic(name=f"projects/{project}/topics/{topic}")).name)

    def delete_topic(self, name: str) -> None:
        self.broker.delete_topic(types.DeleteTopicRequest(topic=name))

    def create_subscription(self, project: str, subscription: str, topic: str, *, ordered: bool = True) -> str:
        """Make a subscription to a topic (by its full name); returns the subscription's full name."""
        name = f"projects/{project}/subscriptions/{subscription}"
        self.broker.create_subscription(types.Subscription(name=name, topic=topic, enable_message_ordering=ordered))
        return name

    def published(self, topic: str) -> list[Message]:
        """What is stored in a topic (by its full name), in order."""
        return self.broker.published(topic)

    def fail_next(self, method: str, code: grpc.StatusCode, times: float = 1, message: str = "") -> None:
        """Answer the next calls of a method with an error."""
        self._faults[method].append(_Fault(code, message, times))

    def fail_after_commit_next(self, method: str, code: grpc.StatusCode, times: int = 1, message: str = "") -> None:
        """Do what the next calls ask for and answer with an error all the same."""
        self._faults[method].append(_Fault(code, message, times, after_commit=True))

    def fail_always(self, method: str, code: grpc.StatusCode, message: str = "") -> None:
        """Answer a method with an error until ``heal``."""
        self.fail_next(method, code, float("inf"), message)

    def hang(self) -> None:
        """Accept calls and answer none, until ``heal``."""
        self._healed.clear()

    def heal(self) -> None:
        self._faults.clear()
        self._healed.set()

    def start(self) -> None:
        pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix=f"pubsub-{self.port}")
        # Without sharing: a second server on the port would take calls meant for this one.
        self._server = grpc.server(pool, handlers=[_Handler(self)], options=[("grpc.so_reuseport", 0)])
        self._server.add_insecure_port(self.host)
        self._server.start()

    def stop(self) -> None:
        """End every call and stop listening; ``start`` listens again."""
        if self._server is not None:
            self._server.stop(grace=0).wait()
            self._server = None

    def close(self) -> None:
        self.heal()
        self.stop()

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        with self.broker.lock:
            self.requests[method] += 1
        while context.is_active() and not self._healed.wait(timeout=0.05):
            pass
        with self.broker.lock:
            fault = next(iter(self._faults[method]), None)
            if fault is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._faults[method].remove(fault)
        if fault is not None and not fault.after_commit:
            context.abort(fault.code, fault.message)
        give_up = time.monotonic() + PULL_WAIT_S
        try:
            while True:
                with self.broker.lock:
                    reply = self.broker.methods[method][0](request)
                # As the service does, wait a while for something to hand out.
                if method != "Pull" or reply.received_messages or request.return_immediately:
                    break
                if time.monotonic() > give_up or not context.is_active():
                    break
                time.sleep(POLL_S)
        except RefusedError as refusal:
            context.abort(refusal.code, str(refusal))
        if fault is not None:
            context.abort(fault.code, fault.message)
        return reply


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: PubSubServer) -> None:
        self._server = server

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        if method not in self._server.broker.methods:
            return None
        return grpc.unary_unary_rpc_method_handler(
            partial(self._server.answer, method),
            request_deserializer=self._server.broker.methods[method][1].deserialize,
            response_serializer=lambda reply: b"" if reply is None else type(reply).serialize(reply),
        )
