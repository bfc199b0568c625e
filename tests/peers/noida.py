"""A Kafka broker of one small process: noida-db."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from tests.peers.kafka_relay import KafkaRelay
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port
from tests.peers.processes import freeze

# The smallest request there is: API 18, version 0, correlation id 0, no client id.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 0, -1)


class KafkaBroker(KafkaTopics, Peer):
    """Runs noida-db, which may be killed, paused and started again on the same port and data.

    noida-db 0.2.3 acknowledges at once and writes to disk about once a second, so a killed broker forgets what it
    acknowledged in its last second; ``settle`` before ``kill``, or use a DurableKafkaBroker.

    Attributes:
        port: Where clients connect.
        data_dir: Where records live; a temporary folder by default, which goes with the broker's context.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self.port = claim_port()
        self._temporary = None if data_dir else tempfile.TemporaryDirectory(prefix="noida-", ignore_cleanup_errors=True)
        self.data_dir = data_dir or Path(self._temporary.name if self._temporary else "")
        self._listen_port = self.port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 20.0) -> None:
        """Start, and return once the broker answers.

        Raises:
            RuntimeError: It ended instead; the message has what it said.
            TimeoutError: It does not answer.
        """
        if self.running:
            raise RuntimeError("the broker is running already")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        # The binary itself: the noida-db command is a Python program that starts it and would be killed in its place.
        binary = Path(str(files("noida_db") / "noida-db"))
        binary.chmod(0o755)
        log = self.data_dir.with_name(self.data_dir.name + ".log")
        with log.open("wb") as output:
            command = f"start --only kafka --host {HOST} --kafka-port {self._listen_port} --data-dir".split()
            self._process = subprocess.Popen([binary, *command, self.data_dir], stdout=output, stderr=output)
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"noida-db ended with {self._process.returncode}: {log.read_text(errors='replace')}")
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"noida-db does not answer on port {self._listen_port} after {timeout:g} s")

    def settle(self) -> None:
        """Wait until all that the broker has acknowledged so far is on disk."""
        snapshot = self.data_dir / "kafka.json"
        # One snapshot may have been under way; the next one has everything. It is written each second while there is
        # something to write.
        for _ in range(2):
            before = _modified(snapshot)
            quiet_at = time.monotonic() + 1.3
            while _modified(snapshot) == before and time.monotonic() < quiet_at:
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: clients see their connections break, the broker has no time for anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: the broker saves and ends (what it acknowledges while it saves is lost all the same)."""
        self.resume()
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the system and never answered, until ``resume``."""
        if self._process is not None:
            freeze(self._process.pid)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self.data_dir.with_name(self.data_dir.name + ".log").unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(how)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _signal(self, which: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(which)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self._listen_port), timeout=1) as connection:
                connection.settimeout(1)
                connection.sendall(_API_VERSIONS)
                return bool(connection.recv(4))
        except OSError:
            time.sleep(0.005)
            return False


class DurableKafkaBroker(KafkaBroker):
    """A broker that keeps all it acknowledged, over a kill too, as a replicated cluster would.

    A relay before noida-db breaks the clients' connections first; then the broker saves what it has taken. What was
    under way may be stored without an acknowledgement, as anywhere.

    Attributes:
        relay: The way in, whose modes make network failures.
    """

    def __init__(self, data_dir: Path | None = None, *, auto_create: bool = True) -> None:
        super().__init__(data_dir)
        self._listen_port = self.port
        self.relay = KafkaRelay(self._listen_port, auto_create=auto_create)
        self.port = self.relay.port

    def start(self, timeout: float = 20.0) -> None:
        super().start(timeout)
        self.relay.start()

    def kill(self) -> None:
        self.relay.refuse()
        super().stop()

    def stop(self) -> None:
        self.kill()

    def close(self) -> None:
        self.relay.close()
        super().close()


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
