"""Messages of a Pub/Sub subscription, by unary pulls that wait at the service; no thread, no stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.pubsub.client import check_client, meaning, open_channel
from components.shared.events.watch import Message

_WINDOW = 100  # few enough to be shown before their leases, of 10 s by default, run out
_PULL_S = 90.0  # longer than the pings of a silent connection need to find that it is dead
_CALL_S, _CLOSE_S = 5.0, 1.0
CHUNK = 1_000  # acknowledgements of one call: it may have 512 KiB, and an id has about 200 bytes
# While messages are being shown their leases are renewed, at most so often, for so long.
RENEW_EVERY_S = 3.0
_LEASE_S = 60


class PubSubSubscriber:
    """Reads one subscription, ``projects/…/subscriptions/…``; raises as `check_client`.

    The subscription remembers for all who use it what was acknowledged.
    """

    def __init__(self, subscription: str, credentials_file: str | None = None) -> None:
        check_client("PUB_SUB_SUBSCRIPTION", credentials_file)
        self.remembers = True
        self.address = f"Pub/Sub {subscription}"
        self._subscription = subscription
        self._credentials_file = credentials_file
        self._channel: Any = None
        self._transport: Any = None
        self._pull: Any = None
        self._was_reached = False
        self._leased: dict[str, None] = {}
        self._renewed_at = 0.0

    def receive(self, timeout_s: float) -> list[Message]:
        """Wait for messages. A pull outlives a wait that ends without any: its messages come to the next one."""
        import grpc

        asked_at = time.monotonic()
        if self._pull is None:
            self._pull = self._start_pull()
        try:
            response = self._pull.result(timeout=timeout_s)
        except grpc.FutureTimeoutError:
            return []
        except grpc.RpcError as error:
            self._pull = None
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:  # nothing came
                return []
            raise self._meaning(error) from error
        self._pull = None
        self._was_reached = True
        received = [Message(each.message.data, each.ack_id) for each in response.received_messages]
        self._leased |= dict.fromkeys(cast("str", message.token) for message in received)
        self._renewed_at = time.monotonic()
        if not received:  # the service may answer so at once, for hours
            time.sleep(max(0.0, asked_at + timeout_s - time.monotonic()))
        return received

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge these, and renew the leases of the others."""
        from google.api_core import exceptions

        ids = [cast("str", message.token) for message in messages]
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            try:
                self._call("acknowledge", _CALL_S, ack_ids=chunk)
            except (exceptions.InvalidArgument, exceptions.FailedPrecondition):
                pass  # exactly-once delivery says so of a lease that has run out; the message comes again
            except exceptions.GoogleAPICallError as error:
                raise self._meaning(error) from error
            for each in chunk:
                self._leased.pop(each, None)
        if self._leased and time.monotonic() - self._renewed_at > RENEW_EVERY_S:
            self._renewed_at = time.monotonic()
            self._set_leases(_LEASE_S, _CALL_S)

    def close(self) -> None:
        """Give back what was not acknowledged, so that it is delivered again at once, and close the connection."""
        if self._pull is not None:
            self._pull.cancel()
        if self._leased and self._transport is not None:
            self._set_leases(0, _CLOSE_S)
        self._disconnect()

    def _set_leases(self, seconds: int, timeout_s: float) -> None:
        """Set the leases of all messages not acknowledged yet; one that is lost costs a delivery, nothing else."""
        from google.api_core.exceptions import GoogleAPICallError

        with suppress(GoogleAPICallError):
            self._call("modify_ack_deadline", timeout_s, ack_ids=list(self._leased), ack_deadline_seconds=seconds)

    def _start_pull(self) -> Any:
        from google.api_core.gapic_v1.routing_header import to_grpc_metadata
        from google.pubsub_v1.types import PullRequest

        request = PullRequest(subscription=self._subscription, max_messages=_WINDOW)
        # The generated method waits until the call is over; the stub beneath it gives a future.
        routing = to_grpc_metadata({"subscription": self._subscription})  # type: ignore[no-untyped-call]
        return self._connected().pull.future(request, timeout=_PULL_S, metadata=[routing])

    def _call(self, method: str, timeout_s: float, **request: Any) -> None:
        from google.pubsub_v1 import SubscriberClient

        client = SubscriberClient(transport=self._connected())
        getattr(client, method)(request={"subscription": self._subscription, **request}, timeout=timeout_s, retry=None)

    def _connected(self) -> Any:
        if self._transport is None:
            from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

            self._channel = open_channel(self._credentials_file)
            self._transport = SubscriberGrpcTransport(channel=self._channel)
        return self._transport

    def _meaning(self, error: Exception) -> RetryableError | StatusRefusedError:
        from google.api_core.exceptions import GoogleAPICallError, from_grpc_error

        self._disconnect()  # a connection that failed may be half dead; the next attempt makes its own
        known = error if isinstance(error, GoogleAPICallError) else from_grpc_error(error)  # type: ignore[no-untyped-call]
        found = meaning(known, self._subscription, "subscriber")
        # What was there once comes back: a subscription made anew, a permission given again.
        return RetryableError(str(found)) if self._was_reached and isinstance(found, StatusRefusedError) else found

    def _disconnect(self) -> None:
        channel, self._channel, self._transport, self._pull = self._channel, None, None, None
        self._leased.clear()
        if channel is not None:
            channel.close()
