"""A Pub/Sub server inside the test's process, which fails when told to."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.pubsub_v1 import types

from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port
from tests.peers.pubsub_broker import Broker, RefusedError
from tests.peers.pubsub_topics import Message

PULL_WAIT_S = 5.0
POLL_S = 0.01

# What each method takes.
_REQUESTS: dict[str, Any] = {
    "Publish": types.PublishRequest,
    "CreateTopic": types.Topic,
    "GetTopic": types.GetTopicRequest,
    "DeleteTopic": types.DeleteTopicRequest,
    "CreateSubscription": types.Subscription,
    "Pull": types.PullRequest,
    "Acknowledge": types.AcknowledgeRequest,
    "ModifyAckDeadline": types.ModifyAckDeadlineRequest,
}


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
    """

    def __init__(self, *, ack_deadline: float | None = None) -> None:
        """Make a server; with ``ack_deadline`` it hands out again after so many seconds, whatever clients ask for."""
        self.port = claim_port()
        self.broker = Broker(ack_deadline)
        self._server: grpc.Server | None = None
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._faults: dict[str, list[_Fault]] = {}
        self._healed = threading.Event()
        self._healed.set()

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def requests(self) -> Counter[str]:
        """How often each method was called so far, failed calls included."""
        with self._lock:
            return Counter(self._requests)

    def create_topic(self, project: str, topic: str) -> str:
        """Make a topic; returns its full name."""
        name = f"projects/{project}/topics/{topic}"
        self.broker.create_topic(types.Topic(name=name))
        return name

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

    def fail_next(self, method: str, code: grpc.StatusCode, times: int = 1, message: str = "") -> None:
        """Answer the next calls of a method with an error."""
        self._add(method, _Fault(code, message, times))

    def fail_after_commit_next(self, method: str, code: grpc.StatusCode, times: int = 1, message: str = "") -> None:
        """Do what the next calls ask for and answer with an error all the same."""
        self._add(method, _Fault(code, message, times, after_commit=True))

    def fail_always(self, method: str, code: grpc.StatusCode, message: str = "") -> None:
        """Answer a method with an error until ``heal``."""
        self._add(method, _Fault(code, message, float("inf")))

    def hang(self) -> None:
        """Accept calls and answer none, until ``heal``."""
        self._healed.clear()

    def heal(self) -> None:
        with self._lock:
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

    def _add(self, method: str, fault: _Fault) -> None:
        if method not in _REQUESTS:
            raise ValueError(f"no method {method!r}; there are {', '.join(_REQUESTS)}")
        with self._lock:
            self._faults.setdefault(method, []).append(fault)

    def _take_fault(self, method: str) -> _Fault | None:
        with self._lock:
            faults = self._faults.get(method)
            if not faults:
                return None
            fault = faults[0]
            fault.times -= 1
            if fault.times <= 0:
                faults.pop(0)
            return fault

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self._requests[method] += 1
        while context.is_active() and not self._healed.wait(timeout=0.05):
            pass
        fault = self._take_fault(method)
        if fault is not None and not fault.after_commit:
            context.abort(fault.code, fault.message)
        try:
            reply = self.broker.handlers[method](request)
            # As the service does, wait a while for something to hand out.
            patience = time.monotonic() + PULL_WAIT_S
            while method == "Pull" and not reply.received_messages and not request.return_immediately:
                if not context.is_active() or time.monotonic() > patience:
                    break
                time.sleep(POLL_S)
                reply = self.broker.pull(request)
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
        if method not in _REQUESTS:
            return None
        return grpc.unary_unary_rpc_method_handler(
            partial(self._server.answer, method),
            request_deserializer=_REQUESTS[method].deserialize,
            response_serializer=_serialize,
        )


def _serialize(reply: Any) -> bytes:
    data: bytes = b"" if reply is None else type(reply).serialize(reply)
    return data
