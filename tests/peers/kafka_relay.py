"""A relay that Kafka clients stay on: what brokers say about where to connect names the relay instead."""

from __future__ import annotations

import asyncio
import ssl
import struct

from kafka.protocol.metadata import MetadataRequest

from tests.peers.ports import HOST
from tests.peers.tcp import Relay

METADATA = 3
_ADVERTISED = HOST.encode()


class KafkaRelay(Relay):
    """Relays Kafka's protocol message by message.

    A Kafka client asks whom it reached for the brokers' addresses and goes on to those, past any relay. An address is
    a host and four bytes of port, and the host is the same on both sides; so the port is replaced in place, which
    leaves every length as it is and needs to know no version of any response.

    Attributes:
        advertise: The brokers' ports and those to name instead. For a cluster, put one relay before each broker and
            give all of them the ports of all.
        auto_create: False lets no client create a topic by asking for it, as on clusters with
            ``auto.create.topics.enable=false``.
    """

    def __init__(
        self,
        target: int,
        *,
        broker_port: int | None = None,
        tls: ssl.SSLContext | None = None,
        auto_create: bool = True,
    ) -> None:
        super().__init__(target, tls=tls)
        self.advertise = {target if broker_port is None else broker_port: self.port}
        self.auto_create = auto_create

    @property
    def bootstrap(self) -> str:
        return self.address

    async def _unit(self, source: asyncio.StreamReader) -> bytes:
        return await read_frame(source)

    def _request(self, data: bytes) -> bytes:
        api_key, version = struct.unpack_from(">hh", data, 4)
        if api_key != METADATA or self.auto_create or version < 4:
            return data
        request = MetadataRequest.decode(data, version=version, header=True, framed=True)
        request.allow_auto_topic_creation = False
        changed: bytes = request.encode(version=version, header=True, framed=True)
        return changed

    def _response(self, data: bytes) -> bytes:
        for theirs, ours in self.advertise.items():
            data = data.replace(_ADVERTISED + struct.pack(">i", theirs), _ADVERTISED + struct.pack(">i", ours))
        return data


async def read_frame(source: asyncio.StreamReader) -> bytes:
    """One message with its length before it; no bytes at the end of the stream."""
    try:
        length = await source.readexactly(4)
        return length + await source.readexactly(int.from_bytes(length))
    except asyncio.IncompleteReadError:
        return b""
