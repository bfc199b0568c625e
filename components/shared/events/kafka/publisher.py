"""Encoded events to a Kafka topic.

A window is one batch of an idempotent producer with one request in flight: the broker takes all of it or nothing, and
the next window is only made when this one was taken. The client halves a batch that is larger than the topic takes, in
order, until one event alone is refused; each one behind it then fails with the same error, whatever its size. A
producer that failed in any way is thrown away: an expired batch leaves it unusable, and one that waits for a
broker which accepts and never answers turns a core. So in an outage there is no producer, and the brokers are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from components.shared.errors import RetryableError
from components.shared.events.delivery import TooLargeError
from components.shared.events.event import CONTENT_TYPE, EncodedEvent
from components.shared.events.kafka.topic import KafkaTopic
from components.shared.retry import TimeLeft, countdown

_BATCH_BYTES = 1_000_000  # above one window, so that a window is one batch
REQUEST_BYTES = 30_000_000  # what an event may have is the topic's to say; the client's memory is 32 MiB
# A window that is not answered for so long is not waited for any more: the brokers are asked how they are instead.
_ANSWER_S = 10.0
_POLL_S = 0.2  # how often a wait asks whether it is to end
# Above the time that a window is given: the client's own giving up is what leaves it unusable.
_REQUEST_MS, _DELIVERY_MS = 60_000, 120_000


class KafkaTransport:
    """Publishes to one topic, which must exist; raises as `KafkaTopic`."""

    def __init__(self, servers: Sequence[str], topic: str, *, request_bytes: int = REQUEST_BYTES) -> None:
        self.name = "kafka"
        self._topic = KafkaTopic(servers, topic)
        self.address = self._topic.address
        self._request_bytes = request_bytes
        self._producer: Any = None
        self._brokers = ""

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> int:
        """Publish a window."""
        from kafka.errors import KafkaError, KafkaTimeoutError

        done = 0
        try:
            if self._producer is None:
                self._connect(time_left)
            done = self._publish(events, time_left)
        except KafkaError as error:
            self.close()
            if isinstance(error, KafkaTimeoutError):
                self._topic.describe(time_left)  # which has a reason, where the client has none
            raise self._topic.trouble(error) from error
        finally:
            if done < len(events):
                self.close()
        return done

    def _publish(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> int:
        from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

        answer_time = countdown(_ANSWER_S)
        futures: list[Any] = []
        with suppress(MessageSizeTooLargeError):  # above the client's own limit; those before it are sent
            for event in events:
                headers = [(f"ce_{name}", text.encode()) for name, text in event.attributes.items()]
                headers.append(("content-type", CONTENT_TYPE.encode()))
                key = event.key.encode()
                futures.append(self._producer.send(self._topic.topic, key=key, value=event.body, headers=headers))
        while (left := min(time_left(), answer_time())) > 0 and not all(one.is_done for one in futures):
            with suppress(KafkaError):  # the futures tell what became of the events
                self._producer.flush(timeout=min(left, _POLL_S))
        done = next((i for i, one in enumerate(futures) if not (one.is_done and one.succeeded())), len(futures))
        if done:
            return done
        error = futures[0].exception if futures and futures[0].is_done else None
        if not futures or isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
            size = len(events[0].body) + sum(len(name) + len(text) for name, text in events[0].attributes.items())
            raise TooLargeError(f"{self.address}: an event of {size:,} bytes is above its max.message.bytes")
        if error is not None:
            raise self._topic.trouble(error) from error
        raise RetryableError(f"{self.address} does not answer as {self._brokers}")

    def _connect(self, time_left: TimeLeft) -> None:
        from kafka import KafkaProducer

        topic = self._topic.describe(time_left)
        self._brokers = ", ".join(topic.brokers)
        self._producer = KafkaProducer(
            **{"api_version": topic.version} | self._topic.arguments,
            acks="all",
            enable_idempotence=True,
            max_in_flight_requests_per_connection=1,
            batch_size=_BATCH_BYTES,
            max_request_size=self._request_bytes,
            linger_ms=50,  # a window is flushed at once; this only keeps its beginning from leaving alone
            # For the topic's partitions, which are asked for once.
            max_block_ms=max(1, round(min(_ANSWER_S, time_left()) * 1000)),
            request_timeout_ms=_REQUEST_MS,
            delivery_timeout_ms=_DELIVERY_MS,
            reconnect_backoff_max_ms=1_000,
            metrics_enabled=False,
        )
        # At the process's end it would wait, and complain, for a broker that we have stopped waiting for.
        self._producer._unregister_cleanup()

    def close(self) -> None:
        """Throw the producer away, with whatever it holds."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        with suppress(Exception):
            # Its own close() first waits for what is to be thrown away, and gives up on closing if that fails.
            producer._sender.force_close()
            producer._sender.join(0.5)
            producer.close(timeout=0)
