"""A server that answers Docker's own client as an engine would, as far as a test says how its containers end."""

from __future__ import annotations

import json
import re
import socketserver
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

Answer = tuple[int, Any]
# From the JSON document that a container was created with to its output and exit code.
Behaviour = Callable[[dict[str, Any]], tuple[str, int]]


class DockerServer:
    """An engine without containers, at a socket of its own."""

    def __init__(self, directory: Path, behaviour: Behaviour = lambda created: ("", 0)) -> None:
        self._socket = directory / "d.sock"
        self.behaviour = behaviour
        self.info: dict[str, Any] = {"Runtimes": {"runc": {}}, "SecurityOptions": ["name=seccomp,profile=default"]}
        self.images: dict[str, str] = {}
        self.answers: dict[tuple[str, str], Answer] = {}
        self.created: list[dict[str, Any]] = []
        self.removed = 0
        self._ended: dict[int, tuple[str, int]] = {}

    @property
    def host(self) -> str:
        """What ``DOCKER_HOST`` says."""
        return f"unix://{self._socket}"

    @property
    def steps(self) -> list[str]:
        """The steps whose containers were created, in order."""
        return [created["Labels"]["shutterline.step"] for created in self.created]

    def __enter__(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                path = re.sub(r"^/v[0-9.]+", "", self.path.split("?")[0])
                status, document = server.answer(self.command, path, body)
                content = document if isinstance(document, bytes) else json.dumps(document).encode()
                with suppress(ConnectionError):  # the client does not wait for what it does not need
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - names of http.server

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = socketserver.ThreadingUnixStreamServer(str(self._socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> Answer:
        if (method, path) in self.answers:
            return self.answers[method, path]
        if path == "/version":
            return 200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}
        if path == "/info":
            return 200, self.info
        if image := re.fullmatch(r"/images/(.+)/json", path):
            found = self.images.get(image[1])
            if not found:
                return 404, {"message": f"No such image: {image[1]}"}
            return 200, {"Id": found, "RepoTags": list(self.images), "RepoDigests": []}
        if path == "/containers/create":
            self.created.append(body)
            return 201, {"Id": str(len(self.created) - 1)}
        if container := re.fullmatch(r"/containers/([0-9]+)/(\w+)", path):
            return self._container(container[2], int(container[1]))
        if method == "DELETE":
            self.removed += 1
            return 204, b""
        return 404, {"message": f"this engine knows no {path}"}

    def _container(self, what: str, number: int) -> Answer:
        if what == "start":
            created = self.created[number]
            self._ended[number] = self.behaviour(created) if created.get("Labels") else ("", 0)
            return 204, b""
        output, exit_code = self._ended.get(number, ("", 0))
        if what == "logs":
            text = output.encode()
            return 200, struct.pack(">BxxxL", 1, len(text)) + text
        if what == "wait":
            return 200, {"StatusCode": exit_code}
        return 200, {"Id": str(number), "Config": {"Tty": False}, "State": {"OOMKilled": "out of memory" in output}}
