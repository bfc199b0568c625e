"""A Kafka broker of one small process: noida-db."""

from __future__ import annotations

import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from tests.peers.kafka_relay import KafkaRelay
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.ports import HOST
from tests.peers.server_process import ServerProcess

# The smallest request there is: API 18, version 0, correlation id 0, no client id.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 0, -1)


class KafkaBroker(KafkaTopics, ServerProcess):
    """Runs noida-db, which may be killed and started again on the same port and data.

    noida-db 0.2.3 acknowledges at once and writes to disk about once a second, so a killed broker forgets what it
    acknowledged in its last second; ``settle`` before ``kill``, or use a DurableKafkaBroker.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listen_port = self.port
        self._data = tempfile.TemporaryDirectory(prefix="noida-", ignore_cleanup_errors=True)

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> Sequence[str | Path]:
        # The binary itself: the noida-db command is a Python program that starts it and would be killed in its place.
        binary = Path(str(files("noida_db") / "noida-db"))
        binary.chmod(0o755)
        options = f"start --only kafka --host {HOST} --kafka-port {self._listen_port} --data-dir {self._data.name}"
        return [binary, *options.split()]

    def settle(self) -> None:
        """Wait until all that the broker has acknowledged so far is on disk."""
        snapshot = Path(self._data.name) / "kafka.json"
        # One snapshot may have been under way; the next one has everything. It is written each second while there is
        # something to write.
        for _ in range(2):
            before = _modified(snapshot)
            quiet_at = time.monotonic() + 1.3
            while _modified(snapshot) == before and time.monotonic() < quiet_at:
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: clients see their connections break, the broker has no time for anything."""
        ServerProcess.close(self)

    def close(self) -> None:
        self.kill()
        self._data.cleanup()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self._listen_port), timeout=1) as connection:
            connection.sendall(_API_VERSIONS)
            return bool(connection.recv(4))
        return False


class DurableKafkaBroker(KafkaBroker):
    """A broker that keeps all it acknowledged, over a kill too, as a replicated cluster would.

    A relay before noida-db breaks the clients' connections first; then the broker saves what it has taken. What was
    under way may be stored without an acknowledgement, as anywhere.

    Attributes:
        relay: The way in, whose modes make network failures.
    """

    def __init__(self, *, auto_create: bool = True) -> None:
        super().__init__()
        self.relay = KafkaRelay(self._listen_port, auto_create=auto_create)
        self.port = self.relay.port

    def start(self, timeout: float = 60.0) -> None:
        super().start(timeout)
        self.relay.start()

    def kill(self) -> None:
        self.relay.refuse()
        if self._process is not None:
            self._process.terminate()  # it saves and ends
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        super().kill()

    def close(self) -> None:
        super().close()
        self.relay.close()


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
