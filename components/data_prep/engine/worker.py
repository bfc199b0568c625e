"""A worker process of data prep: decodes chunks into rows of open files that the main process hands over with them.

It is started with the number of a socket, and talks in messages: a length, a pickle, and open files. Descriptors rather
than paths: once the main process is killed, another run may make files of the same names, into which nothing of this
one may be written. It ends as soon as the socket does, whatever it is doing.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

_LENGTH = struct.Struct("!Q")
_MOST_FILES = 250  # Linux lets a message have 253


class Setting(NamedTuple):
    """What a worker is first sent."""

    rendering: Any  # a Rendering
    memory: int  # bytes that it may take to decode an image


def send(connection: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Send a message, with open files; OSError: the other side has ended."""
    data = pickle.dumps(message, protocol=5)
    for start in range(_MOST_FILES, len(descriptors), _MOST_FILES):
        socket.send_fds(connection, [_LENGTH.pack(0)], descriptors[start : start + _MOST_FILES])
    socket.send_fds(connection, [_LENGTH.pack(len(data))], descriptors[:_MOST_FILES])
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """The next message, and the files that came with it; EOFError: the other side has ended."""
    further: list[int] = []
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, _MOST_FILES)
        header += _exactly(connection, _LENGTH.size - len(header))
        (length,) = _LENGTH.unpack(header)
        if length:
            return pickle.loads(_exactly(connection, length)), descriptors + further  # noqa: S301 - of our own process
        further += descriptors


def _exactly(connection: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        if not (received := connection.recv_into(view)):
            raise EOFError
        view = view[received:]
    return data


def _serve(connection: socket.socket) -> None:
    from components.data_prep.engine.chunks import Chunk, decode_chunk  # once it can end by itself
    from components.shared.decoding.images import DecodingMemory

    tasks: queue.SimpleQueue[tuple[Chunk, list[int]]] = queue.SimpleQueue()

    def receive_all() -> None:
        try:
            while True:
                tasks.put(receive(connection))
        except (EOFError, OSError):
            os._exit(0)  # also from within a decoder

    setting, _ = receive(connection)
    threading.Thread(target=receive_all, daemon=True).start()
    memory = DecodingMemory(setting.memory, setting.memory)
    warnings.simplefilter("ignore")  # what Pillow warns of is read, or set aside with a reason
    send(connection, None)
    while True:
        chunk, descriptors = tasks.get()
        try:
            answer: object = decode_chunk(chunk, descriptors, setting.rendering, memory)
        except Exception as error:
            error.__notes__ = [*getattr(error, "__notes__", ()), traceback.format_exc()]
            answer = error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        send(connection, answer)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is the main process that ends
    try:
        _serve(socket.socket(fileno=int(sys.argv[1])))
    except (EOFError, OSError):  # the main process has ended
        sys.exit(0)
