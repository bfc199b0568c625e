"""Google's Pub/Sub emulator, run from the Google Cloud SDK's jar."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from shutil import which

from tests.peers.ports import HOST
from tests.peers.pubsub_topics import PubSubTopics
from tests.peers.server_process import ServerProcess


@cache
def emulator_jar() -> Path | None:
    """The emulator's jar, if java, the SDK and its emulator component are here."""
    gcloud = which("gcloud")
    if gcloud is None or which("java") is None:
        return None
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    root = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
    return next(Path(root).glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*.jar"), None)


class PubSubEmulator(PubSubTopics, ServerProcess):
    """Runs the emulator, which may be killed and started again on the same port.

    It keeps everything in memory: topics, subscriptions and messages are gone when it ends. It knows no IAM and takes
    any project.
    """

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> Sequence[str | Path]:
        jar = emulator_jar()
        assert jar is not None, "no Pub/Sub emulator: install java and gcloud's pubsub-emulator component"
        options = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx256m -jar"
        return ["java", *options.split(), jar, f"--host={HOST}", f"--port={self.port}"]

    def kill(self) -> None:
        """SIGKILL: clients see their connections break."""
        self.close()
