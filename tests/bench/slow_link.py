"""A network's rate in front of a server of this machine: a relay in a process of its own.

``python -m tests.bench.slow_link PORT TARGET_PORT BYTES_PER_SECOND DELAY_S``
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.peers.gcs import GcsServer
from tests.peers.ports import HOST
from tests.peers.server_process import ServerProcess

_ROOT = Path(__file__).parents[2]
_PIECE = 64 * 1024


class Link:
    """Passes answers on at a rate that all connections share, and requests after a delay."""

    def __init__(self, target_port: int, bytes_per_second: float, delay_s: float) -> None:
        self._target_port, self._rate, self._delay_s = target_port, bytes_per_second, delay_s
        self._is_free_at = 0.0

    async def connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one connection to its end."""
        asking, answering = await asyncio.open_connection(HOST, self._target_port)
        with closing(writer), closing(answering):
            await asyncio.wait(
                [
                    asyncio.create_task(self._requests(reader, answering)),
                    asyncio.create_task(self._answers(asking, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )

    async def _requests(self, reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            await asyncio.sleep(self._delay_s)
            writer.write(data)

    async def _answers(self, reader: StreamReader, writer: StreamWriter) -> None:
        now = asyncio.get_running_loop().time
        while data := await reader.read(_PIECE):
            self._is_free_at = max(self._is_free_at, now()) + len(data) / self._rate
            await asyncio.sleep(self._is_free_at - now())
            writer.write(data)


class SlowLink(ServerProcess):
    """The relay, in front of a server of objects."""

    ready_path = GcsServer.ready_path

    def __init__(self, target_port: int, bytes_per_second: float, delay_s: float) -> None:
        super().__init__()
        self._words = [str(each) for each in (self.port, target_port, bytes_per_second, delay_s)]

    def command(self) -> Sequence[str | Path]:
        return ["env", f"PYTHONPATH={_ROOT}", sys.executable, "-m", "tests.bench.slow_link", *self._words]


async def _serve(port: str, target_port: str, bytes_per_second: str, delay_s: str) -> None:
    link = Link(int(target_port), float(bytes_per_second), float(delay_s))
    await (await asyncio.start_server(link.connect, HOST, int(port))).serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
