"""What may stand between a client and an HTTPS server: a proxy; a port that hangs up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.peers.peer import Peer
from tests.peers.ports import HOST


class ConnectProxy(Peer):
    """A proxy that hands every tunnel to one port of this machine, whatever name was asked for.

    Attributes:
        port: Where clients connect.
        targets: What they asked for.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.targets: list[str] = []

    def start(self) -> None:
        self._begin(self._accept)

    def close(self) -> None:
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in [self._listener, *self._open]:
            each.close()

    def _begin(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += client.recv(1024)
                self.targets.append(asked.split(b" ")[1].decode())
                server = socket.create_connection((HOST, self._target))
                self._open += [client, server]
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._begin(_pass_on, client, server)
                self._begin(_pass_on, server, client)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def hangs_up(answer: bytes = b"") -> Iterator[int]:
    """A port where every connection is ended at its first bytes, perhaps with an answer."""
    listener = socket.create_server((HOST, 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.recv(65536)
                client.sendall(answer)
                client.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
