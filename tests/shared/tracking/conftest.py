"""MLflow for tests: a store of files, and servers that do not take anything."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server

RUN = "run-1"


@pytest.fixture(autouse=True)
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the events of run-1; of this process's MLflow settings nothing is left afterwards."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", RUN)
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / "events"))
    return tmp_path / "events"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client of a store of files, which the environment names: a server takes eleven seconds to start."""
    uri = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


class _Refuser(BaseHTTPRequestHandler):
    status, headers_sent, body = 503, {"Retry-After": "3600"}, b"busy"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        for name, value in {**self.headers_sent, "Content-Length": str(len(self.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - their names in http.server

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


class _HostRefuser(_Refuser):
    status, headers_sent, body = 403, {}, b"Invalid Host header - possible DNS rebinding attack detected"


@pytest.fixture
def refusing(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of what is no server: dead, silent, busy (503), or strange (refuses the host's name)."""
    kind = request.param
    if kind in ("dead", "silent"):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
            if kind == "silent":
                yield uri
                return
        yield uri
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuser if kind == "busy" else _HostRefuser) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
