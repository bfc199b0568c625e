"""Google's Pub/Sub emulator, run from the Google Cloud SDK's jar."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from shutil import which

from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port
from tests.peers.processes import freeze
from tests.peers.pubsub_topics import PubSubTopics

JAVA_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m")


@cache
def emulator_jar() -> Path | None:
    """The emulator's jar, if java, the SDK and its emulator component are here."""
    gcloud = which("gcloud")
    if gcloud is None or which("java") is None:
        return None
    told = subprocess.run(
        [gcloud, "info", "--format=value(installation.sdk_root)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return next(Path(told.stdout.strip()).glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*.jar"), None)


class PubSubEmulator(PubSubTopics, Peer):
    """Runs the emulator, which may be killed and started again on the same port.

    It keeps everything in memory: topics, subscriptions and messages are gone when it ends. It knows no IAM and takes
    any project.

    Attributes:
        port: Where clients connect.
    """

    def __init__(self) -> None:
        self.port = claim_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 60.0) -> None:
        """Start, and return once the emulator serves.

        Raises:
            RuntimeError: It is not installed, or it ended; the message has what it said.
            TimeoutError: It does not serve.
        """
        jar = emulator_jar()
        if jar is None:
            raise RuntimeError("no Pub/Sub emulator: install java and gcloud's pubsub-emulator component")
        command = ["java", *JAVA_OPTIONS, "-jar", str(jar), f"--host={HOST}", f"--port={self.port}"]
        deadline = time.monotonic() + timeout
        with tempfile.NamedTemporaryFile(prefix="pubsub-emulator-", suffix=".log") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            while "Server started" not in (said := Path(log.name).read_text(errors="replace")):
                if self._process.poll() is not None:
                    raise RuntimeError(f"the Pub/Sub emulator ended: {said}")
                if time.monotonic() > deadline:
                    self.kill()
                    raise TimeoutError(f"the Pub/Sub emulator is not ready after {timeout:g} s: {said}")
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: clients see their connections break."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the system and never answered, until ``resume``."""
        if self._process is not None:
            freeze(self._process.pid)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self.resume()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
