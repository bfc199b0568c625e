"""HTTP connections that a relay reads from, writes to, and ends when it likes."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.peers.ports import HOST


class BrokenError(Exception):
    """This connection is to end now."""


class RequestBody:
    """A request's body, read in pieces."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._stream: Any = handler.rfile
        self._chunked = b""
        self._is_chunked = handler.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if self._is_chunked:
            self._chunked = b"".join(self._chunks())
            self.length = len(self._chunked)
        else:
            self.length = int(handler.headers.get("Content-Length") or 0)
        self._left = self.length

    def read(self, count: int) -> bytes:
        """Up to so many bytes more; fewer where the client has broken off."""
        count = max(0, min(count, self._left))
        self._left -= count
        if self._is_chunked:
            data, self._chunked = self._chunked[:count], self._chunked[count:]
            return data
        with suppress(OSError):
            return bytes(self._stream.read(count))
        return b""

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._stream.readline().partition(b";")[0] or b"0", 16):
            yield self._stream.read(size)
            self._stream.readline()
        while self._stream.readline() not in (b"\r\n", b"\n", b""):
            pass


class Handler(BaseHTTPRequestHandler):
    """Hands each request of a connection on, until the connection is to end."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def _serve(self) -> None:
        try:
            self.server.serve(self)
        except BrokenError:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 # the names http.server looks for

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Listens on a port, with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, serve: Callable[[Handler], None]) -> None:
        self.serve = serve
        self._open: set[socket.socket] = set()
        super().__init__((HOST, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Reset what clients have kept open."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or is killed, is no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
