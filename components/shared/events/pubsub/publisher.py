"""Encoded events to a Pub/Sub topic.

One call publishes one window, and is retried by our own delivery, so the client's batching, its futures and its paused
ordering keys are not used: the order is kept because a window is only sent when the one before it was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.shared.events.delivery import TooLargeError
from components.shared.events.event import CONTENT_TYPE, EncodedEvent
from components.shared.events.pubsub.client import check_client, is_too_large, meaning, open_channel
from components.shared.retry import TimeLeft

_LATE_LIMIT = 5  # calls in a row that ran out of time


class PubSubTransport:
    """Publishes to one topic, ``projects/…/topics/…``; raises as `check_client`. `timeout_s` is for one call."""

    def __init__(self, topic: str, credentials_file: str | None = None, timeout_s: float = 3.0) -> None:
        check_client("PUB_SUB_TOPIC", credentials_file)
        self.name = "pubsub"
        self.address = f"Pub/Sub {topic}"
        self._topic = topic
        self._credentials_file = credentials_file
        self._timeout_s = timeout_s
        self._late = 0
        self._channel: Any = None
        self._client: Any = None

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> int:
        """Publish a window, or less of it where the service refuses it for its size."""
        from google.api_core.exceptions import DeadlineExceeded, GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError
        from google.pubsub_v1.types import PubsubMessage

        # Repeated in every message: Pub/Sub has no headers but attributes.
        messages = [
            PubsubMessage(
                data=event.body,
                ordering_key=event.key,
                attributes={f"ce-{name}": value for name, value in event.attributes.items()}
                | {"content-type": CONTENT_TYPE},
            )
            for event in events
        ]
        while True:
            try:
                client = self._connected()
                timeout_s = max(0.01, min(time_left(), self._timeout_s))
                client.publish(request={"topic": self._topic, "messages": messages}, timeout=timeout_s, retry=None)
            except (GoogleAPICallError, RetryError, GoogleAuthError) as error:
                if is_too_large(error):
                    self._late = 0
                    if len(messages) > 1:
                        del messages[len(messages) // 2 :]
                        continue
                    size, reason = len(PubsubMessage.serialize(messages[0])), " ".join(str(error).split())
                    raise TooLargeError(f"{self.address}: an event of {size:,} bytes is too large: {reason}") from error
                # A slow connection needs several calls to come up; one that stays silent may be half dead, and one that
                # failed is: the next attempt makes its own.
                self._late = self._late + 1 if isinstance(error, DeadlineExceeded) else _LATE_LIMIT
                if self._late >= _LATE_LIMIT:
                    self.close()
                raise meaning(error, self._topic, "publisher") from error
            self._late = 0
            return len(messages)

    def _connected(self) -> Any:
        if self._client is None:
            from google.pubsub_v1 import PublisherClient
            from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

            self._channel = open_channel(self._credentials_file)
            self._client = PublisherClient(transport=PublisherGrpcTransport(channel=self._channel))
        return self._client

    def close(self) -> None:
        """Close the connection."""
        channel, self._channel, self._client, self._late = self._channel, None, None, 0
        if channel is not None:
            channel.close()
