"""A TCP relay that can stall, slow down or refuse, in front of any port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port

_Change = Callable[[bytes], bytes]

# What is to be written, and the loop's time from which it may be; no bytes mean the source has ended.
_Due = asyncio.Queue[tuple[float, bytes]]


class Relay(Peer):
    """Passes connections on to a port, in a mode that may change at any time.

    ``pass_through``: as if it were not there. ``black_hole``: accepts and reads, lets nothing through in either
    direction, on existing connections too; what was held flows on afterwards, as after a network partition.
    ``refuse``: nobody listens, and existing connections are reset. ``delay``: adds latency in each direction.

    Attributes:
        target: The port relayed to.
        port: The port listened on, the same for the relay's whole life.
        connections: How many connections it has accepted so far.
    """

    def __init__(self, target: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.port = claim_port()
        self.connections = 0
        self._tls = tls
        self._latency = 0.0
        self._open = asyncio.Event()
        self._open.set()
        self._listener: socket.socket | None = None
        self._live: dict[asyncio.Task[None], socket.socket] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"relay-{self.port}", daemon=True)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._live)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self.pass_through()

    def close(self) -> None:
        self.refuse()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def pass_through(self) -> None:
        self._run(self._pass_through())

    def black_hole(self) -> None:
        self._run(self._black_hole())

    def refuse(self) -> None:
        self._run(self._refuse())

    def delay(self, seconds: float) -> None:
        """Add this much latency in each direction, on all connections, until another mode is chosen."""
        self._run(self._pass_through(seconds))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)
        else:
            work.close()

    async def _pass_through(self, latency: float = 0.0) -> None:
        self._latency = latency
        self._open.set()
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=128)
            self._listener.setblocking(False)
            # Not by a task: one that is cancelled with a connection just accepted would leave that open.
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _black_hole(self) -> None:
        await self._pass_through()
        self._open.clear()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        live = list(self._live.items())
        for task, connection in live:
            # Closing with no time to linger sends a reset.
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            task.cancel()
        await asyncio.gather(*(task for task, _ in live), return_exceptions=True)
        for _, connection in live:
            connection.close()  # of a task that was ended before it began, which has closed nothing
        self._open.set()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            self.connections += 1
            task = self._loop.create_task(self._handle(connection))
            self._live[task] = connection
            task.add_done_callback(self._live.pop)

    async def _handle(self, connection: socket.socket) -> None:
        """Serve one connection; a side that hangs up or cannot be reached ends this one and nothing else."""
        writers: list[asyncio.StreamWriter] = []
        try:
            with contextlib.suppress(OSError, EOFError):
                if self._tls is not None:
                    await self._open.wait()
                reader, writer = await self._server_side(connection)
                writers.append(writer)
                if await self._greet(reader, writer):
                    await self._open.wait()
                    server_reader, server_writer = await asyncio.open_connection(HOST, self.target)
                    writers.append(server_writer)
                    await self._relay(reader, writer, server_reader, server_writer)
                # What was written last still goes out, if the other side takes it.
                for open_writer in writers:
                    open_writer.close()
                await asyncio.wait([asyncio.create_task(_closed(open_writer)) for open_writer in writers], timeout=1)
        finally:
            for open_writer in writers:
                open_writer.transport.abort()
            await asyncio.sleep(0)  # transports close their sockets one turn of the loop later
            connection.close()

    async def _server_side(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        requests: _Due = asyncio.Queue()
        responses: _Due = asyncio.Queue()
        sources = [
            asyncio.create_task(self._read(reader, requests, self._request)),
            asyncio.create_task(self._read(server_reader, responses, self._response)),
        ]
        sinks = [
            asyncio.create_task(self._write(requests, server_writer)),
            asyncio.create_task(self._write(responses, writer)),
        ]
        try:
            await asyncio.wait(sinks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in sources + sinks:
                task.cancel()
            await asyncio.gather(*sources, *sinks, return_exceptions=True)

    async def _read(self, source: asyncio.StreamReader, queue: _Due, change: _Change) -> None:
        try:
            while data := await self._unit(source):
                queue.put_nowait((self._loop.time() + self._latency, change(data)))
        except (OSError, EOFError):
            pass
        finally:
            queue.put_nowait((0.0, b""))

    async def _write(self, queue: _Due, sink: asyncio.StreamWriter) -> None:
        while True:
            due, data = await queue.get()
            if not data:
                return
            await asyncio.sleep(due - self._loop.time())
            await self._open.wait()
            sink.write(data)
            await sink.drain()

    # What relays of a protocol do otherwise.

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Talk to the client before it is connected through; False ends the connection."""
        return True

    async def _unit(self, source: asyncio.StreamReader) -> bytes:
        """The next bytes to carry in one piece."""
        return await source.read(65536)

    def _request(self, data: bytes) -> bytes:
        return data

    def _response(self, data: bytes) -> bytes:
        return data


async def _closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await writer.wait_closed()
