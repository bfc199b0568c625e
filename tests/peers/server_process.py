"""A server that is somebody else's program: started, waited for, ended."""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port


class ServerProcess(Peer):
    """Runs an HTTP server in a folder of its own, which goes with it."""

    ready_path = "/"

    def __init__(self, parent: Path | None = None) -> None:
        """Claim a port."""
        self.port = claim_port()
        self._parent = parent
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def folder(self) -> Path:
        if self._temporary is None:
            raise RuntimeError("the server has not been started")
        return Path(self._temporary.name)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def command(self) -> Sequence[str | Path]:
        """The command line; the folder is there by now."""
        raise NotImplementedError

    def start(self, timeout: float = 60.0) -> None:
        """Start, and return once the server answers."""
        self._temporary = tempfile.TemporaryDirectory(
            prefix="shutterline-server-", dir=self._parent, ignore_cleanup_errors=True
        )
        wrapper = [setpriv, "--pdeathsig", "KILL"] if (setpriv := shutil.which("setpriv")) else []
        log = self.folder / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*wrapper, *self.command()], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            said = log.read_text(errors="replace")[-2000:]
            if self._process.poll() is not None:
                raise RuntimeError(f"{type(self).__name__} ended with {self._process.returncode}: {said}")
            if time.monotonic() > deadline:
                self.close()
                raise TimeoutError(f"{type(self).__name__} is not ready after {timeout:g} s: {said}")
            time.sleep(0.02)

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()
